"""What the demo found: its claims, the checkpoints that are left, and what was measured. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CheckedClaim:
    """Something that the demo says, whether it was found to hold, and what was seen."""

    text: str
    held: bool
    seen: str


@dataclass(frozen=True, slots=True)
class Kept:
    """One checkpoint at the end: what it is, how saving it went, and how it was found."""

    step: int
    prefix: str
    workers: int
    shards: int
    size_bytes: int
    stall_s: float
    durable_s: float
    steps_meanwhile: int
    intact: bool
    same_bits: bool


@dataclass(slots=True)
class DemoOutcome:
    """Everything that was measured and checked."""

    directory: str
    claims: list[CheckedClaim] = field(default_factory=list)
    checkpoints: list[Kept] = field(default_factory=list)
    accuracy: float = 0.0
    step_s: float = 0.0
    stall_s: float = 0.0
    durable_s: float = 0.0
    num_saves: int = 0
    killed_step: int = 0
    resumed_step: int = 0
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        """Whether every claim was found to hold."""
        return bool(self.claims) and all(claim.held for claim in self.claims)

    def claim(self, text: str, held: bool, seen: str) -> None:
        """Note one claim and what was seen of it."""
        self.claims.append(CheckedClaim(text, held, seen))
