"""The order of one rank's saves: a later one is never declared before an earlier one, not even after a restart.

Saves commit in the order of their first declaration. After a restart of the daemon, saves under way are declared again,
and which of our threads notices the restart first is chance. So a save waits until the one before it has been planned
under the present epoch, or has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ckptd.client.deadline import Deadline
from ckptd.errors import UnavailableError


class Turn:
    """One save's place in the order. Any thread may use it.

    Attributes:
        given_up: why the save's caller has given it up; None if it has not.
    """

    def __init__(self, before: Turn | None = None) -> None:
        """Queue behind `before`."""
        self.given_up: str | None = None
        self._before = before
        self._lock = threading.RLock()  # entered itself, as in `Completion`
        self._changed = threading.Condition(self._lock)
        self._epoch = -1
        self._begun_over: object = None
        self._cancel: Callable[[], object] | None = None
        self._is_skipped = False
        self._has_ended = False

    def await_earlier(self, epoch: int, deadline: Deadline) -> None:
        """Wait until this save may be declared under `epoch`; `UnavailableError` at the deadline."""
        while (before := self._before) is not None:
            if not before._await_planned(epoch, deadline.remaining_s):
                raise UnavailableError(
                    f"the save could not begin within {deadline.timeout_s:g} s: the one before it has not been planned"
                )
            if not before._has_ended:
                return
            # A chain of all saves ever made would fill the memory.
            self._before = before._before if before._is_skipped else None

    def may_begin(self, epoch: int, connection: object) -> bool:
        """Whether this save may be begun now over `connection`, which keeps the order of its requests.

        Notes that it is, if so.
        """
        before = self._before
        while before is not None and before._is_skipped:
            before = before._before
        if before is not None:
            with before._lock:
                if not (before._lets_go_on(epoch) or before._begun_over is connection):
                    return False
        self._begun_over = connection
        return True

    def planned(self, epoch: int) -> None:
        """Say that the daemon has planned this save under `epoch`: the next may be declared."""
        with self._lock:
            self._epoch = epoch
            self._changed.notify_all()

    def give_up(self, reason: str) -> None:
        """Say that this save will fail: the next, which may be of the same step, waits until the engine knows that."""
        with self._lock:
            self.given_up, cancel = reason, self._cancel
        if cancel is not None:
            cancel()

    @contextmanager
    def cancelling(self, cancel: Callable[[], object]) -> Iterator[None]:
        """Within this block, `cancel` is called once the save is given up, or if it was before."""
        with self._lock:
            self._cancel, is_given_up = cancel, self.given_up is not None
        if is_given_up:
            cancel()
        try:
            yield
        finally:
            with self._lock:
                self._cancel = None

    def ended(self, *, is_skipped: bool = False) -> None:
        """Say that this save is over, well or badly; `is_skipped` if it took no turn: others wait for those before."""
        with self._lock:
            self._has_ended, self._is_skipped = True, is_skipped
            self._changed.notify_all()

    def await_end(self, timeout_s: float) -> None:
        """Wait until this save is over, at most so long."""
        with self._lock:
            self._changed.wait_for(lambda: self._has_ended, timeout_s)

    def _await_planned(self, epoch: int, timeout_s: float) -> bool:
        with self._lock:
            return self._changed.wait_for(lambda: self._lets_go_on(epoch), timeout_s)

    def _lets_go_on(self, epoch: int) -> bool:
        return self._has_ended or (self._epoch >= epoch and self.given_up is None)
