"""What a catalog knows of its run, kept equal in memory and in the store: the state file's list, and the records.

`Publishing`, `Undo`, `quarantine`, `Uncommitted` and `Recoverer` change it, each for a reason of its own; all of them
write through it, so none removes anything from a run that another owner has taken over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from ckptd.engine.catalog import records, survey
from ckptd.engine.catalog.commit import OnStep
from ckptd.engine.catalog.fence import Life
from ckptd.engine.catalog.listing import ListedEntry, Listing, Style
from ckptd.engine.catalog.noted import Noted
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.retention import RetentionPolicy, Verdict, Why
from ckptd.engine.catalog.state_file import StateFile
from ckptd.engine.clock import Clock
from ckptd.errors import CkptdError, ConflictError, NotFoundError, UnavailableError
from ckptd.storage.base import Store
from ckptd.storage.keys import join

CONFIRMED_FOR_S = 5.0
"""For so long after the run was confirmed to be ours, something may be added to it without another look."""

_REMOVING = ("drop.", "sweep.", "delete.index", "undelete.aside", "unlist.")
"""How the names of steps begin that remove something: before each of them the owner looks whether it still is one."""

_PUBLISHING = ("commit.index", "publish.state", "fence.")
"""The same for what publishes, or takes a run over: before each of these the owner of a root looks at its term."""

Removal = Callable[[Record, str, Why], AbstractContextManager[None]]
"""Entered when a checkpoint of ours is about to be removed, with the reason, and left when it has been, or has not.
What it raises before keeps the checkpoint."""

Kept = Callable[[Sequence[Verdict]], None]
"""Is told what retention has left in place, and why."""


ConfirmRoot = Callable[[float], None]
"""Makes sure that no other coordinator has the root, unless that was so not longer ago than this; else it raises."""


def confirm_nothing(max_age_s: float) -> None:
    """Pass: nothing but the run itself keeps owners apart."""


def untold_removal(record: Record, reason: str, why: Why) -> AbstractContextManager[None]:
    """Notify nothing."""
    return nullcontext()


def untold_kept(verdicts: Sequence[Verdict]) -> None:
    """Notify nothing."""


class Ledger:
    """The records and the list of one run and one state file. Not thread-safe: it has one owner, its catalog."""

    def __init__(
        self,
        store: Store,
        run: str,
        latest_filename: str,
        on_step: OnStep,
        clock: Clock,
        holder: str,
        life: Life | None = None,
        removal: Removal = untold_removal,
        confirm_root: ConfirmRoot = confirm_nothing,
        kept: Kept = untold_kept,
    ) -> None:
        """Know nothing yet: `Recoverer` reads. `holder` names the owner to processes that are kept out."""
        self.listing = Listing()
        self.style = Style()  # of the state file in place
        self.records: dict[str, Record] = {}
        self.hidden: set[str] = set()  # saves whose checkpoint turned out incomplete or doubtful
        self.incomplete: set[str] = set()  # of these, those that are listed and that no program can load
        self.live: set[str] = set()  # saves that are under way: nothing else may touch what is theirs
        self.waiting: set[str] = set()  # saves whose writers, on other hosts, may come back and go on
        self.is_stale = True  # memory and store may differ: `Recoverer.recover` before anything else
        self.store = store
        self.run = run
        self.clock = clock
        self.removal, self.kept = removal, kept
        self.noted = Noted(store)  # where several owners may write at once
        self._on_step, self._confirm_root = on_step, confirm_root
        self._holder, self._life = holder, life
        self.use(latest_filename)

    def use(self, latest_filename: str) -> None:
        """Take another state file, which `Recoverer` reads."""
        self.latest_filename, self.is_stale = latest_filename, True
        key = join(self.run, latest_filename)
        self.state = StateFile(
            self.store, key, holder=self._holder, clock=self.clock, on_step=self.tell_step, life=self._life
        )

    # Changing nothing that is not ours any more

    def confirm(self, max_age_s: float) -> None:
        """Make sure that the root and the run are ours, unless that was so not longer ago than this.

        Raises:
            ConflictError: when another owner has taken one of them over, or a person has changed the state file: then
                `Recoverer.recover` comes first.
        """
        self._confirm_root(max_age_s)
        if not self.state.confirm(max_age_s):
            self.is_stale = True
            raise ConflictError("the state file was changed by another program", key=self.state.key)

    def on_step(self, step: str) -> None:
        """Do before each durable step what has to be done before it: what removes something makes sure of the run."""
        self.confirm(0.0 if step.startswith(_REMOVING) else CONFIRMED_FOR_S)
        self._on_step(step)

    def tell_step(self, step: str) -> None:
        """Do before a durable step that is conditional by itself what has to be done before it: look at the root."""
        self._confirm_root(0.0 if step.startswith(_PUBLISHING) else CONFIRMED_FOR_S)
        self._on_step(step)

    def confirm_root(self) -> None:
        """Make sure that no other coordinator has the root, before what is no step: sweeps of uploads, other notes."""
        self._confirm_root(0.0)

    def note_begun(self, record: Record) -> None:
        """Note a save that begins, durably; from here on it is under way."""
        try:
            stat = self.store.put(record.key, record.encode())
        except UnavailableError:
            # It may be there, and nobody was told of it. Left alone, the next attempt would have the very same keys.
            try:
                self.store.delete([record.key])
            except CkptdError:
                self.is_stale = True
            raise
        self.records[record.save_id] = record
        self.noted.wrote(record, stat.version)
        self.live.add(record.save_id)

    def note(self, record: Record, **changes: object) -> Record:
        """Note changes in a record of this run, durably; return the record as it is now.

        Raises:
            ConflictError: another owner has taken the run over, and changed the record.
        """
        self.confirm_root()
        self.confirm(CONFIRMED_FOR_S)
        if self.store.has_locks:
            return records.change(self.store, record, **changes)
        changed = replace(record, **changes)  # type: ignore[arg-type]
        try:
            return self.noted.change(changed)
        except (ConflictError, NotFoundError):
            self.confirm(0.0)
        # The run is ours: what came in between is a request of a former owner that hung.
        self.noted.override(record)
        return self.noted.change(changed)

    def note_first(self, record: Record, **changes: object) -> Record:
        """Do as `note`, and remember it; `ConflictError` if another owner has decided about the save before us."""
        self.confirm_root()
        self.confirm(CONFIRMED_FOR_S)
        changed = self.records[record.save_id] = records.change_if_unchanged(self.store, record, **changes)
        self.noted.wrote(changed)
        return changed

    # The state file

    def write_state(self, listing: Listing, style: Style, save_id: str = "") -> None:
        """Let the state file say this list. Durable on return. `save_id` is of the save that it newly names."""
        self.state.write(listing.encode(style, self.store.location), save_id)
        self.listing, self.style = listing, style

    def take_over(self, policy: RetentionPolicy, made_at: float | None) -> float | None:
        """Let a new Saver or manager begin with the list as it is; return the mark that a manager begins with."""
        now = self.clock.wall_s()
        made_at = now if made_at is None else min(made_at, now)
        self.listing, mark = self.listing.taken_over(policy, self.style, now, made_at)
        return mark

    def unlist(self, record: Record) -> None:
        """Let the state file name a checkpoint no longer; if it was the only one, the state file goes. Durable."""
        rest = self.listing.without(record.prefix)
        if rest.entries:
            self.write_state(rest, self.style)
        else:
            self.on_step("unlist.state")
            self.state.delete()
            self.listing, self.style = rest, Style()

    # Memory

    def forget(self, save_id: str) -> None:
        """Forget a save whose record is deleted."""
        self.records.pop(save_id, None)
        self.noted.forget(save_id)

    def published_at(self, location: str) -> Record | None:
        """Return the record of the checkpoint of ours that is at this place now, None if there is none."""
        found = (
            each
            for each in self.records.values()
            if each.published and not each.dropped and self.store.location(each.prefix_key) == location
        )
        return max(found, key=lambda record: record.sequence, default=None)

    def remember(self, record: Record) -> Record:
        """Take a record as it now is in the store into the list as well."""
        self.records[record.save_id] = record
        self.listing = self.listing.updated(record, survey.checkpoint_of(self.store, record))
        return record

    def live_keys(self) -> list[str]:
        """Return the keys of all shards of saves that are under way, here or by writers on other hosts."""
        live = (record for save_id, record in self.records.items() if save_id in self.live | self.waiting)
        return [key for record in live for key in record.shard_keys]

    def is_pinned(self, prefix: str) -> bool:
        """Say whether the checkpoint that is in place under this prefix is pinned."""
        attempts = (each for each in self.records.values() if each.prefix == prefix and each.published)
        return any(each.pinned and not each.dropped for each in attempts)

    def last_policy(self) -> RetentionPolicy:
        """Return the rule that the newest save was begun with; the default for a run without saves."""
        ours = [each for each in self.records.values() if each.latest_filename == self.latest_filename]
        return max(ours, key=lambda record: record.sequence).policy if ours else RetentionPolicy()

    def entry(self, record: Record) -> ListedEntry:
        """Return what the list holds for a save of ours."""
        checkpoint = survey.checkpoint_of(self.store, record)
        return ListedEntry(record.prefix, record.prefix_key, checkpoint, record, at=record.saved_at)

    def unlisted(self, leaving: Collection[str]) -> list[ListedEntry]:
        """Return the checkpoints that the state file does not list, and that are kept for good, oldest first.

        `leaving` are the locations of those that retention takes off the list; see `Publishing`.
        """
        listed = self.listed()
        kept = [
            record
            for record in self.records.values()
            if record.published
            and not record.dropped
            and not record.quarantine
            and record.prefix_key not in listed
            and record.latest_filename == self.latest_filename
            and record.save_id not in self.hidden
            and self.store.location(record.prefix_key) not in leaving
        ]
        return [self.entry(record) for record in sorted(kept, key=lambda record: record.sequence)]

    def listed(self) -> set[str]:
        """Return the keys of all listed prefixes that are in this store."""
        return {entry.prefix_key for entry in self.listing.entries if entry.prefix_key is not None}
