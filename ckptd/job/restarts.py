"""Daemons that end by themselves while the trainer runs: which are started again, and when."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ckptd.errors import ConflictError
from ckptd.job.daemons import JobDaemon
from ckptd.job.processes import how_it_ended

_PAUSE_S = 1.0  # after the second end; longer after each
_LONGEST = 30
_MOST = 20

_log = logging.getLogger("ckptd.run")


class Restarts:
    """See the module."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """None has ended yet; `now` is a forward-only clock, in seconds."""
        self._now = now
        self._times: dict[str, list[float]] = {}
        self._is_given_up: set[str] = set()

    def is_due(self, daemon: JobDaemon, code: int) -> bool:
        """Return whether a daemon that has ended is to be started again now; says so once.

        One that has served, and ended because another has its place, is not: the two would take turns.
        """
        what, now = daemon.what, self._now()
        if what in self._is_given_up:
            return False
        if code == ConflictError.exit_code and daemon.has_served:
            self._is_given_up.add(what)
            _log.error("the %s ended, as another has its place; it is not started again%s", what, daemon.last_words())
            return False
        times = self._times.setdefault(what, [])
        if times and now - times[-1] < _PAUSE_S * min(len(times), _LONGEST):
            return False
        times.append(now)
        if len(times) > _MOST:
            self._is_given_up.add(what)
            _log.error("the %s has ended %d times; it is not started again", what, len(times))
            return False
        _log.warning("the %s ended, %s; it is started again%s", what, how_it_ended(code), daemon.last_words())
        return True
