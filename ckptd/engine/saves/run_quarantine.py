"""Why a run cannot be opened now: kept beside the runs, so that one run's damage is reported and stops no other."""

from __future__ import annotations

from dataclasses import dataclass

from ckptd.engine.log import logger
from ckptd.errors import CkptdError, CorruptionError, InvalidRequestError, NotFoundError, NotPermittedError

_DAMAGE = (CorruptionError, NotPermittedError, InvalidRequestError, NotFoundError)
"""Errors that stay until a person mends them; everything else may pass by itself."""

RETRY_S = 1.0
"""A call about a quarantined run tries to open it again, but no more often than this."""

_AGAIN_S = 30.0  # quarantined runs are tried so often without a call
_MOST = 1024  # a peer may send names that are no runs: the memory for them is bounded


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

    def log(self) -> None:
        """Say it in the log."""
        why = {"event": "quarantined", "run": self.run, "why": str(self.cause)}
        logger.warning("%s: %s", self.run, self.reason, extra={"ckptd": why})


class Quarantines:
    """The runs of a root that cannot be opened, and what is wrong with those that were opened all the same.

    One lock guards it, that of `Runs`. Times are on the boot clock.
    """

    def __init__(self) -> None:
        """Begin with nothing in quarantine."""
        self._quarantined: dict[str, Quarantine] = {}
        self._problems: dict[str, tuple[str, ...]] = {}
        self._retry_at = 0.0

    def check_may_try(self, run: str, now: float) -> None:
        """Raise why a run is quarantined, unless it is time to try it again."""
        known = self._quarantined.get(run)
        if known is not None and not known.is_due(now):
            raise known.error()

    def add(self, run: str, location: str, error: CkptdError, *, since: float, now: float) -> tuple[Quarantine, bool]:
        """Note why a run could not be opened, and since when by the wall clock; return that, and whether it is new."""
        before = self._quarantined.get(run)
        noted = Quarantine(run, location, error, since if before is None else before.since, now)
        self._quarantined[run] = noted
        while len(self._quarantined) > _MOST:
            del self._quarantined[next(iter(self._quarantined))]
        return noted, before is None or str(before.cause) != str(error)

    def opened(self, run: str, problems: tuple[str, ...]) -> None:
        """Note that a run was opened, and what is wrong with it all the same."""
        self._problems.pop(run, None)
        if problems and len(self._problems) < _MOST:
            self._problems[run] = problems
        if self._quarantined.pop(run, None) is not None:
            logger.info("%s is in order again, and no longer quarantined", run)

    def forget(self, run: str) -> None:
        """Check a run again when it is opened next."""
        self._quarantined.pop(run, None)
        self._problems.pop(run, None)

    def all(self) -> list[Quarantine]:
        """Return them by the names of the runs."""
        return [self._quarantined[run] for run in sorted(self._quarantined)]

    def problems(self) -> dict[str, tuple[str, ...]]:
        """Return what is wrong with runs that are not quarantined, as it was when they were opened last."""
        return {run: problems for run, problems in self._problems.items() if run not in self._quarantined}

    def to_try(self, now: float) -> list[str]:
        """Return, once in a while, the runs to try again without a call."""
        if not self._quarantined or now < self._retry_at:
            return []
        self._retry_at = now + _AGAIN_S
        return list(self._quarantined)
