"""What limits a measured save or restore, found by comparing it with the limits of the same machine. Pure.

Each limit says how long its part alone would take: the disk for these bytes, a copy of them, the processor seconds that
were spent. The work can't be faster than the longest of them, however much of it goes on at the same time; the
nearer the longest comes to what was measured, the more it is the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

_REASON = 0.5  # a limit that accounts for less than half of the time is not the reason


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long each part takes by itself, for the bytes in question; in seconds."""

    write_s: float
    read_s: float
    copy_s: float  # into memory that exists
    new_memory_s: float  # into memory that does not: the kernel has to find and clear it
    sync_s: float  # of a small file


@dataclass(frozen=True, slots=True)
class Bound:
    """What accounts for most of a measured time, and for how much of it: 1.0 and above is all of it."""

    what: str
    share: float

    def __str__(self) -> str:
        return f"{self.what} ({min(self.share, 1.0):.0%})"


def bound_of(took_s: float, parts: dict[str, float]) -> Bound | None:
    """Return which part accounts for most of `took_s`; None if none does for half: then it is waiting, or fixed costs.

    `parts` maps what a limit is called to how long it would take alone.
    """
    if took_s <= 0 or not parts:
        return None
    what, seconds = max(parts.items(), key=lambda part: part[1])
    share = seconds / took_s
    return Bound(what, share) if share >= _REASON else None


def processor_s(worker_s: float, daemon_s: float, num_cores: int) -> float:
    """Return how long the processor seconds of both took at least.

    They share the cores; and Python lets one thread of each process work at a time, for the most part.
    """
    return max(worker_s, daemon_s, (worker_s + daemon_s) / num_cores)
