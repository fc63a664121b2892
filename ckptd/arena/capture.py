"""What a worker on this host captures into an arena, as the engine sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ckptd.arena.segment import Segment
from ckptd.engine.lanes.capture import Holding
from ckptd.engine.layout import Column
from ckptd.errors import CkptdError, CorruptionError, InvalidRequestError


class SharedCapture:
    """One rank's part of one save in one arena; see `engine.capture.Capture`. Any thread may use it."""

    def __init__(
        self,
        segment: Segment,
        generation: int,
        offsets: Column,
        num_sums: int,
        *,
        is_staged: bool = False,
        on_saved: Callable[[Holding], None],
        on_end: Callable[[], None],
    ) -> None:
        """Begin to follow a capture.

        Args:
            segment: the arena.
            generation: which filling of it this is.
            offsets: per part, where its stored form begins.
            num_sums: how many checksums there will be.
            is_staged: see `Capture`.
            on_saved: called with what lies here of a checkpoint, once that is published.
            on_end: called once when the arena is looked at no longer.
        """
        self.memory: NDArray[np.uint8] = segment.data
        self.offsets = offsets
        self.is_staged = is_staged
        self._segment = segment
        self._generation = generation
        self._num_sums = num_sums
        self._on_saved = on_saved
        self._on_end = on_end
        self._lock = threading.Lock()
        self._is_sealed = False
        self._is_settled = threading.Event()  # sealed, or failed
        self._is_summed = threading.Event()  # or failed
        self._sums: NDArray[np.uint32] | None = None
        self._error: CkptdError | None = None
        self._has_ended = False

    @property
    def available(self) -> int:
        """See `Capture`. What the worker writes there is believed as far as the checksums bear it out."""
        if self._is_sealed:
            return self._segment.size_bytes
        return self._segment.captured if self._segment.generation == self._generation else 0

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
        if not self._is_sealed and self._segment.generation != self._generation:
            raise CorruptionError("a worker began to fill memory again before it was saved")

    def seal(self) -> None:
        """Say that all bytes are in place."""
        with self._lock:
            self._is_sealed = self._error is None
        self._is_settled.set()

    def give_sums(self, crcs: bytes) -> None:
        """Take the checksums of the capture, little-endian; `InvalidRequestError` if they are too many or too few."""
        if len(crcs) != 4 * self._num_sums:
            raise InvalidRequestError(
                "a capture came with the wrong number of checksums", expected=self._num_sums, actual=len(crcs) / 4
            )
        with self._lock:
            if self._sums is None:
                self._sums = np.frombuffer(crcs, "<u4").astype(np.uint32)
        self._is_summed.set()

    def abandon(self, error: CkptdError) -> None:
        """Say that the worker is gone, or has given up: with `error` if something was still to come."""
        with self._lock:
            if not self._is_sealed:
                self._error = self._error or error
            elif self._sums is None:
                self._sums = np.zeros(0, np.uint32)  # nobody can have changed the bytes since it died
        self._is_settled.set()
        self._is_summed.set()

    def saved(self, holding: Holding) -> None:
        """See `Capture`."""
        self._on_saved(holding)

    def ended(self) -> None:
        """See `Capture`. Harmless when repeated."""
        with self._lock:
            if self._has_ended:
                return
            self._has_ended = True
        self._on_end()
