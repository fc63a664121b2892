"""Why a run cannot be opened now: kept beside the runs, so that one run's damage is told about and stops no other."""

from __future__ import annotations

from dataclasses import dataclass

from ckptd.errors import CkptdError, CorruptionError, InvalidRequestError, NotFoundError, NotPermittedError

_DAMAGE = (CorruptionError, NotPermittedError, InvalidRequestError, NotFoundError)
"""What stays as it is until a person mends it; everything else may pass by itself."""

RETRY_S = 1.0
"""A call about a quarantined run tries to open it again, but no more often than this."""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """One run that could not be opened.

    Attributes:
        run: its name.
        location: its directory, as a person opens it.
        cause: what opening it raised.
        since: when it was first seen, wall clock.
        tried_at: when opening it was last tried, boot clock.
    """

    run: str
    location: str
    cause: CkptdError
    since: float
    tried_at: float

    @property
    def reason(self) -> str:
        """What is wrong, and the way out, in words for people."""
        if isinstance(self.cause, _DAMAGE) and f"{self.run}/".startswith(f"{self.cause.key}/"):
            return (
                f"{self.cause}; the run is quarantined until this is put right by hand: `ckptd repair` mends only what "
                "lies in a run's directory"
            )
        if isinstance(self.cause.__cause__, PermissionError):
            return f"{self.cause}; the run is quarantined until the daemon's user may read and write {self.location}"
        if isinstance(self.cause, _DAMAGE):
            return f"{self.cause}; the run is quarantined until `ckptd repair {self.location}` has mended it"
        return f"{self.cause}; the run cannot be opened, and is tried again"

    def error(self) -> CkptdError:
        """Return a new error of the cause's kind that tells the reason."""
        return type(self.cause)(self.reason)

    def is_due(self, now: float) -> bool:
        """Whether a call may try to open the run again."""
        return now - self.tried_at >= RETRY_S
