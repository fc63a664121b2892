"""Time, passed in so that tests can set it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two kinds of time that must never be mixed up."""

    def wall_s(self) -> float:
        """Seconds since the epoch: for what people read and for the retention rule. May jump."""

    def boot_s(self) -> float:
        """Seconds on a clock that only runs forward, sleep included: for leases, deadlines and durations."""


class SystemClock:
    """The machine's own clocks."""

    def wall_s(self) -> float:
        """Return `time.time()`."""
        return time.time()

    def boot_s(self) -> float:
        """Return CLOCK_BOOTTIME where there is one: a monotonic clock stands still while the host sleeps."""
        return time.clock_gettime(_BOOT) if _BOOT is not None else time.monotonic()


_BOOT = getattr(time, "CLOCK_BOOTTIME", None)
