"""The engine's threads: a bounded pool that knows when nothing is left to do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol

from ckptd import threads
from ckptd.engine.priority import Priority
from ckptd.errors import UnavailableError


class WorkPool(Protocol):
    """Runs work that may wait: on threads, or one after another in a simulation."""

    def open(self) -> None:
        """Be ready; `UnavailableError` if that can't be."""

    def submit(self, work: Callable[..., None], *arguments: object) -> None:
        """Run `work` soon. It handles its own errors."""

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing is left to do, at most so long; return whether that happened in time."""

    def close(self) -> None:
        """Finish what was submitted, and stop."""


class Workers:
    """Runs blocking work on at most `threads` threads. Work may submit further work."""

    def __init__(self, most: int, name: str = "ckptd-engine", priority: Priority | None = None) -> None:
        """Start no thread yet."""
        self._pool = threads.Pool(most, name, priority.apply if priority and priority != Priority() else None)
        self._lock = threading.Lock()
        self._is_closed = False

    def open(self) -> None:
        """Start one thread that stays, so that no work is ever refused for want of a thread.

        Raises:
            UnavailableError: it can't be started.
        """
        try:
            self._pool.open()
        except RuntimeError as error:
            raise UnavailableError(f"no thread could be started: {error}") from error

    def submit(self, work: Callable[..., None], *arguments: object) -> None:
        """Run `work` soon. It handles its own errors."""
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the engine was closed")
        self._pool.submit(partial(work, *arguments))

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing is left to do, at most so long; return whether that happened in time."""
        return self._pool.settle(timeout_s)

    def close(self) -> None:
        """Finish what was submitted, and stop."""
        with self._lock:
            self._is_closed = True
        self._pool.settle()
        self._pool.close()


MakePool = Callable[[int, str, Priority | None], WorkPool]
"""Makes a pool that does at most so much at once, with this name and priority."""
