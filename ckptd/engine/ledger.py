"""What a catalog knows of its run, kept equal in memory and in the store: the state file's list, and the records.

The order of notes is what makes a crash harmless. A save that the state file names is noted as published last, after
everything that follows from it for others was done or noted. So whoever finds a listed save that is not noted as
published knows that retention was interrupted, and by which save, and may finish it; see `recovery`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace

from ckptd.engine import commit as durable
from ckptd.engine import prune, records, recovery, survey
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.commit import OnStep, SeenState
from ckptd.engine.listing import Entry, Listing
from ckptd.engine.records import Record
from ckptd.engine.recovery import Facts, Fate, Outcome, Recovery
from ckptd.engine.retention import Action, RetentionPolicy, Verdict
from ckptd.errors import CkptdError, NotFoundError
from ckptd.format import names
from ckptd.format.crc32c import crc32c
from ckptd.storage.base import Store
from ckptd.storage.keys import join

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Publication:
    """A save that the state file names, and what that means for others: not yet noted in the records."""

    record: Record
    verdicts: tuple[Verdict, ...]


class Ledger:
    """The records and the list of one run and one state file. Not thread-safe: it has one owner, its catalog."""

    def __init__(self, store: Store, run: str, latest_filename: str, on_step: OnStep) -> None:
        """Know nothing yet: `recover` reads."""
        self.latest_filename = latest_filename
        self.listing = Listing()
        self.records: dict[str, Record] = {}
        self.hidden: set[str] = set()  # saves whose checkpoint turned out incomplete or doubtful
        self.live: set[str] = set()  # saves that are under way: nobody else may touch what is theirs
        self.is_stale = True  # memory and store may differ: `recover` before anything else
        self._store = store
        self._run = run
        self._on_step = on_step
        self._seen = SeenState()
        self._pending: list[_Publication] = []

    @property
    def state_key(self) -> str:
        """Where the state file lies."""
        return join(self._run, self.latest_filename)

    # Publishing, and what follows from it

    def publish(
        self, record: Record, listing: Listing, policy: RetentionPolicy, next_keep_at: float, in_use: Collection[str]
    ) -> float:
        """Let the state file name a committed save; what follows for others is pending until `settle`.

        `listing` has the save in it already, `record` says that it is published. Returns the retention rule's clock.
        """
        horizon = sure_to_go(policy, next_keep_at)
        if record.next_keep_at > horizon:
            # The rule has changed since the save began: what recovery may delete in its name must be less.
            self._on_step("publish.horizon")
            record = replace(record, next_keep_at=horizon)
            records.change(self._store, record, published=False)
        staying, decision = listing.reduced(policy, next_keep_at, in_use)
        self._seen = durable.publish(self._store, self.state_key, staying.encode(), self._seen, self._on_step)
        self.listing = staying
        self.records[record.save_id] = record
        self._pending.append(_Publication(record, decision.verdicts))
        return decision.next_keep_at

    def unlist(self, record: Record) -> None:
        """Let the state file name a checkpoint no longer; if it was the only one, the state file goes. Durable."""
        rest = self.listing.without(record.prefix)
        if rest.entries:
            self._seen = durable.publish(self._store, self.state_key, rest.encode(), self._seen, self._on_step)
        else:
            self._on_step("unlist.state")
            self._store.delete([self.state_key])
            self._seen = SeenState()
        self.listing = rest

    def settle(self, in_use: Collection[str] | None) -> list[Verdict]:
        """Do or note what the last publications meant for others, and then note the published saves themselves.

        With `in_use` what was let go is deleted at once, unless a reader is at it; with None it is only marked.
        Safe to repeat after an error. Returns a verdict for everyone who left the list.
        """
        verdicts: list[Verdict] = []
        while self._pending:
            publication = self._pending[0]
            record = self._settle_others(publication, in_use, verdicts)
            # Crash here: listed, and not noted as published: `recovery` repeats what is above.
            self._on_step("settle.published")
            self.remember(records.change(self._store, record))
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
                self.remember(records.change(self._store, mine, preserved=True))
                verdicts.append(verdict)
            else:
                # What recovery would not dare to delete without a mark must have one first.
                is_plain = mine.saved_at <= record.next_keep_at
                verdicts.append(self.let_go(mine, verdict.reason, in_use if is_plain else None))
        for other in list(self.records.values()):
            if other.prefix == record.prefix and other.sequence < record.sequence and other.published:
                verdicts.append(self.let_go(other, f"save {record.save_id} replaced it", in_use))
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
            except CkptdError as error:
                _log.warning("%s could not be deleted: %s", prefix, error)
                later = f"it could not be deleted: {error}"
            else:
                return Verdict(prefix, Action.DROP, reason)
        if not record.dropped:
            self._on_step("settle.dropped")
            self.remember(records.change(self._store, record, dropped=True))
        return Verdict(prefix, Action.KEEP, later)

    def drop(self, record: Record) -> None:
        """Delete what is left of a checkpoint that the state file no longer names, and forget it."""
        successors = [
            each
            for each in self.records.values()
            if each.prefix == record.prefix and each.sequence > record.sequence and each.published and not each.dropped
        ]
        prune.drop(self._store, record, successor=successors[-1] if successors else None, on_step=self._on_step)
        self.records.pop(record.save_id, None)

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
        self.listing = Listing(
            tuple(
                self.entry(record) if entry.record is not None and entry.record.save_id == record.save_id else entry
                for entry in self.listing.entries
            )
        )
        return record

    def entry(self, record: Record) -> Entry:
        """Return what the list holds for a save of ours."""
        return Entry(record.prefix, record.prefix_key, survey.checkpoint_of(self._store, record), record)

    def listed(self) -> set[str]:
        """Return the keys of all listed prefixes that lie in this store."""
        return {entry.prefix_key for entry in self.listing.entries if entry.prefix_key is not None}

    # Recovery

    def recover(self, policy: RetentionPolicy, next_keep_at: float, in_use: Collection[str] | None) -> Recovery:
        """Read the run anew and finish what was interrupted; living saves are left alone.

        `in_use` as for `settle`: with None nothing that may have readers is deleted, only marked.
        """
        self.is_stale = True  # until this has come to its end
        self._pending = []
        store = self._store
        swept = [*store.sweep_unfinished(self._run), *store.sweep_unfinished(join(self._run, records.DIRECTORY))]
        loaded = records.load(store, self._run)
        self.records = {record.save_id: record for record in loaded.found}
        self.hidden = set()
        outcomes = [Outcome(store.location(error.key or ""), Fate.LEAVE, error.reason) for error in loaded.unreadable]
        listed = self._load_listing(outcomes)
        ours = [
            record
            for record in loaded.found
            if record.latest_filename == self.latest_filename and record.save_id not in self.live
        ]
        judged = [(facts, *recovery.judge(facts)) for facts in recovery.gather(store, ours, listed)]
        judged.sort(key=lambda each: (_ORDER.index(each[1]), each[0].record.sequence))
        for facts, fate, reason in judged:
            if fate is Fate.ADOPT:
                self.settle(in_use)  # room first, and who was listed before comes before
            outcome = self.carry_out(facts, fate, reason, policy, next_keep_at, in_use)
            if fate is not Fate.NOTHING:
                outcomes.append(outcome)
        self.is_stale = False
        for verdict in self.settle(in_use):
            if verdict.action is Action.KEEP:
                outcomes.append(Outcome(verdict.prefix, Fate.LEAVE, verdict.reason))
        return Recovery(tuple(outcomes), tuple(swept))

    def carry_out(
        self,
        facts: Facts,
        fate: Fate,
        reason: str,
        policy: RetentionPolicy,
        next_keep_at: float,
        in_use: Collection[str] | None,
    ) -> Outcome:
        """Do to one save what `recovery.judge` decided."""
        record, store = facts.record, self._store
        subject = store.location(record.prefix_key)
        match fate:
            case Fate.RESTORE:
                self.remember(records.change(store, record, dropped=False))
            case Fate.PRESERVE:
                self.remember(records.change(store, record, preserved=True))
            case Fate.DROP:
                verdict = self.let_go(record, reason, in_use)
                if verdict.action is Action.KEEP and in_use is not None:
                    fate, reason = Fate.LEAVE, verdict.reason
            case Fate.CONFIRM:
                confirmed = self._as_found(record)
                self.remember(confirmed)
                self._pending.append(_Publication(confirmed, ()))
            case Fate.ADOPT:
                self._on_step("recover.adopt")
                adopted = self._as_found(record)
                self.publish(adopted, self.listing.with_adopted(self.entry(adopted)), policy, next_keep_at, ())
            case Fate.SWEEP:
                try:
                    self._sweep(record)
                except CkptdError as error:
                    _log.warning("%s could not be swept: %s", subject, error)
                    fate, reason = Fate.LEAVE, f"it could not be swept: {error}"
            case Fate.LEAVE:
                self.hidden.add(record.save_id)
            case Fate.NOTHING:
                pass
        return Outcome(subject, fate, reason)

    def _sweep(self, record: Record) -> None:
        others = [
            other
            for other in self.records.values()
            if other.prefix == record.prefix and other.save_id != record.save_id
        ]
        prune.sweep(self._store, record, others=others, on_step=self._on_step)
        self.records.pop(record.save_id, None)

    def _as_found(self, record: Record) -> Record:
        """Return the record as published, with what the index in place tells: its time, and its checksum."""
        saved_at = self._store.stat(record.index_key).modified_at
        checksum = crc32c(self._store.get(record.index_key))
        return replace(record, published=True, saved_at=saved_at, index_crc32c=checksum)

    def _load_listing(self, outcomes: list[Outcome]) -> set[str]:
        """Read the state file's list; return the keys of all prefixes in it, also of those that are not complete."""
        store = self._store
        self.listing = Listing()
        self._seen = durable.look(store, self.state_key)
        listed: set[str] = set()
        if self._seen.data is None:
            return listed
        by_prefix: dict[str, list[Record]] = {}
        for record in self.records.values():
            by_prefix.setdefault(record.prefix_key, []).append(record)
        for path in survey.listed_paths(self._seen.data, self.state_key):
            prefix = survey.resolve(store, self._run, path)
            if prefix is None:
                elsewhere = Checkpoint(path, names.step_of(path), 0, 0, 0.0, durability=store.durability)
                self.listing = self.listing.with_newest(Entry(path, None, elsewhere, None))
                continue
            listed.add(prefix)
            attempts = by_prefix.get(prefix, [])
            try:
                checkpoint, problem = survey.describe(store, store.stat(names.index_key(prefix)), attempts)
            except NotFoundError:
                checkpoint, problem = None, "its index is missing"
            if checkpoint is None or problem is not None:
                outcomes.append(Outcome(store.location(prefix), Fate.LEAVE, f"listed, but not complete: {problem}"))
                self.hidden.update(record.save_id for record in attempts)
                continue
            in_run = prefix.rpartition("/")[0] == self._run
            path = prefix.rpartition("/")[2] if in_run else path
            record_of = self.records.get(checkpoint.save_id)
            self.listing = self.listing.with_newest(Entry(path, prefix, checkpoint, record_of))
        return listed


def sure_to_go(policy: RetentionPolicy, next_keep_at: float) -> float:
    """Return up to which time of saving a checkpoint that leaves the list is sure to be deleted, by wall clock."""
    return min(next_keep_at, sys.float_info.max) if policy.max_to_keep else 0.0


# Who leaves is dealt with before who came is noted: until then a crash is known to have interrupted it.
_ORDER = [
    Fate.NOTHING,
    Fate.LEAVE,
    Fate.RESTORE,
    Fate.PRESERVE,
    Fate.DROP,
    Fate.SWEEP,
    Fate.CONFIRM,
    Fate.ADOPT,
]
