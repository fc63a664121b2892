"""A wait at the start of a job, of which the user is told: soon, and then now and again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_FIRST_NOTICE_S = 5.0
_NOTICE_S = 30.0

_log = logging.getLogger("ckptd.run")


class Wait:
    """One wait, from now on, for `timeout_s`."""

    def __init__(self, timeout_s: float, now: Callable[[], float] = time.monotonic) -> None:
        """Begin it; `now` is a forward-only clock, in seconds."""
        self._now = now
        self._until, self._tell_at = now() + timeout_s, now() + _FIRST_NOTICE_S

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self._now() >= self._until

    def goes_on(self, what: str | Callable[[], str]) -> None:
        """Tell the user, if it is time to, for what it is; a function is called only then."""
        now = self._now()
        if now >= self._tell_at:
            self._tell_at = now + _NOTICE_S
            said = what if isinstance(what, str) else what()
            _log.warning("waiting for %s; for %.0f s more at most", said, max(0.0, self._until - now))
