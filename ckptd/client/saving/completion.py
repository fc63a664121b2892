"""The end of a save, inside the package: the thread that carries the save out reports it, and others wait for it.

`PendingSave` is the user's view of it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
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


def may_still_be_saved(error: CkptdError) -> bool:
    """Say whether a save that ended with this may be committed yet: a daemon that did not answer may have all bytes."""
    return isinstance(error, UnavailableError) and error.may_have_arrived and not error.is_answer


class Completion:
    """The end of one save, and whether its error was seen. Any thread may use it.

    Attributes:
        step: which step is saved.
    """

    def __init__(self, step: int | None, name: str | None = None, aftermath: Aftermath | None = None) -> None:
        self.step = step
        self._name = name
        self._aftermath = aftermath
        # Entered itself, and not by way of the condition, which does so in Python: there Ctrl-C can come when the lock
        # is taken, and nothing gives it back. From then on every save of another thread waited for ever.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._pid = os.getpid()
        self._checkpoint: Checkpoint | None = None
        self._error: CkptdError | None = None
        self._is_looked_at = False
        self._is_over = False
        self._callbacks: list[tuple[Callable[[Any], object], object]] = []

    def done(self) -> bool:
        """Say whether it has ended, well or badly."""
        with self._lock:
            return self._has_ended

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint, if it has succeeded. Reading this does not count as seeing the error."""
        with self._lock:
            return self._checkpoint

    @property
    def error(self) -> CkptdError | None:
        """What went wrong, if it has failed. Reading this does not count as seeing it."""
        with self._lock:
            return self._error

    def see_error(self) -> CkptdError | None:
        """Return what went wrong, None if nothing did; it counts as seen from now on."""
        with self._lock:
            self._is_looked_at = True
            return self._error

    def add_done_callback(self, callback: Callable[[Any], object], argument: object) -> None:
        """Call `callback` with `argument` at the end, in the thread that ends it; at once if it has ended.

        What it raises goes to the log.
        """
        with self._lock:
            if not self._has_ended:
                self._callbacks.append((callback, argument))
                return
        self._call(callback, argument)

    def __str__(self) -> str:
        return "the save without a step" if self.step is None else f"the save of step {self.step}"

    def finish(self, checkpoint: Checkpoint) -> None:
        """End well, unless it has ended."""
        self._end(checkpoint, None)

    def fail(self, error: CkptdError, *, is_known: bool = False) -> None:
        """End badly, unless it has ended. `is_known` if the caller is told otherwise."""
        self._end(None, error, is_known=is_known)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end without raising its error; return whether it has come."""
        if self.is_inherited:
            return self._has_ended
        with self._lock:
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
        with self._lock:
            return self._error is not None or (self._checkpoint is not None and self._aftermath is None)

    def wait_until_over(self, timeout: float | None = None) -> bool:
        """Wait until this process has nothing left to do for it; return whether that happened in time.

        It has ended, every callback was called, and what retention deletes because of it is gone, if this process does
        that itself.
        """
        if self.is_inherited:
            return self._is_over
        with self._lock:
            return self._changed.wait_for(lambda: self._is_over, timeout)

    @property
    def unseen_error(self) -> CkptdError | None:
        """The error, if it has one that was not seen yet; reading this does not count as seeing it."""
        with self._lock:
            return None if self._is_looked_at else self._error

    @property
    def owes_nothing(self) -> bool:
        """Whether it is over, and its error, if any, was seen."""
        with self._lock:
            return self._is_over and (self._error is None or self._is_looked_at)

    def take_unseen_error(self) -> CkptdError | None:
        """Return the error if it has one that was not seen yet; it counts as seen from now on."""
        with self._lock:
            if self._error is None or self._is_looked_at:
                return None
            self._is_looked_at = True
            return self._error

    @property
    def is_inherited(self) -> bool:
        """Whether it is a save of the parent of this forked child."""
        return self._pid != os.getpid()

    @property
    def _has_ended(self) -> bool:
        return self._checkpoint is not None or self._error is not None

    def _end(self, checkpoint: Checkpoint | None, error: CkptdError | None, *, is_known: bool = False) -> None:
        with self._lock:
            if self._has_ended:
                return
            self._checkpoint, self._error, self._is_looked_at = checkpoint, error, is_known
            callbacks, self._callbacks = self._callbacks, []
            self._changed.notify_all()
        try:
            for callback, argument in callbacks:
                self._call(callback, argument)
            if self._aftermath is not None and self._aftermath.retains_here:
                with contextlib.suppress(CkptdError):  # what is left is deleted when the run is opened next
                    self.await_aftermath(Deadline(_RETENTION_S))
        finally:
            with self._lock:
                self._is_over = True
                self._changed.notify_all()

    def _call(self, callback: Callable[[Any], object], argument: object) -> None:
        try:
            callback(argument)
        except Exception:
            _log.exception("a callback of %s has failed: %s", self, callback)
