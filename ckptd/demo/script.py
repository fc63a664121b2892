"""What the demo plays: how many workers, how many steps, and when one is killed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Script:
    """How long the story is, and when the blow falls. `killed_step` is a step at which the workers save."""

    workers: int = 4
    hidden: int = 8192
    last_step: int = 200
    save_every: int = 20
    killed_step: int = 120
    max_to_keep: int = 6
    least_accuracy: float = 0.95

    @property
    def victim(self) -> int:
        """The rank that is killed."""
        return self.workers // 2

    @property
    def survivors(self) -> int:
        """How many workers go on."""
        return self.workers - 1
