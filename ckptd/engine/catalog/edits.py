"""Changes that the owner of a run makes in its catalog: pin a checkpoint, delete it, undo that."""

from __future__ import annotations

from contextlib import ExitStack

from ckptd.engine.catalog import deleting, quarantine, survey
from ckptd.engine.catalog.contents import CheckpointSelector, Contents, describe
from ckptd.engine.catalog.floor import FloorNow
from ckptd.engine.catalog.ledger import Ledger
from ckptd.engine.catalog.publishing import Publishing
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.undo import Undo
from ckptd.engine.catalog.upkeep import Upkeep
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.series import NamedStep
from ckptd.errors import CkptdError, ConflictError, NotFoundError, NotPermittedError
from ckptd.format import names


class Edits:
    """Changes of single checkpoints of a run."""

    def __init__(
        self,
        ledger: Ledger,
        contents: Contents,
        publishing: Publishing,
        undo: Undo,
        upkeep: Upkeep,
        floor: FloorNow,
    ) -> None:
        """Change what `ledger` holds, once `upkeep` has made sure of it."""
        self._ledger, self._contents = ledger, contents
        self._publishing, self._undo, self._upkeep = publishing, undo, upkeep
        self._floor = floor

    def pin(self, which: CheckpointSelector) -> Checkpoint:
        """Keep a checkpoint of ours from retention until `unpin`. Durable on return."""
        return self._set_pinned(which, True)

    def unpin(self, which: CheckpointSelector) -> Checkpoint:
        """Let retention have a checkpoint again. One that was kept for good stays kept."""
        return self._set_pinned(which, False)

    def _set_pinned(self, which: CheckpointSelector, pinned: bool) -> Checkpoint:
        record = self._record_of(which)
        if record.pinned != pinned:
            # Its place was taken while it was pinned: it goes at the next save, and not another in its place.
            listed = record.prefix_key in self._ledger.listed()
            released = not pinned and listed and not self._ledger.listing.has_room(self._upkeep.policy)
            self._ledger.remember(self._ledger.note(record, pinned=pinned, released=released))
        return self._contents.find(which)

    def delete(
        self, which: CheckpointSelector, *, even_latest: bool = False, for_good: bool = False, append_only: bool = False
    ) -> Checkpoint:
        """Delete one checkpoint of ours: from the state file first, then its files. Durable on return.

        For `undo_s` it can be brought back by `undelete`, so its shards go only after that, unless it is `for_good`.
        The latest is refused unless `even_latest`: readers would see time run backward. With it the one before becomes
        the latest; if there is none, the state file goes. A caller that is `append_only` deletes nothing below the
        operator's floor, and nothing that cannot be brought back.

        Raises:
            NotPermittedError: the caller is `append_only`, and it has to stay.
            ConflictError: when it is pinned, the latest, not ours, or, for good, when it is being read.
        """
        record = self._record_of(which)
        checkpoint = self._contents.find(which)
        if record.pinned:
            raise ConflictError("it is pinned: unpin it first", key=record.prefix_key)
        if checkpoint == self._contents.latest() and not even_latest:
            raise ConflictError("it is the latest checkpoint", key=record.prefix_key)
        deleted_at = None if for_good else self._undo.deleted_at()
        if append_only:
            self._check_above_floor(checkpoint, record, can_come_back=deleted_at is not None)
        with ExitStack() as stack:
            if deleted_at is None:
                stack.enter_context(deleting.unread(self._ledger.store, record.prefix_key, record.num_shards))
            self._delete(record, deleted_at)
        return checkpoint

    def _check_above_floor(self, checkpoint: Checkpoint, record: Record, *, can_come_back: bool) -> None:
        known = self._contents.checkpoints()
        num_newer = len(known) - known.index(checkpoint) - 1 if checkpoint in known else len(known)
        why = self._floor().why_kept(num_newer, self._ledger.clock.wall_s() - checkpoint.saved_at)
        if not can_come_back:
            why = why or "this daemon keeps nothing that was deleted (--undo-s 0), so it could not be brought back"
        if why:
            raise NotPermittedError(f"{why}: deleting it needs the role `manage`", key=record.prefix_key)

    def _delete(self, record: Record, deleted_at: float | None) -> None:
        try:
            # Crash after this mark: still listed, so `recovery` takes the mark back.
            record = self._ledger.remember(self._ledger.note(record, dropped=True, deleted_at=deleted_at))
            if record.prefix_key in self._ledger.listed():
                self._ledger.unlist(record)
            if deleted_at is None:
                self._publishing.drop(record, is_unread=True)
            else:
                self._undo.set_aside(record)
        except CkptdError:
            self._ledger.is_stale = True
            raise

    def undelete(self, which: CheckpointSelector) -> Checkpoint:
        """Bring back what `delete` deleted lately, by its step or prefix. Durable on return.

        It is listed again at its old place if the list has room, and otherwise kept for good. What an `append_only`
        caller has replaced changes places with its successor, which can be brought back in its turn.

        Raises:
            NotFoundError: when nothing of the kind was deleted, its time is over, or the step was saved again by a
                caller that is not `append_only`.
            ConflictError: when its successor is pinned.
        """
        self._upkeep.refresh(0.0)
        ledger = self._ledger
        self._publishing.settle(None)
        record, present = self._deleted(which)
        if present is not None and present.pinned:
            raise ConflictError("it was saved again, and that is pinned: unpin it first", key=present.prefix_key)
        try:
            if present is not None:
                back = self._undo.exchange(record, present)
            else:
                back = self._undo.bring_back(record, self._upkeep.policy)
            return survey.checkpoint_of(self._ledger.store, back)
        except CkptdError:
            ledger.is_stale = True
            raise

    def find_deleted(self, which: CheckpointSelector) -> Checkpoint:
        """Return what `undelete` would bring back, as far as is known; `NotFoundError` when there is nothing."""
        return survey.checkpoint_of(self._ledger.store, self._deleted(which)[0])

    def _deleted(self, which: CheckpointSelector) -> tuple[Record, Record | None]:
        """Return what was deleted lately, and what has its place now."""
        deleted = [
            each
            for each in self._ledger.records.values()
            if each.dropped
            and self._undo.is_undoable(each)
            and self._is_meant(each, which)
            and deleting.is_aside(self._ledger.store, each)
        ]
        if not deleted:
            raise NotFoundError(f"nothing that was deleted lately is {describe(which)}", key=self._ledger.run or None)
        present = self._undo.replaced_by(deleted[0])
        # Where the step was saved again it is the one before that; from the first of all it is the last once more.
        before = [each for each in deleted if present is not None and each.sequence < present.sequence]
        return max(before or deleted, key=lambda each: each.sequence), present

    def quarantine(self, save_id: str, reason: str, by: str) -> bool:
        """Mark a checkpoint of ours as damaged: it leaves the list, and its files stay. Durable on return.

        Returns False when there is no such checkpoint any more, or it is in quarantine already.
        """
        self._upkeep.refresh(0.0)
        self._publishing.settle(None)
        record = self._ledger.records.get(save_id)
        if record is None or not record.published or record.dropped or record.quarantine:
            return False
        try:
            quarantine.put(self._ledger, record, reason, by)
        except CkptdError:
            self._ledger.is_stale = True
            raise
        return True

    def note_verified(self, save_id: str) -> None:
        """Note that all of a checkpoint of ours was read just now and is as it should be; unless it has gone."""
        self._upkeep.refresh(0.0)
        record = self._ledger.records.get(save_id)
        if record is not None and record.published and not record.dropped:
            self._ledger.remember(self._ledger.note(record, verified_at=self._ledger.clock.wall_s()))

    def lift_quarantine(self, save_id: str) -> Checkpoint:
        """List a checkpoint again after it has verified, or keep it for good if its place is taken. Durable."""
        self._upkeep.refresh(0.0)
        self._publishing.settle(None)
        record = self._ledger.records.get(save_id)
        if record is None or not record.quarantine:
            raise NotFoundError("no checkpoint of this save is in quarantine", key=self._ledger.run or None)
        try:
            return survey.checkpoint_of(self._ledger.store, quarantine.end(self._ledger, record, self._upkeep.policy))
        except CkptdError:
            self._ledger.is_stale = True
            raise

    def _is_meant(self, record: Record, which: CheckpointSelector) -> bool:
        if not isinstance(which, NamedStep):
            return which in (record.step, record.prefix, self._ledger.store.location(record.prefix_key))
        if record.step != which.step:
            return False
        if which.name in (record.name, names.ANY_NAME):
            return True
        # As in `series.of_name`: where nothing has the usual name, it means whatever is there.
        called = {each.name for each in self._ledger.records.values()}
        return which.name == names.DEFAULT_NAME and which.name not in called

    def _record_of(self, which: CheckpointSelector) -> Record:
        self._upkeep.refresh(0.0)
        self._publishing.settle(None)
        checkpoint = self._contents.find(which)
        record = self._ledger.records.get(checkpoint.save_id)
        if record is None:
            raise ConflictError("ckptd did not write this checkpoint and never deletes it", key=checkpoint.prefix)
        return record
