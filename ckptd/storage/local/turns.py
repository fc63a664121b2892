"""Turns at a path: comparing a file's version and renaming over it is one step within this process.

Each path has a lock of its own, so that a file that can't be replaced because its disk hangs blocks no other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary


class _Turn:
    """The turn at one path, while a thread has it or waits for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


_turns: WeakValueDictionary[str, _Turn] = WeakValueDictionary()
_guard = threading.Lock()


@contextmanager
def turn_at(path: str) -> Iterator[None]:
    """Hold the turn at `path`, alone in this process."""
    with _guard:
        turn = _turns.get(path)
        if turn is None:
            turn = _turns[path] = _Turn()
    with turn.lock:
        yield
