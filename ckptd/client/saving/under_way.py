"""The saves of one `Checkpointer` that have not ended, and the errors that were not seen yet."""

from __future__ import annotations

import os
import threading

from ckptd.client.deadline import Deadline
from ckptd.client.saving import end_of_process, own_saves, waits
from ckptd.client.saving.completion import Completion
from ckptd.errors import CkptdError, UnavailableError

MAX_SNAPSHOTS = 2
"""Saves under way at once: each holds a copy of the arrays."""

CLOSE_MARGIN_S = 20.0  # a save's own deadline comes first, and its error says why


class UnderWay:
    """See the module. Any thread may use it; every wait ends after `timeout_s`, or a little more.

    A forked child has no saves under way: its parent's saves stay with the parent.
    """

    def __init__(self, timeout_s: float, where: str, place: str = "") -> None:
        """Have nothing under way yet.

        Args:
            timeout_s: see the class.
            where: what they save to, for messages.
            place: the same for `own_saves`. With it, the answers cover everything in this process that saves there.
        """
        self._timeout_s = timeout_s
        self._where = where
        self._place = place
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._pending: list[Completion] = []

    def _check_fork(self) -> None:
        if self._pid != os.getpid():
            self._begin()

    def add(self, pending: Completion) -> None:
        """Add a save; the end of the program waits for it, too."""
        self._check_fork()
        end_of_process.owe(pending, self._where, self._timeout_s)
        if self._place:
            own_saves.add(self._place, pending)
        with self._lock:
            self._pending.append(pending)

    def wait_for_room(self) -> None:
        """Wait until another may begin.

        Raises:
            UnavailableError: the oldest has not ended in time.
        """
        self._check_fork()
        deadline = Deadline(self._timeout_s)
        while True:
            with self._lock:
                under_way = [pending for pending in self._pending if not pending.done()]
            if len(under_way) < MAX_SNAPSHOTS:
                return
            with waits.told("save()"):
                waits.waiting_for(f"{under_way[0]} to end, as {len(under_way)} saves are under way")
                has_ended = under_way[0].wait(deadline.remaining_s)
            if not has_ended:
                raise UnavailableError(
                    f"{under_way[0]} has not ended within {self._timeout_s:g} s, and {len(under_way)} saves are under "
                    "way: another copy of the arrays would take too much memory"
                )

    def wait_for_all(self) -> None:
        """Wait until all have ended.

        Raises:
            UnavailableError: one has not ended in time; it goes on.
        """
        self._check_fork()
        with self._lock:
            pending = list(self._pending)
        for one in pending:
            if not one.wait(self._timeout_s + CLOSE_MARGIN_S):
                raise UnavailableError(f"{one} has not ended; it goes on")

    def await_ends(self, step: int | None = None, name: str | None = None, deadline: Deadline | None = None) -> None:
        """Wait until those of a step and a name have ended, well or badly; None is any.

        Raises:
            UnavailableError: one has not ended in time; it goes on.
        """
        self._check_fork()
        deadline = deadline or Deadline(self._timeout_s + CLOSE_MARGIN_S)
        for one in self._of_place():
            if one.is_of(step, name) and not one.wait(deadline.remaining_s):
                raise UnavailableError(f"{one} has not ended within {deadline.timeout_s:g} s; it goes on")

    def _of_place(self) -> list[Completion]:
        if self._place:
            return own_saves.of(self._place)
        with self._lock:
            return list(self._pending)

    def settle(self, step: int | None, name: str | None) -> None:
        """Wait until those of a step and a name have ended, and until what retention deletes because of it is gone.

        Raises:
            UnavailableError: that has not come to pass in time; it goes on.
        """
        deadline = Deadline(self._timeout_s + CLOSE_MARGIN_S)
        self.await_ends(step, name, deadline)
        for one in self._of_place():
            one.await_aftermath(deadline)

    def unseen(self) -> CkptdError | None:
        """Return the first error that was not seen yet; it still counts as unseen."""
        self._check_fork()
        with self._lock:
            return next((error for one in self._pending if (error := one.unseen_error) is not None), None)

    def raise_unseen(self) -> None:
        """Raise the first error that was not seen yet; forget what is over."""
        self._check_fork()
        with self._lock:
            for pending in self._pending:
                error = pending.take_unseen_error()
                if error is not None:
                    error.add_note(f"this error is from {pending}, which was not waited for")
                    raise error
            self._pending = [pending for pending in self._pending if not pending.done()]
