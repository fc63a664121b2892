"""What a catalog knows of its run, kept equal in memory and in the store: the state file's list, and the records.

The order of notes is what makes a crash harmless. A save that the state file names is noted as published last, after
everything that follows from it for others was done or noted. So a start that finds a listed save that is not noted as
published knows that retention was interrupted, and by which save, and may finish it; see `recovery`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace

from ckptd.engine.catalog import deleting, records, recovery, reserve, survey
from ckptd.engine.catalog.commit import OnStep, SeenState
from ckptd.engine.catalog.fence import Life, unsigned
from ckptd.engine.catalog.listing import ListedEntry, Listing, Style
from ckptd.engine.catalog.read_list import list_of, read_list
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.recovery import Fate, Recovery, RecoveryOutcome, SaveFacts
from ckptd.engine.catalog.rest import RestNote
from ckptd.engine.catalog.retention import Action, RetentionPolicy, Rule, Verdict
from ckptd.engine.catalog.state_file import StateFile
from ckptd.engine.clock import Clock
from ckptd.errors import CkptdError, ConflictError, NotFoundError, StorageFullError
from ckptd.format.crc32c import crc32c
from ckptd.storage.base import Store
from ckptd.storage.keys import join

_log = logging.getLogger(__name__)

CONFIRMED_FOR_S = 5.0
"""For so long after the run was confirmed to be ours, something may be added to it without another look."""

_REMOVING = ("drop.", "sweep.", "delete.index", "undelete.aside", "unlist.")
"""How the names of steps begin that remove something: before each of them the owner looks whether it still is one."""

_LOOK_AGAIN_S = 30.0  # at what could not be deleted yet


@dataclass(frozen=True, slots=True)
class _Publication:
    """A save that the state file names, and what that means for others: not yet noted in the records."""

    record: Record
    verdicts: tuple[Verdict, ...]


class Ledger:
    """The records and the list of one run and one state file. Not thread-safe: it has one owner, its catalog."""

    def __init__(
        self,
        store: Store,
        run: str,
        latest_filename: str,
        on_step: OnStep,
        clock: Clock,
        undo_s: float,
        holder: str,
        life: Life | None = None,
    ) -> None:
        """Know nothing yet: `recover` reads. `holder` names the owner to processes that are kept out."""
        self.listing = Listing()
        self.style = Style()  # of the state file in place
        self.records: dict[str, Record] = {}
        self.hidden: set[str] = set()  # saves whose checkpoint turned out incomplete or doubtful
        self.live: set[str] = set()  # saves that are under way: nothing else may touch what is theirs
        self.is_stale = True  # memory and store may differ: `recover` before anything else
        self.unfinished: StorageFullError | None = None  # why `recover` could not note all that it found
        self._unswept: list[Record] = []  # never committed, but a former owner might still do so
        self._former: set[str] | None = None  # saves that former owners began and did not commit; None: not yet known
        self._swept_counts: dict[str, set[int]] = {}  # of those that were swept, by prefix: the number of shards
        self._store = store
        self._run = run
        self._tell_step = on_step
        self._clock = clock
        self._undo_s = undo_s
        self._holder, self._life = holder, life
        self.use(latest_filename)
        self._pending: list[_Publication] = []

    def use(self, latest_filename: str) -> None:
        """Take another state file, which `recover` reads."""
        self.latest_filename, self.is_stale = latest_filename, True
        key = join(self._run, latest_filename)
        self.state = StateFile(
            self._store, key, holder=self._holder, clock=self._clock, on_step=self._tell_step, life=self._life
        )

    # Changing nothing that is not ours any more

    def confirm(self, max_age_s: float) -> None:
        """Make sure that the run is ours, unless that was so not longer ago than this.

        Raises:
            ConflictError: when another owner has taken it over, or a person has changed the state file: then `recover`
                comes first.
        """
        if not self.state.confirm(max_age_s):
            self.is_stale = True
            raise ConflictError("the state file was changed by another program", key=self.state.key)

    def _on_step(self, step: str) -> None:
        """Do before each durable step what has to be done before it: what removes something makes sure of the run."""
        self.confirm(0.0 if step.startswith(_REMOVING) else CONFIRMED_FOR_S)
        self._tell_step(step)

    def note(self, record: Record, **changes: object) -> Record:
        """Note changes in a record of this run, durably; return the record as it is now."""
        self.confirm(CONFIRMED_FOR_S)
        return records.change(self._store, record, **changes)

    # Publishing, and what follows from it

    def publish(
        self, record: Record, listing: Listing, policy: RetentionPolicy, mark: float, relative_paths: bool
    ) -> float:
        """Let the state file name a committed save; what follows for others is pending until `settle`.

        `listing` has the save in it already, `record` says that it is published. Returns the retention rule's mark.
        """
        horizon = sure_to_go(policy, mark)
        if record.next_keep_at > horizon:
            # The rule has changed since the save began: what recovery may delete in its name must be less.
            self._on_step("publish.horizon")
            record = replace(record, next_keep_at=horizon)
            self.note(record, published=False)
        staying, decision = listing.reduced(policy, mark)
        preserved = decision.mark if policy.rule is Rule.MANAGER else None
        self._write_state(staying, Style(policy.rule, relative_paths, preserved), record.save_id)
        self.records[record.save_id] = record
        self._pending.append(_Publication(record, decision.verdicts))
        return decision.mark

    def _write_state(self, listing: Listing, style: Style, save_id: str = "") -> None:
        self.state.write(listing.encode(style, self._store.location), save_id)
        self.listing, self.style = listing, style

    def keep_unlisted(self, record: Record) -> Record:
        """Take up a committed save that no state file is to name; pending until `settle`. Nothing is written."""
        record = replace(record, preserved=record.prefix_key not in self.listed())
        self.remember(record)
        self._pending.append(_Publication(record, ()))
        return record

    def take_over(self, policy: RetentionPolicy, made_at: float | None) -> float | None:
        """Let a new Saver or manager begin with the list as it is; return the mark that a manager begins with."""
        now = self._clock.wall_s()
        made_at = now if made_at is None else min(made_at, now)
        self.listing, mark = self.listing.taken_over(policy, self.style, now, made_at)
        return mark

    def unlist(self, record: Record) -> None:
        """Let the state file name a checkpoint no longer; if it was the only one, the state file goes. Durable."""
        rest = self.listing.without(record.prefix)
        if rest.entries:
            self._write_state(rest, self.style)
        else:
            self._on_step("unlist.state")
            self.state.delete()
            self.listing, self.style = rest, Style()

    def quarantined(self) -> list[Record]:
        """Return the saves that are in quarantine, in the order in which they began."""
        found = (each for each in self.records.values() if each.quarantine and each.published and not each.dropped)
        return sorted(found, key=lambda record: record.sequence)

    def put_in_quarantine(self, record: Record, reason: str, by: str) -> None:
        """Mark a checkpoint as damaged, durably, and let the state file name the newest that is whole.

        If no other is listed here, the state file stays as it is: a history must not become empty.
        """
        at = self._clock.wall_s()
        self._on_step("quarantine.record")
        marked = self.note(record, quarantine=reason, quarantined_at=at, quarantined_by=by)
        self.records[marked.save_id] = marked
        # Crash here: marked, and still named by the state file: `recovery` does what follows.
        self._leave_quarantined_out(self.listing.without(marked.prefix))

    def _leave_quarantined_out(self, rest: Listing) -> None:
        if rest.here:
            self._on_step("quarantine.state")
            self._write_state(rest, self.style)
        else:
            self.listing = rest

    def end_quarantine(self, record: Record, policy: RetentionPolicy) -> Record:
        """Take the mark back, durably: list it again where it was, if there is room, else keep it for good."""
        back = replace(record, quarantine="", quarantined_at=None, quarantined_by="", verified_at=self._clock.wall_s())
        if not back.preserved and self.listing.has_room(policy):
            self.remember(self.note(back))
            # Crash here: whole, not listed: `recovery` keeps it for good.
            self._write_state(self.listing.with_adopted(self.entry(back)), self.style)
        else:
            back = self.remember(self.note(replace(back, preserved=True)))
        return back

    # Deleting in a way that can be undone

    def is_undoable(self, record: Record) -> bool:
        """Say whether its owner deleted it so lately that it may come back."""
        return record.deleted_at is not None and self._clock.wall_s() < record.deleted_at + self._undo_s

    def next_sweep_at(self) -> float | None:
        """Return when to sweep next: when the time to undo a deletion is over, or to look again whether one is read.

        None when nothing waits to be deleted.
        """
        waiting = [each.deleted_at for each in self.records.values() if each.dropped and each.published]
        again = self._clock.wall_s() + _LOOK_AGAIN_S
        return min((again if at is None else at + self._undo_s for at in waiting), default=None)

    def set_aside(self, record: Record) -> None:
        """Take a checkpoint that the state file no longer names out of sight. Safe to repeat."""
        deleting.set_aside(self._store, record, on_step=self._on_step)

    def bring_back(self, record: Record, policy: RetentionPolicy) -> Record:
        """Undo `set_aside`, durably: list it again where it was, if there is room, else keep it for good."""
        deleting.bring_back(self._store, record, on_step=self._on_step)
        back = replace(record, dropped=False, deleted_at=None)
        if not back.preserved and self.listing.has_room(policy):
            # Crash here: as it was deleted, and the index in place: `recovery` sets it aside again.
            self._write_state(self.listing.with_adopted(self.entry(back)), self.style)
        else:
            back = replace(back, preserved=True)
        # Crash here: listed, and marked as deleted: `recovery` takes the mark back.
        self._on_step("undelete.record")
        self.remember(self.note(back))
        self._drop_aside(record)
        return back

    def _drop_aside(self, record: Record) -> None:
        # Crash here: a copy that is not needed: `recovery` removes it.
        self._on_step("undelete.aside")
        self._store.delete([record.aside_key])

    def settle(self, in_use: Collection[str] | None) -> list[Verdict]:
        """Do or note what the last publications meant for others, and then note the published saves themselves.

        With `in_use` what is no longer kept is deleted at once, unless a reader is at it; with None it is only marked.
        Safe to repeat after an error. Returns a verdict for each checkpoint that left the list.
        """
        verdicts: list[Verdict] = []
        while self._pending:
            publication = self._pending[0]
            record = self._settle_others(publication, in_use, verdicts)
            # Crash here: listed, and not noted as published: `recovery` repeats what is above.
            self._on_step("settle.published")
            self.remember(self.note(record))
            del self._pending[0]
        return verdicts

    def _settle_others(
        self, publication: _Publication, in_use: Collection[str] | None, verdicts: list[Verdict]
    ) -> Record:
        record = publication.record
        leaving = [verdict for verdict in publication.verdicts if verdict.action is not Action.KEEP]
        for verdict in leaving:
            mine = self._published_at(verdict.prefix)
            if mine is None:
                reason = "it left the list, but is not ours to delete"
                verdicts.append(replace(verdict, action=Action.PRESERVE, reason=reason))
            elif mine.save_id == record.save_id:
                record = replace(
                    record, dropped=verdict.action is Action.DROP, preserved=verdict.action is Action.PRESERVE
                )
            elif verdict.action is Action.PRESERVE:
                self._on_step("settle.preserved")
                self.remember(self.note(mine, preserved=True))
                verdicts.append(verdict)
            else:
                if mine.saved_at > record.next_keep_at:
                    mine = self._mark_dropped(mine)  # recovery would not dare to delete it without
                verdicts.append(self.let_go(mine, verdict.reason, in_use))
        for other in list(self.records.values()):
            if other.prefix == record.prefix and other.sequence < record.sequence and other.published:
                verdicts.append(self.let_go(other, f"save {record.save_id} replaced it", in_use))
                left = self.records.get(other.save_id)
                if left is not None and left.deleted_at is not None:
                    # It is being read, and goes later. Saving the step again has given up the undo all the same.
                    self.remember(self.note(left, deleted_at=None))
        return record

    def let_go(self, record: Record, reason: str, in_use: Collection[str] | None) -> Verdict:
        """Delete a checkpoint that left the list; if it is being read or cannot be deleted, mark it for later.

        Deleting comes first because it needs no room, and marking does.
        """
        prefix = self._store.location(record.prefix_key)
        later = "it goes at a later save"
        if in_use is not None and prefix in in_use:
            later = "it is being read; it goes at a later save"
        elif in_use is not None:
            try:
                self.drop(record)
            except deleting.BeingReadError:
                if not record.dropped:  # else it was told when its turn came
                    _log.info("%s is being read: it is deleted when that has ended", prefix)
                later = "it is being read; it goes at a later save"
            except CkptdError as error:
                if self.state.is_fenced:
                    raise
                _log.warning("%s could not be deleted: %s", prefix, error)
                later = f"it could not be deleted: {error}"
            else:
                return Verdict(prefix, Action.DROP, reason)
        self._mark_dropped(record)
        return Verdict(prefix, Action.KEEP, later)

    def _mark_dropped(self, record: Record) -> Record:
        if record.dropped:
            return record
        self._on_step("settle.dropped")
        return self.remember(self.note(record, dropped=True))

    def drop(self, record: Record, *, is_unread: bool = False) -> None:
        """Delete what is left of a checkpoint that the state file no longer names, and forget it; see `prune.drop`."""
        others = [
            each
            for each in self.records.values()
            if each.prefix == record.prefix and each.sequence > record.sequence and not each.dropped
        ]
        deleting.drop(self._store, record, others=others, on_step=self._on_step, is_unread=is_unread)
        self.records.pop(record.save_id, None)
        reserve.keep(self._store, self._run)

    def _published_at(self, location: str) -> Record | None:
        found = (
            each
            for each in self.records.values()
            if each.published and not each.dropped and self._store.location(each.prefix_key) == location
        )
        return max(found, key=lambda record: record.sequence, default=None)

    # Memory

    def remember(self, record: Record) -> Record:
        """Take a record as it now is in the store into the list as well."""
        self.records[record.save_id] = record
        self.listing = self.listing.updated(record, survey.checkpoint_of(self._store, record))
        return record

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
        checkpoint = survey.checkpoint_of(self._store, record)
        return ListedEntry(record.prefix, record.prefix_key, checkpoint, record, at=record.saved_at)

    def unlisted(self) -> list[ListedEntry]:
        """Return the checkpoints that the state file does not list, and that are kept for good, oldest first."""
        listed = self.listed()
        leaving = {
            verdict.prefix
            for publication in self._pending
            for verdict in publication.verdicts
            if verdict.action is Action.DROP
        }
        kept = [
            record
            for record in self.records.values()
            if record.published
            and not record.dropped
            and not record.quarantine
            and record.prefix_key not in listed
            and record.latest_filename == self.latest_filename
            and record.save_id not in self.hidden
            and self._store.location(record.prefix_key) not in leaving
        ]
        return [self.entry(record) for record in sorted(kept, key=lambda record: record.sequence)]

    def listed(self) -> set[str]:
        """Return the keys of all listed prefixes that lie in this store."""
        return {entry.prefix_key for entry in self.listing.entries if entry.prefix_key is not None}

    # Recovery

    def recover(self, in_use: Collection[str] | None) -> Recovery:
        """Read the run anew and finish what was interrupted; living saves are left alone.

        `in_use` as for `settle`: with None nothing that may have readers is deleted, only marked. What a full disk does
        not let it note stays `unfinished`: the run can be read, and checkpoints removed; the next call tries again.
        """
        self.is_stale = True  # until this has come to its end
        self.unfinished = None
        self._pending = []
        store = self._store
        state = self.state.read()  # in a store without locks nothing else can publish from here on
        loaded = records.load(store, self._run)
        self.records = {record.save_id: record for record in loaded.found}
        if self._former is None:
            self._former = {record.save_id for record in loaded.found if not record.published}
        self.hidden = set()
        outcomes = [
            RecoveryOutcome(store.location(error.key or ""), Fate.LEAVE, error.reason) for error in loaded.unreadable
        ]
        read = read_list(store, self._run, self.state.key, state, loaded.found)
        self.listing, self.style, listed = read.listing, read.style, read.prefixes
        for prefix, problem in read.problems.items():
            outcomes.append(RecoveryOutcome(store.location(prefix), Fate.LEAVE, f"listed, but not complete: {problem}"))
        self.hidden.update(record.save_id for record in loaded.found if record.prefix_key in read.problems)
        if any(each.quarantine and each.prefix_key in listed for each in loaded.found) and self.listing.here:
            self._leave_quarantined_out(self.listing)
        ours = [
            record
            for record in loaded.found
            if record.latest_filename == self.latest_filename and record.save_id not in self.live
        ]
        gathered = recovery.gather(store, ours, listed, self.is_undoable)
        judged = [(facts, *recovery.judge(facts)) for facts in gathered]
        judged.sort(key=lambda each: (_ORDER.index(each[1]), each[0].record.sequence))
        self._unswept = []
        for number, (facts, fate, _) in enumerate(judged):
            if fate is Fate.SWEEP and (doubt := self._why_not_swept(facts.record)):
                judged[number] = (facts, Fate.LEAVE, doubt)
                self._unswept.append(facts.record)
        given_up = [key for facts, fate, _ in judged if fate is Fate.SWEEP for key in facts.record.shard_keys]
        swept = [
            *store.sweep_unfinished(self._run, given_up=given_up),
            *store.sweep_unfinished(join(self._run, records.DIRECTORY)),
        ]
        if store.has_locks:  # elsewhere small objects are never unfinished, and each look is a request
            swept += store.sweep_unfinished(join(self._run, records.ASIDE_DIRECTORY))
        for facts, fate, reason in judged:
            try:
                if fate is Fate.ADOPT:
                    self.settle(in_use)  # room first, and the earlier listed first
                outcome = self.carry_out(facts, fate, reason, in_use)
            except StorageFullError as error:
                outcome = self._postpone(facts.record, error)
            if fate is not Fate.NOTHING:
                outcomes.append(outcome)
        aside = {stat.key for stat in store.list(join(self._run, records.ASIDE_DIRECTORY), deep=False)}
        for record in self.records.values():
            if record.deleted_at is None and record.aside_key in aside:
                self._drop_aside(record)
        try:
            for verdict in self.settle(in_use):
                if verdict.action is Action.KEEP:
                    outcomes.append(RecoveryOutcome(verdict.prefix, Fate.LEAVE, verdict.reason))
        except StorageFullError as error:
            outcomes.append(self._postpone(self._pending[0].record, error))
        self.is_stale = self.unfinished is not None
        way_out = f"`ckptd repair {store.location(self._run) if self._run else store.url}` puts it aside"
        problems = tuple(f"{error}; {way_out}" for error in loaded.unreadable)
        return Recovery(tuple(outcomes), tuple(swept), problems, tuple(read.passed_by))

    def _postpone(self, record: Record, error: StorageFullError) -> RecoveryOutcome:
        subject = self._store.location(record.prefix_key)
        _log.warning("%s: what a crash interrupted cannot be finished now: %s", subject, error)
        self.unfinished = self.unfinished or error
        return RecoveryOutcome(subject, Fate.LEAVE, f"to be finished once there is room: {error.reason}")

    def rest_note(self, epoch: int) -> RestNote | None:
        """Return what to note of the run when it is at rest, None while anything is left to be done or in doubt."""
        state, ours = self.state.data, self.records.values()
        if self.is_stale or self.unfinished or self._pending or self.live or self.hidden or self._unswept or not state:
            return None
        if not all(
            each.published
            and not (each.dropped or each.quarantine)
            and each.deleted_at is None
            and each.latest_filename == self.latest_filename
            for each in ours
        ):
            return None
        read = list_of(self._store, self._run, self.state.key, state, ours)
        if read is None or [each.path for each in read.listing.entries] != [each.path for each in self.listing.entries]:
            return None
        return RestNote({}, self.state.key, state, epoch, tuple(ours))

    def resume(self, note: RestNote) -> bool:
        """Take over a run that is at rest as `note` says; False when it turns out to be otherwise: then `recover`."""
        self.is_stale = True
        if note.state_key != self.state.key:
            return False
        state = self.state.read(SeenState(note.state, note.versions[note.state_key]))
        read = list_of(self._store, self._run, self.state.key, note.state, note.records)
        if read is None or state is None or unsigned(state) != unsigned(note.state):
            return False
        self.records = {record.save_id: record for record in note.records}
        self.listing, self.style = read.listing, read.style
        self.hidden, self._pending, self._unswept = set(), [], []
        self._former = self._former or set()
        self.is_stale, self.unfinished = False, None
        return True

    def can_sweep_more(self) -> bool:
        """Say whether some save that was never committed, and was not swept, may be by now."""
        return any(not self._why_not_swept(record) for record in self._unswept)

    def _why_not_swept(self, record: Record) -> str:
        """Say how a save that was never committed still could be, by a former owner that wakes up; "" if it can't.

        Its shards must stay then: an index that refers to them may come.
        """
        if self._store.has_locks:
            return ""
        if not self.state.keeps_others_out:
            return "it was never committed, and is swept once a state file keeps others out"
        if record.index_version is not None:
            with suppress(NotFoundError):
                if self._store.stat(record.index_key).version == record.index_version:
                    return "it was to replace the checkpoint in place, and is swept once that has changed"
        return ""

    def carry_out(self, facts: SaveFacts, fate: Fate, reason: str, in_use: Collection[str] | None) -> RecoveryOutcome:
        """Do to one save what `recovery.judge` decided."""
        record, store = facts.record, self._store
        subject = store.location(record.prefix_key)
        match fate:
            case Fate.RESTORE:
                self.remember(self.note(record, dropped=False, deleted_at=None))
            case Fate.PRESERVE:
                self.remember(self.note(record, preserved=True))
            case Fate.DROP:
                verdict = self.let_go(record, reason, in_use)
                if verdict.action is Action.KEEP and in_use is not None:
                    fate, reason = Fate.LEAVE, verdict.reason
            case Fate.SET_ASIDE:
                self.set_aside(record)
            case Fate.CONFIRM:
                confirmed = self._as_found(record)
                if not record.write_state:
                    confirmed = replace(confirmed, preserved=not facts.is_listed)
                self.remember(confirmed)
                self._pending.append(_Publication(confirmed, ()))
            case Fate.ADOPT:
                self._on_step("recover.adopt")
                adopted = self._as_found(record)
                # The trainer that began it said how; the next one may say something else, later.
                mark = self.style.preserved if record.policy.rule is Rule.MANAGER else record.next_keep_at
                listing = self.listing
                if not record.max_to_keep and record.policy.rule is Rule.SAVER:
                    listing = listing.with_latest_forgotten()
                listing = listing.with_adopted(self.entry(adopted))
                mark = adopted.saved_at - 1 if mark is None else mark
                self.publish(adopted, listing, record.policy, mark, record.relative_paths)
            case Fate.SWEEP:
                try:
                    self._sweep(record)
                except CkptdError as error:
                    if self.state.is_fenced:
                        raise
                    _log.warning("%s could not be swept: %s", subject, error)
                    fate, reason = Fate.LEAVE, f"it could not be swept: {error}"
            case Fate.LEAVE:
                self.hidden.add(record.save_id)
            case Fate.NOTHING:
                pass
        return RecoveryOutcome(subject, fate, reason)

    def _sweep(self, record: Record) -> None:
        others = [
            other
            for other in self.records.values()
            if other.prefix == record.prefix and other.save_id != record.save_id
        ]
        deleting.sweep(self._store, record, others=others, on_step=self._on_step)
        self.records.pop(record.save_id, None)
        if not self._store.has_locks and record.save_id in (self._former or ()):
            self._swept_counts.setdefault(record.prefix_key, set()).add(record.num_shards)

    def used_counts(self, prefix_key: str) -> set[int]:
        """Return the numbers of shards that no new attempt at a checkpoint may have: their keys belong to others.

        In a store without locks that includes those of a former owner's attempt that was swept: its owner may wake up
        and delete them once more, by a request that is on its way.
        """
        ours = {record.num_shards for record in self.records.values() if record.prefix_key == prefix_key}
        return ours | self._swept_counts.get(prefix_key, set())

    def sweep_uploads_of(self, record: Record) -> None:
        """Abort what uploads of a save of ours are left that will not be committed."""
        self.confirm(0.0)
        self._store.sweep_unfinished(self._run, given_up=record.shard_keys)

    def _as_found(self, record: Record) -> Record:
        """Return the record as published, with what the index in place tells: its time, and its checksum."""
        saved_at = self._store.stat(record.index_key).modified_at
        checksum = crc32c(self._store.get(record.index_key))
        return replace(record, published=True, saved_at=saved_at, index_crc32c=checksum)


def sure_to_go(policy: RetentionPolicy, mark: float) -> float:
    """Return up to which time of saving a checkpoint that leaves the list is sure to be deleted, by wall clock.

    A manager keeps old ones and new ones for good, and deletes those between: nothing is sure without a mark on each.
    """
    if not policy.max_to_keep or policy.rule is Rule.MANAGER:
        return 0.0
    return min(mark, sys.float_info.max)


# What leaves is dealt with before what came is noted: until then a crash is known to have interrupted it.
_ORDER = [
    Fate.NOTHING,
    Fate.LEAVE,
    Fate.RESTORE,
    Fate.PRESERVE,
    Fate.DROP,
    Fate.SET_ASIDE,
    Fate.SWEEP,
    Fate.CONFIRM,
    Fate.ADOPT,
]
