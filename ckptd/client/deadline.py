"""How much time is left for an operation, and how long to pause between attempts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from ckptd.errors import UnavailableError

_FIRST_PAUSE_S = 0.05


class Deadline:
    """The time at which every wait of an operation ends, on a monotonic clock."""

    def __init__(self, timeout_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self.timeout_s = timeout_s
        self._now = now
        self._end_s = now() + timeout_s

    @property
    def remaining_s(self) -> float:
        """Seconds left; 0.0 when it has passed."""
        return max(0.0, self._end_s - self._now())

    @property
    def has_passed(self) -> bool:
        """Whether no time is left."""
        return self.remaining_s == 0.0

    def check(self, what: str) -> None:
        """Raise `UnavailableError` that says "`what` within … s" once it has passed."""
        if self.has_passed:
            raise UnavailableError(f"{what} within {self.timeout_s:g} s")


class Backoff:
    """Pauses between attempts: twice as long each time, up to a limit, with jitter.

    Many workers lose the same daemon at the same moment; the jitter keeps them from reconnecting all at once.
    """

    def __init__(self, longest_s: float = 2.0) -> None:
        self._pause_s = _FIRST_PAUSE_S
        self._longest_s = longest_s

    def next_s(self, deadline: Deadline) -> float:
        """Return how long to pause now: never beyond the deadline."""
        pause_s = self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        self._pause_s = min(2 * self._pause_s, self._longest_s)
        return min(pause_s, deadline.remaining_s)
