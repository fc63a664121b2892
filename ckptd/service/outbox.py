"""What other threads give to tasks of the event loop: a loop that is woken once takes all that has come by then."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Outbox(Generic[T]):
    """See the module. The end of a save is told to a thousand hosts at once: a wake-up for each costs as much again."""

    def __init__(self) -> None:
        """Begin empty. Belongs to the event loop that it is given when something is put."""
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.Queue[T], Sequence[T]]] = []

    def put(self, loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[T], items: Sequence[T]) -> None:
        """Put items into an unbounded queue of the loop, one after another, soon. Thread-safe, never waits.

        All calls name the same loop.
        """
        with self._lock:
            self._waiting.append((queue, items))
            is_first = len(self._waiting) == 1
        if is_first:
            loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for queue, items in waiting:
            for item in items:
                queue.put_nowait(item)
