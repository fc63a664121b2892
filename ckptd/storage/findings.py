"""The results of testing a place for checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ckptd.errors import CkptdError


class Outcome(Enum):
    """The outcome of one check."""

    OK = "ok"
    WARNING = "warning"  # works, with something that the operator should know
    REFUSED = "refused"  # checkpoints would not be safe, or not possible


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        name: of the check, for programs too.
        outcome: of the check.
        detail: what was seen, and what follows from it.
        error: what a save would raise, None unless refused.
    """

    name: str
    outcome: Outcome
    detail: str
    error: CkptdError | None = None
