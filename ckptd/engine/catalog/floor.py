"""What the daemon's operator wants kept in a run, whatever its trainers request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ckptd.engine.catalog.tensorflow_rules import HOUR_S


@dataclass(frozen=True, slots=True)
class Floor:
    """What retention and a `save` role leave alone in a run: its newest `keep_at_least`, and whatever is younger."""

    keep_at_least: int = 0
    keep_younger_than_s: float = 0.0

    def why_kept(self, num_newer: int, age_s: float) -> str:
        """Return why a checkpoint stays that has so many newer ones and is so old, in words; "" if it need not."""
        if num_newer < self.keep_at_least:
            return f"the daemon's policy keeps the newest {self.keep_at_least}"
        if self.keep_younger_than_s and age_s < self.keep_younger_than_s:
            return f"the daemon's policy keeps what is younger than {self.keep_younger_than_s / HOUR_S:g} hours"
        return ""


NO_FLOOR = Floor()

FloorNow = Callable[[], Floor]
"""Returns the floor of one run as the policy has it now: it may change at any time."""


def no_floor() -> Floor:
    """Return what holds where there is no policy: the trainer alone decides."""
    return NO_FLOOR
