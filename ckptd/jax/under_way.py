"""The saves that a manager has begun: which are in progress, which have failed, and errors that were not raised yet."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from ckptd.client.saving.pending import PendingSave, completion_of

_LOG = logging.getLogger("ckptd.jax")


class SavesUnderWay:
    """The saves of one `CheckpointManager`, for one thread.

    It holds no reference to the manager: no cycle keeps a dropped manager in its run.

    Args:
        callback: called after each save that has become durable, in the thread that ends the save.
        timeout_s: how long `wait` waits for one call of `callback`.

    Attributes:
        failed: steps whose saves have failed, and that may be saved again.
    """

    def __init__(self, callback: Callable[[], object] | None, timeout_s: float) -> None:
        self.failed: set[int] = set()
        self._callback = callback
        self._timeout_s = timeout_s
        self._pending: list[PendingSave] = []

    def __bool__(self) -> bool:
        return bool(self._pending)

    def add(self, step: int, pending: PendingSave) -> None:
        """Follow a save that has begun."""
        self.failed.discard(step)
        pending.add_done_callback(_log_end)
        if self._callback is not None:
            pending.add_done_callback(partial(_call_back, self._callback))
        pending.add_done_callback(partial(_note_failure, self.failed, step))
        self._pending[:] = [*(one for one in self._pending if not one.done()), pending]

    def is_any_in_progress(self) -> bool:
        """Return whether a save has not ended."""
        return any(not pending.done() for pending in self._pending)

    def wait(self, *, for_callbacks: bool = True) -> None:
        """Wait until every save has ended, well or badly, and its callback, too."""
        for one in self._pending:
            one.wait()
            if for_callbacks and self._callback is not None:
                completion_of(one).wait_until_over(self._timeout_s)

    def raise_unseen(self) -> None:
        """Raise the first error that was not raised yet; drop the saves that have ended."""
        ended = [pending for pending in self._pending if pending.done()]
        self._pending[:] = [pending for pending in self._pending if pending not in ended]
        for one in ended:
            if (error := completion_of(one).take_unseen_error()) is not None:
                raise error

    def forget(self) -> None:
        """Follow none of them any longer."""
        self._pending.clear()


def _note_failure(failed: set[int], step: int, pending: PendingSave) -> None:
    if pending.checkpoint is None:
        failed.add(step)


def _call_back(callback: Callable[[], object], ended: PendingSave) -> None:
    if ended.checkpoint is not None:
        callback()


def _log_end(pending: PendingSave) -> None:
    done = pending.checkpoint
    if done is not None:
        _LOG.info(
            "step %s: %d bytes are durable in %s after %.2f s", done.step, done.size_bytes, done.prefix, done.duration_s
        )
