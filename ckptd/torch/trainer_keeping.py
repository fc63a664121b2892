"""Which checkpoints of a Hugging Face training are kept: the best one, and as many as ``save_total_limit`` says.

A thread does the work after each save, so that training does not wait for it. The next save begins only when that is
over: otherwise the best checkpoint could be deleted before it is pinned.
"""

from __future__ import annotations

import contextlib
import logging
import threading

from ckptd.client.checkpointer import Checkpointer
from ckptd.client.saving.pending import PendingSave
from ckptd.errors import CkptdError, ConflictError, NotFoundError

_log = logging.getLogger("ckptd.torch")


class Keeping:
    """Keeps the checkpoints of one training. Only rank 0 changes anything.

    Attributes:
        pinned: the step that is pinned because it was the best one.
    """

    def __init__(self, checkpointer: Checkpointer, limit: int | None, pinned: int | None) -> None:
        self.pinned = pinned
        self._checkpointer = checkpointer
        self._limit = limit if limit is not None and limit > 0 else None
        self._thread: threading.Thread | None = None
        self._error: CkptdError | None = None

    def begin(self, best: int | None) -> None:
        """Pin the best step if the interrupted program could not do that after its last save."""
        if self._checkpointer.rank == 0 and best is not None and best != self.pinned:
            self._pin(best)

    def after(self, pending: PendingSave, best: int | None) -> None:
        """Once a save is durable: pin the best one, unpin the former one, delete those beyond the limit."""
        if self._checkpointer.rank == 0:
            # A daemon thread: `begin` catches up on what it leaves undone when the program ends.
            self._thread = threading.Thread(target=self._follow, args=(pending, best), daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait until the work after the last save is done.

        Raises:
            CkptdError: why it failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def end(self, best: int | None) -> None:
        """Delete as the trainer does at the end: with a limit of one, only the best one is kept."""
        self.wait()
        if self._checkpointer.rank == 0 and self._limit == 1 and best is not None:
            self._delete_others({best})

    def _follow(self, pending: PendingSave, best: int | None) -> None:
        try:
            pending.wait()
            if pending.checkpoint is None:
                return  # the next save, or the end of training, raises its error
            if best is not None and (best != self.pinned or best == pending.step):
                self._pin(best)
            if self._limit is not None:
                self._delete_others({best, pending.step})
        except CkptdError as error:
            self._error = error

    def _pin(self, best: int) -> None:
        try:
            self._checkpointer.pin(best)
        except NotFoundError:
            _log.warning("step %d, the best one so far, was deleted by another process", best)
            return
        former, self.pinned = self.pinned, best
        if former is not None and former != best:
            with contextlib.suppress(NotFoundError):
                self._checkpointer.unpin(former)

    def _delete_others(self, protected: set[int | None]) -> None:
        assert self._limit is not None
        steps = {one.step: one.pinned for one in self._checkpointer.checkpoints() if one.step is not None}
        excess = len(steps) - max(self._limit, len(protected & steps.keys()))
        others = [step for step, is_pinned in steps.items() if step not in protected and not is_pinned]  # oldest first
        for step in others[: max(excess, 0)]:
            try:
                self._checkpointer.delete(step, for_good=True, even_latest=True)
            except NotFoundError:
                continue  # retention has deleted it already
            except ConflictError as error:  # it is being read: the next save deletes it
                _log.warning("save_total_limit: step %d is kept for now: %s", step, error)
