"""Repeat a request: with growing pauses, which spare a server in trouble, and for a limited time."""

from __future__ import annotations

import logging
import random
import time

from ckptd.errors import UnavailableError

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0
_SILENT_S = 5.0  # shorter waits are not logged


class Retries:
    """The attempts at one request. Its time begins when this is made."""

    def __init__(self, deadline_s: float) -> None:
        """After `deadline_s` there are no more."""
        self._deadline_s = deadline_s
        self._began_at = time.monotonic()
        self._pause_s = _FIRST_PAUSE_S
        self._is_told = False

    @property
    def left_s(self) -> float:
        """How long there may be further attempts."""
        return self._began_at + self._deadline_s - time.monotonic()

    def excuse(self, seconds: float) -> None:
        """Let the deadline be later: so long it went on, or waited for its turn."""
        self._began_at += seconds

    def pause(self, error: UnavailableError) -> None:
        """Wait before the next attempt; raise `error` when there is no time for one."""
        wait_s = self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311 (jitter, no secret)
        past_s = time.monotonic() - self._began_at
        if past_s + wait_s > self._deadline_s:
            error.add_note(f"this has lasted for {self._deadline_s:g} s")
            raise error
        if past_s > _SILENT_S and not self._is_told:
            self._is_told = True
            _log.warning("%s; retrying for %.0f s", error, self._deadline_s - past_s)
        time.sleep(wait_s)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
