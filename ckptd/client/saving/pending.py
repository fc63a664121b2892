"""A save in progress: wait for it, look at it, get notice of its end."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Generator
from typing import Any, Protocol

from ckptd.client.deadline import Deadline
from ckptd.engine.checkpoint import Checkpoint
from ckptd.errors import CkptdError, UnavailableError

_RETENTION_S = 600.0  # at most, in the thread of a save that has ended; the end of the program has a bound of its own

_log = logging.getLogger("ckptd.client")


class Aftermath(Protocol):
    """What follows from a save that has ended well: retention, which deletes others."""

    retains_here: bool

    def await_retention(self, checkpoint: Checkpoint, deadline: Deadline) -> None:
        """Wait until it is over; `UnavailableError` at the deadline."""


class PendingSave:
    """One call of `Checkpointer.save`, from its snapshot to its end. Any thread may use it.

    An error that was not seen through `result` or `exception` is raised at the next call of the `Checkpointer`.
    If there is none, the program says so on stderr when it ends, and its exit code is not 0.

    A forked child never waits for a save of its parent, as it would not be told of the end.

    Attributes:
        step: which step is saved.
    """

    def __init__(self, step: int | None, name: str | None = None, aftermath: Aftermath | None = None) -> None:
        self.step = step
        self._name = name
        self._aftermath = aftermath
        self._changed = threading.Condition()
        self._pid = os.getpid()
        self._checkpoint: Checkpoint | None = None
        self._error: CkptdError | None = None
        self._is_looked_at = False
        self._is_over = False
        self._callbacks: list[Callable[[PendingSave], object]] = []

    def done(self) -> bool:
        """Say whether it has ended, well or badly."""
        with self._changed:
            return self._has_ended

    def result(self, timeout: float | None = None) -> Checkpoint:
        """Wait for the end and return the checkpoint, which is durable then.

        Args:
            timeout: seconds; None waits until the save's own deadline has passed.

        Raises:
            UnavailableError: after `timeout`; the save goes on.
            SessionAbortedError, StorageFullError, …: what ended the save.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        assert self._checkpoint is not None  # ended without an error
        return self._checkpoint

    def exception(self, timeout: float | None = None) -> CkptdError | None:
        """Wait for the end as `result` does; return what went wrong, None if nothing did."""
        if not self.wait(timeout):
            if self._is_inherited:
                raise UnavailableError(f"{self} was begun before this process was forked: only its parent sees the end")
            raise UnavailableError(f"{self} is still under way after {timeout:g} s; it goes on")
        with self._changed:
            self._is_looked_at = True
            return self._error

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint, if it has succeeded. Reading this does not count as seeing the error."""
        with self._changed:
            return self._checkpoint

    def add_done_callback(self, callback: Callable[[PendingSave], object]) -> None:
        """Have `callback` called with this object at the end, by the thread that ends it; at once if it has ended.

        What it raises goes to the log.
        """
        with self._changed:
            if not self._has_ended:
                self._callbacks.append(callback)
                return
        self._call(callback)

    def __await__(self) -> Generator[Any, None, Checkpoint]:
        """Wait as `result` does, in a coroutine. If the task is cancelled meanwhile, the save goes on."""
        return self._ended().__await__()

    async def _ended(self) -> Checkpoint:
        import asyncio  # a program that does not use it does not wait for it either

        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def tell(_: PendingSave) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits any more
                loop.call_soon_threadsafe(ended.set)

        self.add_done_callback(tell)
        await ended.wait()
        return self.result(0)

    def __str__(self) -> str:
        return "the save without a step" if self.step is None else f"the save of step {self.step}"

    def finish(self, checkpoint: Checkpoint) -> None:
        """End well, unless it has ended. Called by the `Checkpointer`."""
        self._end(checkpoint, None)

    def fail(self, error: CkptdError, *, is_known: bool = False) -> None:
        """End badly, unless it has ended. Called by the `Checkpointer`; `is_known` if the caller is told otherwise."""
        self._end(None, error, is_known=is_known)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end without raising its error; return whether it has come."""
        if self._is_inherited:
            return self._has_ended
        with self._changed:
            return self._changed.wait_for(lambda: self._has_ended, timeout)

    def is_of(self, step: int | None, name: str | None) -> bool:
        """Say whether it saves this step and this name; None is any."""
        return step in (None, self.step) and (name is None or self._name in (None, name))

    def await_aftermath(self, deadline: Deadline) -> None:
        """Wait until what retention deletes because of it is gone; it has ended before.

        Raises:
            UnavailableError: not until the deadline.
        """
        checkpoint, aftermath = self.checkpoint, self._aftermath
        if checkpoint is not None and aftermath is not None:
            aftermath.await_retention(checkpoint, deadline)
            self._aftermath = None

    @property
    def is_settled(self) -> bool:
        """Whether it has ended, and what retention deletes because of it is known to be gone."""
        with self._changed:
            return self._error is not None or (self._checkpoint is not None and self._aftermath is None)

    def wait_until_over(self, timeout: float | None = None) -> bool:
        """Wait until nothing of it is left for this process to do; return whether that came to pass.

        It has ended, every callback was called, and what retention deletes because of it is gone, if this process does
        that itself.
        """
        if self._is_inherited:
            return self._is_over
        with self._changed:
            return self._changed.wait_for(lambda: self._is_over, timeout)

    @property
    def unseen_error(self) -> CkptdError | None:
        """The error, if it has one that was not seen yet; reading this does not count as seeing it."""
        with self._changed:
            return None if self._is_looked_at else self._error

    @property
    def owes_nothing(self) -> bool:
        """Whether it is over, and its error, if any, was seen."""
        with self._changed:
            return self._is_over and (self._error is None or self._is_looked_at)

    def take_unseen_error(self) -> CkptdError | None:
        """Return the error if it has one that was not seen yet; it counts as seen from now on."""
        with self._changed:
            if self._error is None or self._is_looked_at:
                return None
            self._is_looked_at = True
            return self._error

    @property
    def _is_inherited(self) -> bool:
        return self._pid != os.getpid()

    @property
    def _has_ended(self) -> bool:
        return self._checkpoint is not None or self._error is not None

    def _end(self, checkpoint: Checkpoint | None, error: CkptdError | None, *, is_known: bool = False) -> None:
        with self._changed:
            if self._has_ended:
                return
            self._checkpoint, self._error, self._is_looked_at = checkpoint, error, is_known
            callbacks, self._callbacks = self._callbacks, []
            self._changed.notify_all()
        try:
            for callback in callbacks:
                self._call(callback)
            if self._aftermath is not None and self._aftermath.retains_here:
                with contextlib.suppress(CkptdError):  # what is left is deleted when the run is opened next
                    self.await_aftermath(Deadline(_RETENTION_S))
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _call(self, callback: Callable[[PendingSave], object]) -> None:
        try:
            callback(self)
        except Exception:
            _log.exception("a callback of %s has failed: %s", self, callback)
