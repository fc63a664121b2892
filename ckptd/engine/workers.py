"""The engine's threads: a bounded pool that can say when nothing is left to do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ckptd.storage.priority import Priority


class Workers:
    """Runs blocking work on at most `threads` threads. Work may hand over further work."""

    def __init__(self, threads: int, name: str = "ckptd-engine", priority: Priority | None = None) -> None:
        """Start no thread yet."""
        self._pool = ThreadPoolExecutor(threads, name, None if priority is None else priority.apply)
        self._idle = threading.Condition()
        self._outstanding = 0

    def submit(self, work: Callable[..., None], *arguments: object) -> None:
        """Run `work` soon. It handles its own errors."""

        def counted() -> None:
            try:
                work(*arguments)
            finally:
                with self._idle:
                    self._outstanding -= 1
                    self._idle.notify_all()

        with self._idle:
            self._outstanding += 1
        self._pool.submit(counted)

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing is left to do, at most so long; return whether that came to pass."""
        with self._idle:
            return self._idle.wait_for(lambda: self._outstanding == 0, timeout_s)

    def close(self) -> None:
        """Finish what was handed over, and stop."""
        self._pool.shutdown(wait=True)
