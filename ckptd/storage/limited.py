"""Write more slowly than a store could, to leave others some of the disk or the network.

One `RateLimit` is shared by all writers that it limits. A writer reserves a small piece, waits its turn, writes, and
does so again: so concurrent writers get equal shares, and none waits for another's whole object.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ckptd.storage.base import Buffer, ObjectStat, ObjectWriter

_STEP_S = 0.05  # what one piece takes at the full rate
_LEAST_STEP_BYTES = 64 << 10
_MOST_STEP_BYTES = 8 << 20
_BURST_S = 0.1  # unused time that may be made up for: sleeping is never exact


class RateLimit:
    """A token bucket. Safe from any thread; waiting threads are served in the order in which they came.

    Attributes:
        bytes_per_s: the rate.
        step_bytes: how much is best taken at once.
    """

    def __init__(
        self,
        bytes_per_s: int,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Begin with an empty bucket."""
        self.bytes_per_s = bytes_per_s
        step = int(bytes_per_s * _STEP_S) // _LEAST_STEP_BYTES * _LEAST_STEP_BYTES
        self.step_bytes = min(max(step, _LEAST_STEP_BYTES), _MOST_STEP_BYTES)
        self._now = now
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next_at = now()  # when the next piece may go

    def take(self, size_bytes: int) -> None:
        """Wait until `size_bytes` may be written."""
        with self._lock:
            now = self._now()
            at = max(self._next_at, now - _BURST_S)
            self._next_at = at + size_bytes / self.bytes_per_s
        if at > now:
            self._sleep(at - now)


class LimitedWriter:
    """An `ObjectWriter` that writes through another one, not faster than a limit allows."""

    def __init__(self, writer: ObjectWriter, limit: RateLimit) -> None:
        """Take over `writer`."""
        self.key = writer.key
        self.size_bytes = writer.size_bytes
        self._writer = writer
        self._limit = limit

    def write(self, offset: int, data: Buffer) -> None:
        """See `ObjectWriter`. The pieces end where the file's pages do: the store may write whole pages only."""
        view = memoryview(data).cast("B")
        step = self._limit.step_bytes
        at = 0
        while at < len(view):
            size = min(step - (offset + at) % step, len(view) - at)
            self._limit.take(size)
            self._writer.write(offset + at, view[at : at + size])
            at += size

    def finish(self) -> ObjectStat:
        """See `ObjectWriter`."""
        return self._writer.finish()

    def abort(self) -> None:
        """See `ObjectWriter`."""
        self._writer.abort()


def limited(writer: ObjectWriter, limit: RateLimit | None) -> ObjectWriter:
    """Return `writer`, limited if there is a limit."""
    return writer if limit is None else LimitedWriter(writer, limit)
