"""Memory for snapshots, kept from one save to the next.

Fresh pages are several times slower to fill than pages that were used before, and a training step waits for the
copy. So the buffer of a finished save is kept for the next one, which is almost always of the same size.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

Buffer = NDArray[np.uint8]

_ROUND_BYTES = 1 << 20


class BufferPool:
    """Lends buffers. Any thread may call it.

    Attributes:
        keep: how many returned buffers are kept; more are freed.
    """

    def __init__(self, keep: int = 2) -> None:
        self.keep = keep
        self._lock = threading.Lock()
        self._free: list[Buffer] = []

    def take(self, size_bytes: int) -> Buffer:
        """Return a buffer of at least `size_bytes`; the caller owns it until `give_back`. Its content is arbitrary."""
        with self._lock:
            fitting = [buffer for buffer in self._free if len(buffer) >= size_bytes]
            if fitting:
                best = min(fitting, key=len)
                self._free = [buffer for buffer in self._free if buffer is not best]
                return best
            if len(self._free) >= self.keep:
                self._drop_smallest()  # it is too small for what is saved now
        # Rounding up lets a save that has grown a little, by its strings say, use the same buffer again.
        rounded = -(-(size_bytes + size_bytes // 32) // _ROUND_BYTES) * _ROUND_BYTES
        return np.empty(rounded, np.uint8)

    def give_back(self, buffer: Buffer) -> None:
        """Take a buffer back; nobody may touch it any more."""
        with self._lock:
            self._free.append(buffer)
            while len(self._free) > self.keep:
                self._drop_smallest()

    def clear(self) -> None:
        """Free what is kept."""
        with self._lock:
            self._free.clear()

    def _drop_smallest(self) -> None:
        sizes = [len(buffer) for buffer in self._free]
        del self._free[sizes.index(min(sizes))]
