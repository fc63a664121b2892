"""Which checkpoints of a Hugging Face training stay: the best one, and as many as ``save_total_limit`` says.

It is done after each save, in a thread, so that training stands still for none of it. The next save begins only when
that is over: it might let the best one go before it is pinned.
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
    """One training's. Only rank 0 changes anything.

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
        """Make up for what the program that is resumed did not come to after its last save."""
        if self._checkpointer.rank == 0 and best is not None and best != self.pinned:
            self._pin(best)

    def after(self, pending: PendingSave, best: int | None) -> None:
        """Once a save is durable: pin the best one, unpin the former one, delete what the limit lets go."""
        if self._checkpointer.rank == 0:
            # A daemon thread: what it leaves undone when the program ends is made up for.
            self._thread = threading.Thread(target=self._follow, args=(pending, best), daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait until what follows from the last save is done.

        Raises:
            CkptdError: what kept it from being done.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def end(self, best: int | None) -> None:
        """Do what the trainer does at the end: with a limit of one, only the best one stays."""
        self.wait()
        if self._checkpointer.rank == 0 and self._limit == 1 and best is not None:
            self._delete_others({best})

    def _follow(self, pending: PendingSave, best: int | None) -> None:
        try:
            pending.wait()
            if pending.checkpoint is None:
                return  # its error is for the next save, or the end
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
                continue  # retention was quicker
            except ConflictError as error:  # it is being read: it goes with the next save
                _log.warning("save_total_limit: step %d is kept for now: %s", step, error)
