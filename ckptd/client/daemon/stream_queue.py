"""Streams of one connection take turns: two at once are slower, as gRPC interleaves their frames."""

from __future__ import annotations

import threading

from ckptd.client.deadline import Deadline

OVERLAP_BYTES = 8 << 20
"""About what moves while a stream is opened: the next may begin when the one before has no more than this to go."""

_LOOK_EVERY_S = 0.1  # whether a thread in the queue has given up


class QueuePlace:
    """The head of the queue: taken by one thread, released by whichever end comes first."""

    def __init__(self, line: threading.Semaphore) -> None:
        self._line = line
        self._guard = threading.Lock()
        self._is_taken = False

    def take(self, deadline: Deadline, stop: threading.Event | None = None) -> bool:
        """Wait for it; False when the deadline passes before, or `stop` is set."""
        while not (stop is not None and stop.is_set()) and not deadline.has_passed:
            if self._line.acquire(timeout=min(_LOOK_EVERY_S, max(deadline.remaining_s, 0.001))):
                self._is_taken = True
                return True
        return False

    def give_up(self) -> None:
        """Let the next have it. Harmless when repeated."""
        with self._guard:
            was_taken, self._is_taken = self._is_taken, False
        if was_taken:
            self._line.release()
