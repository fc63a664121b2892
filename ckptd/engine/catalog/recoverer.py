"""Reads a run again and finishes what was interrupted: carries out what `recovery` decides.

A run that was noted to be at rest is taken over instead, as nothing was interrupted there; see `rest`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace

from ckptd.engine.catalog import deleting, quarantine, records, recovery
from ckptd.engine.catalog.commit import SeenState
from ckptd.engine.catalog.fence import unsigned
from ckptd.engine.catalog.late_notes import LateNotes
from ckptd.engine.catalog.ledger import Ledger
from ckptd.engine.catalog.publishing import Publishing
from ckptd.engine.catalog.read_list import ReadList, list_of, read_list
from ckptd.engine.catalog.records import Record, Records
from ckptd.engine.catalog.recovery import Fate, Recovery, RecoveryOutcome, SaveFacts
from ckptd.engine.catalog.rest import RestNote
from ckptd.engine.catalog.retention import Action, Rule, Why
from ckptd.engine.catalog.uncommitted import Uncommitted
from ckptd.engine.catalog.undo import Undo
from ckptd.errors import CkptdError, StorageFullError
from ckptd.format.crc32c import crc32c
from ckptd.storage.keys import join

_log = logging.getLogger(__name__)


class Recoverer:
    """Brings a ledger and what is in its run in step.

    Attributes:
        late: saves that a former owner notes after the run was read.
        unfinished: why `recover` could not note all that it found; None when it has.
    """

    def __init__(self, ledger: Ledger, publishing: Publishing, undo: Undo, uncommitted: Uncommitted) -> None:
        """Nothing is read yet."""
        self._ledger, self._publishing, self._undo, self._uncommitted = ledger, publishing, undo, uncommitted
        self.late = LateNotes(ledger)
        self.unfinished: StorageFullError | None = None

    def recover(self, in_use: Collection[str] | None) -> Recovery:
        """Read the run again and finish what was interrupted; saves in progress are left alone.

        `in_use` as for `Publishing.settle`: with None nothing that may have readers is deleted, only marked. What a
        full disk does not let it note stays `unfinished`: the run can be read, and checkpoints removed; the next call
        tries again.
        """
        ledger, store = self._ledger, self._ledger.store
        ledger.is_stale = True  # until this has come to its end
        self.unfinished = None
        self._publishing.forget()
        loaded, read = self._read()
        outcomes = [
            RecoveryOutcome(store.location(error.key or ""), Fate.LEAVE, error.reason) for error in loaded.unreadable
        ]
        for prefix, problem in read.problems.items():
            outcomes.append(RecoveryOutcome(store.location(prefix), Fate.LEAVE, f"listed, but not complete: {problem}"))
        marked = any(each.quarantine and each.prefix_key in read.prefixes for each in loaded.found)
        if marked and ledger.listing.here:
            quarantine.leave_out(ledger, ledger.listing)
        judged = self._judge(loaded.found, read.prefixes)
        swept = self._sweep_unfinished(judged)
        for facts, fate, reason in judged:
            try:
                if fate is Fate.ADOPT:
                    self._publishing.settle(in_use)  # room first, and the earlier listed first
                outcome = self.carry_out(facts, fate, reason, in_use)
            except StorageFullError as error:
                outcome = self._postpone(facts.record, error)
            if fate is not Fate.NOTHING:
                outcomes.append(outcome)
        self._drop_copies()
        try:
            for verdict in self._publishing.settle(in_use):
                if verdict.action is Action.KEEP:
                    outcomes.append(RecoveryOutcome(verdict.prefix, Fate.LEAVE, verdict.reason))
        except StorageFullError as error:
            outcomes.append(self._postpone(self._publishing.pending[0], error))
        ledger.is_stale = self.unfinished is not None
        way_out = f"`ckptd repair {store.location(ledger.run) if ledger.run else store.url}` puts it aside"
        problems = tuple(f"{error}; {way_out}" for error in loaded.unreadable)
        return Recovery(tuple(outcomes), tuple(swept), problems, tuple(read.passed_by))

    def _read(self) -> tuple[Records, ReadList]:
        """Read the state file and the records; what is listed and not complete is hidden."""
        ledger = self._ledger
        state = ledger.state.read()  # in a store without locks nothing else can publish from here on
        loaded = records.load(ledger.store, ledger.run)
        known, ledger.records = ledger.records, {record.save_id: record for record in loaded.found}
        ledger.noted.found(loaded.found)
        self._uncommitted.found(loaded.found, ledger.records.keys() - known.keys())
        self.late.read(error.key for error in loaded.unreadable)
        read = read_list(ledger.store, ledger.run, ledger.state.key, state, loaded.found)
        ledger.listing, ledger.style = read.listing, read.style
        ledger.incomplete = {record.save_id for record in loaded.found if record.prefix_key in read.problems}
        ledger.hidden = set(ledger.incomplete)
        return loaded, read

    def _judge(self, found: Collection[Record], listed: Collection[str]) -> list[tuple[SaveFacts, Fate, str]]:
        """Decide what becomes of each save that is not under way, in the order in which it is to be carried out."""
        ledger = self._ledger
        ours = [
            record
            for record in found
            if record.latest_filename == ledger.latest_filename and record.save_id not in ledger.live
        ]
        live = [record for record in found if record.save_id in ledger.live]
        may_go_on = self._uncommitted.elsewhere.may_go_on
        gathered = recovery.gather(ledger.store, ours, listed, self._undo.is_undoable, live, may_go_on)
        judged = [(facts, *recovery.judge(facts)) for facts in gathered]
        judged.sort(key=lambda each: (_ORDER.index(each[1]), each[0].record.sequence))
        for number, (facts, fate, _) in enumerate(judged):
            if fate is Fate.SWEEP and (doubt := self._uncommitted.why_not(facts.record)):
                judged[number] = (facts, Fate.LEAVE, doubt)
                self._uncommitted.leave(facts.record)
        return judged

    def _sweep_unfinished(self, judged: Collection[tuple[SaveFacts, Fate, str]]) -> list[str]:
        """Remove temporaries and uploads that will not be finished; return their keys."""
        store, run = self._ledger.store, self._ledger.run
        self._ledger.confirm_root()
        given_up = [key for facts, fate, _ in judged if fate is Fate.SWEEP for key in facts.record.shard_keys]
        swept = [
            *store.sweep_unfinished(run, given_up=given_up, spare=self._ledger.live_keys()),
            *store.sweep_unfinished(join(run, records.DIRECTORY)),
        ]
        if store.has_locks:  # elsewhere small objects are never unfinished, and each look is a request
            swept += store.sweep_unfinished(join(run, records.ASIDE_DIRECTORY))
        return swept

    def _drop_copies(self) -> None:
        ledger = self._ledger
        aside = {stat.key for stat in ledger.store.list(join(ledger.run, records.ASIDE_DIRECTORY), deep=False)}
        for record in ledger.records.values():
            if record.deleted_at is None and not aside.isdisjoint((record.aside_key, record.aside_meta_key)):
                deleting.bring_meta_back(ledger.store, record, on_step=ledger.on_step)
                self._undo.drop_copy(record)

    def _postpone(self, record: Record, error: StorageFullError) -> RecoveryOutcome:
        subject = self._ledger.store.location(record.prefix_key)
        _log.warning("%s: what a crash interrupted cannot be finished now: %s", subject, error)
        self.unfinished = self.unfinished or error
        return RecoveryOutcome(subject, Fate.LEAVE, f"to be finished once there is room: {error.reason}")

    def carry_out(self, facts: SaveFacts, fate: Fate, reason: str, in_use: Collection[str] | None) -> RecoveryOutcome:
        """Do to one save what `recovery.judge` decided."""
        ledger, record = self._ledger, facts.record
        subject = ledger.store.location(record.prefix_key)
        match fate:
            case Fate.RESTORE:
                ledger.remember(ledger.note(record, dropped=False, deleted_at=None, kept_until=None))
            case Fate.PRESERVE:
                ledger.remember(ledger.note(record, preserved=True))
            case Fate.DROP:
                verdict = self._publishing.delete_or_mark(record, reason, Why.RECOVERED, in_use)
                if verdict.action is Action.KEEP and in_use is not None:
                    fate, reason = Fate.LEAVE, verdict.reason
            case Fate.SET_ASIDE:
                if record.deleted_at is None:  # it was replaced, just before a crash
                    record = self._publishing.note_replaced(record)
                self._undo.set_aside(record)
            case Fate.CONFIRM:
                self._uncommitted.elsewhere.wait_no_longer(record.save_id)
                confirmed = self._as_found(record)
                if not record.write_state:
                    confirmed = replace(confirmed, preserved=not facts.is_listed)
                self._publishing.take_up(confirmed)
            case Fate.ADOPT:
                self._uncommitted.elsewhere.wait_no_longer(record.save_id)
                self._adopt(record)
            case Fate.SWEEP:
                try:
                    self._uncommitted.sweep(record)
                except CkptdError as error:
                    if ledger.state.is_fenced:
                        raise
                    _log.warning("%s could not be swept: %s", subject, error)
                    fate, reason = Fate.LEAVE, f"it could not be swept: {error}"
            case Fate.FORGET:
                ledger.on_step("sweep.record")
                ledger.store.delete([record.key])
                ledger.forget(record.save_id)
            case Fate.LEAVE:
                ledger.hidden.add(record.save_id)
            case Fate.NOTHING | Fate.WAIT:
                pass
        return RecoveryOutcome(subject, fate, reason)

    def _adopt(self, record: Record) -> None:
        """Publish a save that is complete and that no state file names."""
        ledger = self._ledger
        ledger.on_step("recover.adopt")
        adopted = self._as_found(record)
        # The trainer that began it said how; the next one may say something else, later.
        mark = ledger.style.preserved if record.policy.rule is Rule.MANAGER else record.next_keep_at
        listing = ledger.listing
        if not record.max_to_keep and record.policy.rule is Rule.SAVER:
            listing = listing.with_latest_forgotten()
        listing = listing.with_adopted(ledger.entry(adopted))
        mark = adopted.saved_at - 1 if mark is None else mark
        self._publishing.publish(adopted, listing, record.policy, mark, record.relative_paths)

    def _as_found(self, record: Record) -> Record:
        """Return the record as published, with the time and the checksum of the index in place."""
        store = self._ledger.store
        saved_at = store.stat(record.index_key).modified_at
        checksum = crc32c(store.get(record.index_key))
        return replace(record, published=True, saved_at=saved_at, index_crc32c=checksum, aborted_at=None)

    # Rest

    def rest_note(self, epoch: int) -> RestNote | None:
        """Return what to note of the run when it is at rest, None while anything is left to be done or in doubt."""
        ledger = self._ledger
        state, ours = ledger.state.data, ledger.records.values()
        is_under_way = self._publishing.pending or ledger.live or self._uncommitted.has_unswept
        if ledger.is_stale or self.unfinished or is_under_way or ledger.hidden or not state:
            return None
        if not all(
            each.published
            and not (each.dropped or each.quarantine)
            and each.deleted_at is None
            and each.latest_filename == ledger.latest_filename
            for each in ours
        ):
            return None
        read = list_of(ledger.store, ledger.run, ledger.state.key, state, ours)
        if read is None or [each.path for each in read.listing.entries] != [
            each.path for each in ledger.listing.entries
        ]:
            return None
        return RestNote({}, ledger.state.key, state, epoch, tuple(ours))

    def resume(self, note: RestNote) -> bool:
        """Take over a run that is at rest as `note` says; False when it turns out to be otherwise: then `recover`."""
        ledger = self._ledger
        ledger.is_stale = True
        if note.state_key != ledger.state.key:
            return False
        state = ledger.state.read(SeenState(note.state, note.versions[note.state_key]))
        read = list_of(ledger.store, ledger.run, ledger.state.key, note.state, note.records)
        if read is None or state is None or unsigned(state) != unsigned(note.state):
            return False
        ledger.records = {record.save_id: record for record in note.records}
        ledger.noted.found(note.records, note.versions)
        ledger.listing, ledger.style, ledger.hidden = read.listing, read.style, set()
        ledger.incomplete = set()
        self._publishing.forget()
        self._uncommitted.found(note.records, ledger.records.keys())
        self.late.read(())
        ledger.is_stale, self.unfinished = False, None
        return True


# What leaves is dealt with before what came is noted: until then a crash is known to have interrupted it.
_ORDER = [
    Fate.NOTHING,
    Fate.WAIT,
    Fate.LEAVE,
    Fate.RESTORE,
    Fate.PRESERVE,
    Fate.DROP,
    Fate.SET_ASIDE,
    Fate.FORGET,
    Fate.SWEEP,
    Fate.CONFIRM,
    Fate.ADOPT,
]
