"""What a rank captures into memory that the engine sees too: no byte is sent, the shards are written from there.

The engine follows the capture while it goes on. Once it is sealed, the rank is needed no longer: it may die, and the
save still commits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.layout import Column
from ckptd.errors import CkptdError, InvalidRequestError
from ckptd.latch import Latch

LONG_BYTES = 64 << 20
"""A rank that captures less has done so within milliseconds: nothing needs to wait for it."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes of a shard that are in captured memory as they are in the shard."""

    shard_key: str
    shard_offset: int
    memory_offset: int
    size_bytes: int

    @property
    def end(self) -> int:
        """The byte of the shard after its last one."""
        return self.shard_offset + self.size_bytes


@dataclass(frozen=True, slots=True)
class Holding:
    """What captured memory holds, and of which save: another one may use the same prefix and the same keys later.

    Attributes:
        save_id: of the save, which is published.
        index_crc32c: checksum of its whole index object: a reader knows by it whether this memory is the right one.
        stretches: where its bytes are.
    """

    save_id: str
    index_crc32c: int
    stretches: Sequence[Stretch]


class Memory(Protocol):
    """Memory that a rank captures one save into.

    Attributes:
        data: the memory.
    """

    data: NDArray[np.uint8]

    @property
    def captured(self) -> int:
        """How many bytes, from the start, are in place. Only ever goes up while the rank captures."""

    def check(self) -> None:
        """Raise if the rank has begun to capture something else into it."""


class Capture:
    """One rank's part of one save, in memory: the rank says how far it has come, and the engine follows.

    Any thread may use it.

    Attributes:
        memory: where it is captured.
        offsets: per part of the rank's manifest, where its stored form begins in there.
        is_staged: training can reach it, as it has produced bytes there, and may change it by mistake at any time. Its
            sums are there as soon as it is sealed.
    """

    def __init__(
        self,
        memory: Memory,
        offsets: Column,
        num_sums: int,
        *,
        is_staged: bool = False,
        on_saved: Callable[[Holding], None] = lambda holding: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin to follow a capture.

        Args:
            memory: where it is captured.
            offsets: per part, where its stored form begins.
            num_sums: how many checksums there will be.
            is_staged: see above.
            on_saved: called with what is here of a checkpoint, once that is published.
            on_end: called once when the engine no longer reads the memory.
        """
        self.memory: NDArray[np.uint8] = memory.data
        self.offsets = offsets
        self.is_staged = is_staged
        self._filled = memory
        self._num_sums = num_sums
        self._on_saved = on_saved
        self._on_end = on_end
        self._lock = threading.Lock()
        self._is_sealed = False
        self._is_settled = Latch()  # sealed, or failed
        self._is_summed = Latch()  # or failed
        self._sums: NDArray[np.uint32] | None = None
        self._error: CkptdError | None = None
        self._has_ended = False

    # The rank.

    def seal(self) -> None:
        """Say that all bytes are in place."""
        with self._lock:
            self._is_sealed = self._error is None
        self._is_settled.set()

    def give_sums(self, sums: NDArray[np.uint32]) -> None:
        """Take the checksums of the capture; `InvalidRequestError` if they are too many or too few."""
        if len(sums) != self._num_sums:
            raise InvalidRequestError(
                "a capture came with the wrong number of checksums", expected=self._num_sums, actual=len(sums)
            )
        with self._lock:
            if self._sums is None:
                self._sums = sums
        self._is_summed.set()

    def abandon(self, error: CkptdError) -> None:
        """Say that the rank is gone: the save fails with `error` if bytes were still to come."""
        with self._lock:
            if not self._is_sealed:
                self._error = self._error or error
            elif self._sums is None:
                self._sums = np.zeros(0, np.uint32)  # no process can have changed the bytes since it died
        self._is_settled.set()
        self._is_summed.set()

    def fail(self, error: CkptdError) -> None:
        """Say that the rank gives the save up: it fails with `error`, unless all of it is written."""
        with self._lock:
            self._error = self._error or error
        self._is_settled.set()
        self._is_summed.set()

    # The engine.

    @property
    def available(self) -> int:
        """How many bytes of the memory, from its start, are in place.

        What the rank writes there is believed as far as the checksums bear it out.
        """
        return len(self.memory) if self._is_sealed else self._filled.captured

    @property
    def is_sealed(self) -> bool:
        """Whether all of it is in place for good, so that the rank may go."""
        return self._is_sealed

    def wait_sealed(self, timeout_s: float) -> bool:
        """Wait until it is sealed, or `timeout_s` has passed, or it has failed; return whether it is sealed."""
        self._is_settled.wait(timeout_s)
        return self._is_sealed

    def wait_summed(self, timeout_s: float) -> bool:
        """Wait until `sums` has an answer, or `timeout_s` has passed, or it has failed; return whether it has one."""
        self._is_summed.wait(timeout_s)
        return self._sums is not None

    def sums(self) -> NDArray[np.uint32] | None:
        """Return the checksums that its rank took of it, None while they are still to come.

        One per part and, of strings, two: of the lengths, and of what follows their checksum. Empty when they never
        come, because the rank died after it had sealed: then no process can have changed the bytes since.
        """
        return self._sums

    def check(self) -> None:
        """Raise what ended the capture."""
        if self._error is not None:
            raise self._error
        if not self._is_sealed:
            self._filled.check()

    def saved(self, holding: Holding) -> None:
        """Hear that a checkpoint was saved, and which of its bytes this memory holds."""
        self._on_saved(holding)

    def ended(self) -> None:
        """Hear that the save is over: the memory is no longer read. Harmless when repeated."""
        with self._lock:
            if self._has_ended:
                return
            self._has_ended = True
        self._on_end()
