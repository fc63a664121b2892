"""How long one call of `save` made training stand still, by what it was for."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ckptd.latch import Latch

WAITING, PREPARING, COPYING, DECLARING = "waiting", "preparing", "copying", "declaring"


class Stall:
    """One call's time. The caller's thread moves it on; any thread may wait for its end and read it.

    Attributes:
        began: when the call began, by the monotonic clock.
    """

    def __init__(self) -> None:
        """Begin now: the call waits for saves before it."""
        self.began = time.monotonic()
        self._part, self._since = WAITING, self.began
        self._seconds = dict.fromkeys((WAITING, PREPARING, COPYING, DECLARING), 0.0)
        self._has_ended = Latch()

    def goes_on_with(self, part: str) -> None:
        """Say what the call does from now on."""
        now = time.monotonic()
        self._seconds[self._part] += now - self._since
        self._part, self._since = part, now

    def ended(self) -> None:
        """Say that the call returns, or raises. What a thread of the save copies after that holds up nothing."""
        if not self._has_ended.is_set():
            self.goes_on_with(self._part)
            self._has_ended.set()

    def seconds(self, patience_s: float) -> Mapping[str, float] | None:
        """Return the seconds of each part, once the call has returned; None if that takes longer than `patience_s`."""
        return dict(self._seconds) if self._has_ended.wait(patience_s) else None
