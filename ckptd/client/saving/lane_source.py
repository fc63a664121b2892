"""The bytes of one lane, taken from a snapshot: chunks to send, and checksums of the segments.

Over gRPC every chunk becomes a message. What is captured in memory that the engine sees needs no chunks.
Every byte is summed once: a chunk's checksum and a segment's are put together from the same runs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from ckptd.client.capture.snapshot import Snapshot
from ckptd.engine.lanes.feeding import first_sums
from ckptd.engine.layout import Column, Lane
from ckptd.format import crc32c

CRCS_PER_PART = 100_000
"""How many segments' checksums one message carries: four bytes each, well below the limit of a message."""


@dataclass(frozen=True, slots=True)
class LaneChunk:
    """Bytes of a lane from `position` on, in views of the snapshot; `crc32c` is of all of them."""

    position: int
    crc32c: int
    views: tuple[memoryview, ...]

    def joined(self) -> memoryview:
        """Return the bytes as one view; copied only if there are several."""
        return self.views[0] if len(self.views) == 1 else memoryview(b"".join(self.views))


class LaneSource:
    """One lane of one snapshot. One thread at a time may use it; sending may start over at any position."""

    def __init__(self, lane: Lane, snapshot: Snapshot, chunk_bytes: int) -> None:
        self.lane = lane
        self.size_bytes = int(lane.size_bytes)
        self.arrived = 0  # bytes, as far as the other end has said
        self._snapshot = snapshot
        self._captured = _captured_crcs(lane, snapshot)
        self._chunk_bytes = chunk_bytes
        self._items: list[int] = lane.items.tolist()
        self._offsets: list[int] = lane.item_offsets.tolist()
        self._sizes: list[int] = lane.sizes.tolist()
        self._ends = list(accumulate(self._sizes))
        # Per segment, how many of its bytes have been summed, and their checksum: nothing is summed twice.
        self._summed = [0] * len(self._sizes)
        self._crcs = [0] * len(self._sizes)

    def chunks(self, position: int = 0) -> Iterator[LaneChunk]:
        """Yield the lane from byte `position` on, in chunks of the same size."""
        while position < self.size_bytes:
            size = min(self._chunk_bytes, self.size_bytes - position)
            chunk = self._chunk(position, size)
            yield chunk
            position += size

    def segment_crcs(self) -> Iterator[tuple[int, bytes, bool]]:
        """Yield the packed checksums of all segments: number of the first, bytes, whether these are the last.

        There is at least one, also for a lane without segments.
        """
        if self._captured is None:
            for segment, size in enumerate(self._sizes):
                self._sum_up_to(segment, size)
        packed = np.array(self._crcs if self._captured is None else self._captured, "<u4").tobytes()
        count = len(self._crcs)
        for first in range(0, max(count, 1), CRCS_PER_PART):
            yield first, packed[4 * first : 4 * (first + CRCS_PER_PART)], first + CRCS_PER_PART >= count

    def _chunk(self, position: int, size: int) -> LaneChunk:
        views: list[memoryview] = []
        chunk_crc = 0
        segment = bisect_right(self._ends, position)  # skips segments without bytes
        at = position
        while at < position + size:
            start = at - (self._ends[segment] - self._sizes[segment])
            length = min(self._ends[segment], position + size) - at
            if not length:
                segment += 1
                continue
            run_crc = 0
            for view in self._snapshot.views(self._items[segment], self._offsets[segment] + start, length):
                if self._captured is not None:
                    view = memoryview(bytes(view))  # so that what is summed is what is sent
                run_crc = crc32c.extend(run_crc, view)
                views.append(view)
            if self._summed[segment] == start:
                self._crcs[segment] = crc32c.combine(self._crcs[segment], run_crc, length)
                self._summed[segment] = start + length
            chunk_crc = crc32c.combine(chunk_crc, run_crc, length) if at > position else run_crc
            at += length
            segment += 1
        return LaneChunk(position, chunk_crc, tuple(views))

    def _sum_up_to(self, segment: int, size: int) -> None:
        """Sum what was not sent by us: after a break the daemon may have had more than we knew."""
        start = self._summed[segment]
        if start >= size:
            return
        crc = self._crcs[segment]
        for view in self._snapshot.views(self._items[segment], self._offsets[segment] + start, size - start):
            crc = crc32c.extend(crc, view)
        self._crcs[segment], self._summed[segment] = crc, size


def _captured_crcs(lane: Lane, snapshot: Snapshot) -> Column | None:
    """Return the checksum that each segment had when it was captured, where that was taken; None where not."""
    if snapshot.sums is None:
        return None
    rows = first_sums(snapshot.manifest)[lane.items] + (lane.item_offsets > 0)
    return snapshot.sums[rows].astype(np.int64)
