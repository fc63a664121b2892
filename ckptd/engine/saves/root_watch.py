"""Whether a coordinator still has its root: looked up from time to time, and told to all agents once it has not.

From then on it says nothing else: whether a save under way counts is for the other coordinator to say, which may go on
with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ckptd.engine.catalog.term import Term
from ckptd.engine.clock import Clock
from ckptd.engine.hosts.attendance import Attendance
from ckptd.engine.hosts.messages import Fenced

_log = logging.getLogger("ckptd.engine")

_LOOK_AGAIN_S = 2.0


class RootWatch:
    """See the module. One thread calls `tick`; the rest is for any thread."""

    def __init__(self, term: Term, attendance: Attendance, clock: Clock) -> None:
        """Begin with a root that is ours, as `term` has been taken just now."""
        self._term, self._attendance, self._clock = term, attendance, clock
        self._looked_at = clock.boot_s()
        self._is_told = False

    @property
    def is_fenced(self) -> bool:
        """Whether another coordinator has the root, or an agent has heard so. That is final."""
        return self._term.is_fenced or self._attendance.is_fenced

    def fenced(self) -> Fenced:
        """Return what tells an agent to look up which coordinator the root has, and to attend there and tell all."""
        attendance = self._attendance
        other = self._term.other_owner or (f"a coordinator of term {attendance.fenced_by}" if self.is_fenced else "")
        return Fenced(max(attendance.fenced_by, attendance.term), other or attendance.holder)

    def tick(self, submit: Callable[[Callable[[], None]], None], tell_all: Callable[[Fenced], None]) -> None:
        """Look, on another thread, if it is time; `tell_all` when the root is lost, once."""
        if self.is_fenced:
            if not self._is_told:
                self._is_told = True
                _log.error("this root has another coordinator (%s): this one does nothing more", self.fenced().holder)
                tell_all(self.fenced())
            return
        now = self._clock.boot_s()
        if now - self._looked_at >= _LOOK_AGAIN_S:
            self._looked_at = now
            submit(self._term.confirm)
