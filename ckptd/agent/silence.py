"""How long another agent may say nothing while it is asked for something."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

SILENT_S = 2.0
"""One that waits for its store says so."""


class Silence:
    """Calls something once nothing was heard for `SILENT_S`. One thread hears."""

    def __init__(self, then: Callable[[], object], now: Callable[[], float] = time.monotonic) -> None:
        self._then, self._now = then, now
        self._is_ended = False
        self._heard_at = now()
        self._wait(SILENT_S)

    def is_over(self) -> None:
        """Hear something."""
        self._heard_at = self._now()

    def end(self) -> None:
        """Wait no more."""
        self._is_ended = True
        self._timer.cancel()

    def _wait(self, for_s: float) -> None:
        self._timer = threading.Timer(for_s, self._look)
        self._timer.daemon = True
        self._timer.start()

    def _look(self) -> None:
        """Look whether something was heard: a thread for each message would cost more than the message."""
        if self._is_ended:
            return
        left_s = self._heard_at + SILENT_S - self._now()
        if left_s > 0:
            self._wait(left_s)
            if self._is_ended:
                self._timer.cancel()
        else:
            self._then()
