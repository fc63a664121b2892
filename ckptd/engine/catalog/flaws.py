"""Why a checkpoint does not count as whole: a kind to decide by, and a reason for people."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class FlawKind(Enum):
    """What is wrong with a checkpoint."""

    NO_INDEX = auto()  # to a reader it is no checkpoint
    INCOMPLETE = auto()  # files are missing, or are not those that the index needs
    QUARANTINED = auto()  # its owner has confirmed that it is damaged


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why one checkpoint is not whole; `reason` is text for people."""

    reason: str
    kind: FlawKind = FlawKind.INCOMPLETE

    def __str__(self) -> str:
        return f"in quarantine: {self.reason}" if self.kind is FlawKind.QUARANTINED else self.reason


NO_INDEX = Flaw("its index is missing", FlawKind.NO_INDEX)
