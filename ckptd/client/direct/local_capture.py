"""A capture that the engine of this very process follows: direct mode."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from ckptd.client.capture.buffers import Room
from ckptd.client.deadline import Deadline
from ckptd.engine.lanes.capture import Holding
from ckptd.engine.layout import Column
from ckptd.errors import CkptdError, SessionAbortedError


class LocalCapture:
    """Both ends of one: a `Handover` for the capturing thread, a `Capture` for the engine."""

    def __init__(self, room: Room, offsets: Column, *, is_staged: bool = False) -> None:
        self.memory: NDArray[np.uint8] = room.data
        self.offsets = offsets
        self.is_staged = is_staged
        self._room = room
        self._is_sealed = False
        self._is_settled = threading.Event()  # sealed, or failed
        self._is_summed = threading.Event()  # or failed
        self._sums: NDArray[np.uint32] | None = None
        self._error: CkptdError | None = None

    # The capturing thread's end.

    def seal(self, sums: NDArray[np.uint32] | None) -> None:
        """See `Handover`."""
        if sums is not None:
            self.give_sums(sums)
        self._is_sealed = True
        self._is_settled.set()

    def give_sums(self, sums: NDArray[np.uint32]) -> None:
        """See `Handover`."""
        self._sums = sums
        self._is_summed.set()

    def drop(self, reason: str) -> None:
        """See `Handover`."""
        self._error = SessionAbortedError(f"the save was given up: {reason}")
        self._is_settled.set()
        self._is_summed.set()

    def wait(self, deadline: Deadline, *, until_summed: bool) -> None:
        """See `Handover`. The engine follows from the declaration on."""

    # The engine.

    @property
    def available(self) -> int:
        """See `Capture`."""
        return len(self.memory) if self._is_sealed else self._room.captured

    @property
    def is_sealed(self) -> bool:
        """See `Capture`."""
        return self._is_sealed

    def wait_sealed(self, timeout_s: float) -> bool:
        """See `Capture`."""
        self._is_settled.wait(timeout_s)
        return self._is_sealed

    def wait_summed(self, timeout_s: float) -> bool:
        """See `Capture`."""
        self._is_summed.wait(timeout_s)
        return self._sums is not None

    def sums(self) -> NDArray[np.uint32] | None:
        """See `Capture`."""
        return self._sums

    def check(self) -> None:
        """See `Capture`."""
        if self._error is not None:
            raise self._error

    def saved(self, holding: Holding) -> None:
        """See `Capture`. Nobody could read from here what a restart of this process needs."""

    def ended(self) -> None:
        """See `Capture`. The capturing thread learns it from the outcome."""
