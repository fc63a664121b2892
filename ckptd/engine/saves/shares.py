"""A pool's threads, divided: no run has more than its share of them.

Where a store hangs for one run, each of its calls keeps a thread for as long. Its further calls wait here, in their
order, and the other runs have the rest of the pool.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

Work = Callable[[], None]


@dataclass(slots=True)
class _Part:
    running: int = 0
    waiting: deque[Work] = field(default_factory=deque)


class Shares:
    """See the module. Safe from any thread."""

    def __init__(self, submit: Callable[[Work], object], most: int) -> None:
        """`submit` runs work on the pool, or raises `RuntimeError` once that is closed; `most` are one owner's."""
        self._submit = submit
        self._most = most
        self._lock = threading.Lock()
        self._parts: dict[str, _Part] = {}

    def submit(self, owner: str, work: Work) -> None:
        """Run `work` soon, on one of the threads that `owner` may have."""
        with self._lock:
            part = self._parts.setdefault(owner, _Part())
            if part.running >= self._most:
                part.waiting.append(work)
                return
            part.running += 1
        try:
            self._submit(partial(self._run, owner, part, work))
        except BaseException:
            self._next(owner, part)
            raise

    def num_waiting(self, owner: str) -> int:
        """Return how much of an owner's work waits for a thread."""
        with self._lock:
            part = self._parts.get(owner)
            return 0 if part is None else len(part.waiting)

    def _run(self, owner: str, part: _Part, work: Work) -> None:
        try:
            work()
        finally:
            following = self._next(owner, part)
            if following is not None:
                with suppress(RuntimeError):  # the pool was closed: what still waited comes too late
                    self._submit(partial(self._run, owner, part, following))

    def _next(self, owner: str, part: _Part) -> Work | None:
        """Return this thread's next work; if there is none, release the thread."""
        with self._lock:
            if part.waiting:
                return part.waiting.popleft()
            part.running -= 1
            if not part.running:
                self._parts.pop(owner, None)
            return None


class Share:
    """One owner's part of a pool."""

    def __init__(self, shares: Shares, owner: str) -> None:
        self._shares = shares
        self._owner = owner

    def submit(self, work: Callable[..., None], *arguments: object) -> None:
        """Run `work` soon. It handles its own errors."""
        self._shares.submit(self._owner, partial(work, *arguments))
