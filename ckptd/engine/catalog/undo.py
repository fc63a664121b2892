"""Deletions that can be undone for a while: the index is set aside, and brought back or deleted with the rest."""

from __future__ import annotations

from dataclasses import replace

from ckptd.engine.catalog import deleting
from ckptd.engine.catalog.ledger import Ledger
from ckptd.engine.catalog.presence import has_object
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.retention import RetentionPolicy
from ckptd.errors import ConflictError

_LOOK_AGAIN_S = 30.0  # at what could not be deleted yet


class Undo:
    """What the owner of a run has deleted and may bring back for `undo_s`; 0 deletes at once."""

    def __init__(self, ledger: Ledger, undo_s: float) -> None:
        """See the class."""
        self._ledger, self._undo_s = ledger, undo_s

    def deleted_at(self) -> float | None:
        """Return what to note of a checkpoint that is deleted now; None where no deletion can be undone."""
        return self._ledger.clock.wall_s() if self._undo_s > 0 else None

    def is_undoable(self, record: Record) -> bool:
        """Say whether its owner deleted it so lately that it may come back, or the operator's floor keeps it."""
        return record.deleted_at is not None and self._ledger.clock.wall_s() < self._ends_at(record)

    def _ends_at(self, record: Record) -> float:
        return max((record.deleted_at or 0.0) + self._undo_s, record.kept_until or 0.0)

    def next_sweep_at(self) -> float | None:
        """Return when to sweep next: when the time to undo a deletion is over, or to look again whether one is read.

        None when nothing waits to be deleted.
        """
        waiting = [each for each in self._ledger.records.values() if each.dropped and each.published]
        again = self._ledger.clock.wall_s() + _LOOK_AGAIN_S
        return min((again if each.deleted_at is None else self._ends_at(each) for each in waiting), default=None)

    def set_aside(self, record: Record) -> None:
        """Take a checkpoint that the state file no longer names out of sight. Safe to repeat."""
        deleting.set_aside(self._ledger.store, record, on_step=self._ledger.on_step)

    def bring_back(self, record: Record, policy: RetentionPolicy) -> Record:
        """Undo `set_aside`, durably: list it again where it was, if there is room, else keep it for good."""
        ledger = self._ledger
        self.keep_meta(record)
        deleting.bring_meta_back(ledger.store, record, on_step=ledger.on_step)
        deleting.bring_back(ledger.store, record, on_step=ledger.on_step)
        back = replace(record, dropped=False, deleted_at=None, kept_until=None)
        if not back.preserved and ledger.listing.has_room(policy):
            # Crash here: as it was deleted, and the index in place: `recovery` sets it aside again.
            ledger.write_state(ledger.listing.with_adopted(ledger.entry(back)), ledger.style)
        else:
            back = replace(back, preserved=True)
        # Crash here: listed, and marked as deleted: `recovery` takes the mark back.
        ledger.on_step("undelete.record")
        ledger.remember(ledger.note(back))
        self.drop_copy(record)
        return back

    def keep_replaced(self, successor: Record) -> bool:
        """Copy the index aside of what a save is about to replace, so that it can come back; `settle` marks it.

        Returns False when the index in place is of no checkpoint that the run knows as whole.
        """
        store, on_step = self._ledger.store, self._ledger.on_step
        return any(deleting.copy_aside(store, record, on_step=on_step) for record in self._in_place(successor))

    def keep_meta(self, successor: Record) -> None:
        """Copy the graph description aside that another is about to replace, if its checkpoint is, or may come back."""
        if not successor.meta_graph or not has_object(self._ledger.store, successor.meta_key):
            return
        owners = [
            each
            for each in self._ledger.records.values()
            if each.meta_graph
            and each.meta_key == successor.meta_key
            and each.save_id != successor.save_id
            and each.published
            and (not each.dropped or self.is_undoable(each))
            and not has_object(self._ledger.store, each.aside_meta_key)
        ]
        if owners:
            owner = max(owners, key=lambda each: each.sequence)
            deleting.copy_meta_aside(self._ledger.store, owner, on_step=self._ledger.on_step)

    def replaced_by(self, record: Record) -> Record | None:
        """Return the checkpoint of ours that has the place of one that was deleted or replaced, None if none has."""
        return next((each for each in self._in_place(record) if has_object(self._ledger.store, each.index_key)), None)

    def _in_place(self, record: Record) -> list[Record]:
        return [
            each
            for each in self._ledger.records.values()
            if each.prefix == record.prefix
            and each.published
            and not (each.dropped or each.quarantine)
            and each.save_id != record.save_id
            and each.save_id not in self._ledger.incomplete
        ]

    def exchange(self, record: Record, successor: Record) -> Record:
        """Bring one back to the place of the checkpoint that replaced it, which can be brought back in its turn.

        Raises:
            ConflictError: when the index in place is another program's; nothing was changed.
        """
        ledger = self._ledger
        if not deleting.copy_aside(ledger.store, successor, on_step=ledger.on_step):
            raise ConflictError("the index in place is not the one that ckptd wrote", key=successor.index_key)
        self.keep_meta(record)
        # Crash here: copies that are not needed: `recovery` removes them.
        ledger.on_step("undelete.record")
        changes = {"dropped": False, "deleted_at": None, "kept_until": None, "keeps_replaced": True}
        back = ledger.note(record, preserved=successor.preserved, **changes)
        deleting.exchange(ledger.store, back, on_step=ledger.on_step)
        # Crash here: with the graph description of the other: `recovery` puts its own in place.
        deleting.bring_meta_back(ledger.store, back, on_step=ledger.on_step)
        # Crash here: it is in place, and the other, of which there is a copy, is not: `recovery` marks that one.
        ledger.remember(ledger.note(successor, dropped=True, deleted_at=self.deleted_at()))
        ledger.remember(back)
        ledger.listing = ledger.listing.with_replaced(ledger.entry(back))
        self.drop_copy(back)
        return back

    def drop_copy(self, record: Record) -> None:
        """Delete the copies of the index and the graph description of one that is in place again."""
        # Crash here: a copy that is not needed: `recovery` removes it.
        self._ledger.on_step("undelete.aside")
        self._ledger.store.delete([record.aside_key, record.aside_meta_key])
