"""Numbers the saves of a run in the order in which they begin."""

from __future__ import annotations

import threading


class Sequences:
    """See the module. The numbers grow, also across restarts, while any save is left. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next(self) -> int:
        """Return the number of the save that begins now; only once the run has been recovered."""
        with self._lock:
            self._last += 1
            return self._last

    def go_on_after(self, number: int) -> None:
        """Give out only larger numbers from now on."""
        with self._lock:
            self._last = max(self._last, number)
