"""The time in which ranks capture. Training stands still then, on all of them until the last has come to its end.

So the processors and the memory are theirs: other work waits, or takes turns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ckptd.engine.lanes.capture import LONG_BYTES, Capture

_CHECK_S = 0.02  # how often one that waits looks whether it still makes sense


class Standstill:
    """The time in which training stands still for a save: until all its captures, but the smallest, are complete."""

    def __init__(self, captures: Sequence[Capture]) -> None:
        self._captures = [capture for capture in captures if len(capture.memory) >= LONG_BYTES]
        self._is_over = False
        self._turn = threading.Lock()

    @property
    def is_over(self) -> bool:
        """Whether every capture that takes long is complete."""
        if not self._is_over:
            self._is_over = all(capture.is_sealed for capture in self._captures)
        return self._is_over

    def wait(self, check: Callable[[], None]) -> None:
        """Wait until it is over; raise what ended a capture before. `check` raises what else ends the wait."""
        for capture in () if self._is_over else self._captures:
            wait_sealed(capture, check)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be the only one to work, until it is over."""
        is_ours = False
        while not (self.is_over or is_ours):
            is_ours = self._turn.acquire(timeout=_CHECK_S)
        try:
            yield
        finally:
            if is_ours:
                self._turn.release()


def wait_sealed(capture: Capture, check: Callable[[], None]) -> None:
    """Wait until a capture is complete; raise what ended it before. `check` raises what else ends the wait."""
    _wait(capture, capture.wait_sealed, check)


def wait_summed(capture: Capture, check: Callable[[], None]) -> None:
    """Wait until the checksums of a capture's rank are there, or will never come. Raises as `wait_sealed` does."""
    _wait(capture, capture.wait_summed, check)


def _wait(capture: Capture, wait: Callable[[float], bool], check: Callable[[], None]) -> None:
    while not wait(_CHECK_S):
        capture.check()
        check()
