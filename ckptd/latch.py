"""An event that Ctrl-C cannot break.

`threading.Event` takes its lock in Python code. So a `KeyboardInterrupt` may come when the lock is taken, and nothing
gives it back: from then on every `set` and `wait` of any thread waits for ever. In a save, what the caller's thread
sets is one of these instead.
"""

from __future__ import annotations

import contextlib
import threading
import time

_LOOK_S = 1.0  # Ctrl-C may end a waiter that was woken before it has woken the next one


class Latch:
    """Not set, and then set for good. Any thread may use it."""

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()  # held until it is set
        self._lock.acquire()

    def is_set(self) -> bool:
        """Say whether it is."""
        return self._is_set

    def set(self) -> None:
        """Set it. May be repeated, after an interrupted call too."""
        self._is_set = True  # whoever looks sees it, whatever becomes of the lock
        self._free()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is set, at most so long; return whether it is."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._is_set:
            left_s = _LOOK_S if until is None else min(_LOOK_S, until - time.monotonic())
            if left_s <= 0:
                break
            if self._lock.acquire(timeout=left_s):
                self._free()
        return self._is_set

    def _free(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is free: several set it, or wake each other
            self._lock.release()
