"""What is found when a place for checkpoints is tried out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ckptd.errors import CkptdError


class Outcome(Enum):
    """What came of one check."""

    OK = "ok"
    WARNING = "warning"  # works, with something that the operator should know
    REFUSED = "refused"  # checkpoints would not be safe, or not possible


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: of the check, for programs too.
        outcome: what came of it.
        detail: what was seen, and what follows from it.
        error: what a save would run into, None unless refused.
    """

    name: str
    outcome: Outcome
    detail: str
    error: CkptdError | None = None
