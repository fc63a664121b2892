"""Publishing a save, and what follows from it for others: what left the list is deleted, or noted as kept for good.

The order of notes is what makes a crash harmless. A save that the state file names is noted as published last, after
everything that follows from it for others was done or noted. So a start that finds a listed save that is not noted as
published knows that retention was interrupted, and by which save, and may finish it; see `recovery`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, replace

from ckptd.engine.catalog import deleting, reserve
from ckptd.engine.catalog.elsewhere import Elsewhere
from ckptd.engine.catalog.floor import FloorNow
from ckptd.engine.catalog.ledger import Ledger
from ckptd.engine.catalog.listing import Listing, Style
from ckptd.engine.catalog.presence import has_object
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.retention import Action, RetentionPolicy, Rule, Verdict, Why
from ckptd.errors import CkptdError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Publication:
    """A save that the state file names, and what that means for others: not yet noted in the records."""

    record: Record
    verdicts: tuple[Verdict, ...]


class Publishing:
    """The publications of one run of which not everything is done or noted."""

    def __init__(self, ledger: Ledger, floor: FloorNow, elsewhere: Elsewhere) -> None:
        """Start with none. `floor` is what retention leaves alone whatever its policy says."""
        self._ledger, self._floor, self._elsewhere = ledger, floor, elsewhere
        self._pending: list[_Publication] = []

    @property
    def pending(self) -> list[Record]:
        """The saves that are published and not noted so yet, the first to be noted first."""
        return [publication.record for publication in self._pending]

    def leaving(self) -> set[str]:
        """Return the locations of checkpoints that `settle` is to delete."""
        return {
            verdict.prefix
            for publication in self._pending
            for verdict in publication.verdicts
            if verdict.action is Action.DROP
        }

    def forget(self) -> None:
        """Forget what is pending: the run is read again, and recovery finds it there."""
        self._pending = []

    def publish(
        self, record: Record, listing: Listing, policy: RetentionPolicy, mark: float, relative_paths: bool
    ) -> float:
        """Let the state file name a committed save; what follows for others is pending until `settle`.

        `listing` has the save in it already, `record` says that it is published. Returns the retention rule's mark.
        """
        ledger = self._ledger
        horizon = policy.sure_to_go(mark)
        if record.next_keep_at > horizon:
            # The rule has changed since the save began: what recovery may delete in its name must be less.
            ledger.on_step("publish.horizon")
            record = replace(record, next_keep_at=horizon)
            ledger.note(record, published=False)
        staying, decision = listing.reduced(policy, mark, self._floor())
        preserved = decision.mark if policy.rule is Rule.MANAGER else None
        ledger.write_state(staying, Style(policy.rule, relative_paths, preserved), record.save_id)
        ledger.records[record.save_id] = record
        self._pending.append(_Publication(record, decision.verdicts))
        ledger.kept([verdict for verdict in decision.verdicts if verdict.action is not Action.DROP])
        return decision.mark

    def foreseen(self, policy: RetentionPolicy, mark: float) -> tuple[Verdict, ...]:
        """Return what becomes of each listed checkpoint if one more is saved now."""
        ledger = self._ledger
        return ledger.listing.foreseen(policy, mark, ledger.clock.wall_s(), self._floor())

    def keep_unlisted(self, record: Record) -> Record:
        """Take up a committed save that no state file is to name; pending until `settle`. Nothing is written."""
        record = replace(record, preserved=record.prefix_key not in self._ledger.listed())
        return self.take_up(record)

    def take_up(self, record: Record) -> Record:
        """Take up a save that is published and not noted so yet; pending until `settle`."""
        self._pending.append(_Publication(self._ledger.remember(record), ()))
        return record

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
            self._ledger.on_step("settle.published")
            self._ledger.remember(self._ledger.note(record))
            del self._pending[0]
        return verdicts

    def _settle_others(
        self, publication: _Publication, in_use: Collection[str] | None, verdicts: list[Verdict]
    ) -> Record:
        ledger, record = self._ledger, publication.record
        leaving = [verdict for verdict in publication.verdicts if verdict.action is not Action.KEEP]
        for verdict in leaving:
            mine = ledger.published_at(verdict.prefix)
            if mine is None:
                reason = "it left the list, but is not ours to delete"
                verdicts.append(Verdict(verdict.prefix, Action.PRESERVE, reason, Why.NOT_OURS))
            elif mine.save_id == record.save_id:
                record = replace(
                    record, dropped=verdict.action is Action.DROP, preserved=verdict.action is Action.PRESERVE
                )
            elif verdict.action is Action.PRESERVE:
                ledger.on_step("settle.preserved")
                ledger.remember(ledger.note(mine, preserved=True))
                verdicts.append(verdict)
            else:
                if mine.saved_at > record.next_keep_at:
                    mine = self._mark_dropped(mine)  # recovery would not dare to delete it without
                verdicts.append(self.delete_or_mark(mine, verdict.reason, verdict.why, in_use))
        for other in list(ledger.records.values()):
            if other.prefix == record.prefix and other.sequence < record.sequence and other.published:
                if record.keeps_replaced and self._keep_aside(other):
                    continue
                reason = f"save {record.save_id} replaced it"
                verdicts.append(self.delete_or_mark(other, reason, Why.REPLACED, in_use))
                left = ledger.records.get(other.save_id)
                if left is not None and left.deleted_at is not None:
                    # It is being read, so it is deleted later. Saving the step again ends the undo nevertheless.
                    ledger.remember(ledger.note(left, deleted_at=None))
        return record

    def _keep_aside(self, record: Record) -> bool:
        """Mark a checkpoint that was replaced as deleted for a while, if there is a copy of its index; say whether."""
        ledger = self._ledger
        if (record.dropped and record.deleted_at is None) or not has_object(ledger.store, record.aside_key):
            return False
        if not record.dropped:
            # Crash here: replaced, with a copy of its index: `recovery` marks it.
            ledger.on_step("settle.aside")
            self.note_replaced(record)
        return True

    def note_replaced(self, record: Record) -> Record:
        """Mark a checkpoint as deleted for a while; that lasts until it is as old as the operator's floor wants."""
        ledger, age_s = self._ledger, self._floor().keep_younger_than_s
        kept_until = record.saved_at + age_s if age_s else None
        changes = {"dropped": True, "deleted_at": ledger.clock.wall_s(), "kept_until": kept_until}
        return ledger.remember(ledger.note(record, **changes))

    def delete_or_mark(self, record: Record, reason: str, why: Why, in_use: Collection[str] | None) -> Verdict:
        """Delete a checkpoint that left the list; if it is being read or cannot be deleted, mark it for later.

        Deleting comes first because it needs no room, and marking does.
        """
        prefix = self._ledger.store.location(record.prefix_key)
        later, why_later = "it goes at a later save", Why.POSTPONED
        if in_use is not None and prefix in in_use:
            later, why_later = "it is being read; it goes at a later save", Why.IN_USE
        elif in_use is not None:
            try:
                self.drop(record, reason=reason, why=why)
            except deleting.BeingReadError:
                if not record.dropped:  # otherwise it was reported when its turn came
                    _log.info("%s is being read: it is deleted when that has ended", prefix)
                later, why_later = "it is being read; it goes at a later save", Why.IN_USE
            except CkptdError as error:
                if self._ledger.state.is_fenced:
                    raise
                _log.warning("%s could not be deleted: %s", prefix, error)
                later = f"it could not be deleted: {error}"
            else:
                return Verdict(prefix, Action.DROP, reason, why)
        self._mark_dropped(record)
        return Verdict(prefix, Action.KEEP, later, why_later)

    def _mark_dropped(self, record: Record) -> Record:
        if record.dropped:
            return record
        self._ledger.on_step("settle.dropped")
        return self._ledger.remember(self._ledger.note(record, dropped=True))

    def drop(self, record: Record, *, reason: str = "", why: Why = Why.TOO_MANY, is_unread: bool = False) -> None:
        """Delete what is left of a checkpoint that the state file names no more, and forget it; see `deleting.drop`.

        The record of one that other hosts wrote stays while a writer that hung may still come to its keys.
        Without a `reason` a caller has requested it, and the journal was told when that came.
        """
        ledger = self._ledger
        is_told = not reason
        others = [
            each
            for each in ledger.records.values()
            if each.prefix == record.prefix and each.sequence > record.sequence and not each.dropped
        ]
        with ExitStack() as telling:

            def on_step(step: str) -> None:
                nonlocal is_told
                if not is_told:  # only now is it sure that nothing reads it
                    telling.enter_context(ledger.removal(record, reason, why))
                    is_told = True
                ledger.on_step(step)

            is_taken = bool(record.writers) and self._elsewhere.is_taken(record)
            deleting.drop(
                ledger.store, record, others=others, on_step=on_step, is_unread=is_unread, leaves_record=is_taken
            )
            if is_taken:
                # Crash here: a record whose index is gone: `recovery` comes back to this.
                ledger.records[record.save_id] = ledger.note(
                    record,
                    published=False,
                    dropped=False,
                    deleted_at=None,
                    kept_until=None,
                    aborted_at=record.saved_at,
                )
            else:
                ledger.forget(record.save_id)
                self._elsewhere.forget(record.save_id)
        reserve.keep(ledger.store, ledger.run)
