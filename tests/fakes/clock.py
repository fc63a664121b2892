"""A clock that stands still until a test winds it."""

from __future__ import annotations


class HandClock:
    """A `ckptd.engine.clock.Clock` wound by hand."""

    def __init__(self, wall_s: float = 1_600_000_000.0, boot_s: float = 1000.0) -> None:
        self._wall_s = wall_s
        self._boot_s = boot_s

    def wall_s(self) -> float:
        return self._wall_s

    def boot_s(self) -> float:
        return self._boot_s

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks alike."""
        assert seconds >= 0
        self._wall_s += seconds
        self._boot_s += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward, or back, as an operator or a bad time server would."""
        self._wall_s += seconds
