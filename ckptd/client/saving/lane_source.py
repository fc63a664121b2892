"""The bytes of one lane, taken from a snapshot: chunks to send, and checksums of the segments.

Over gRPC every chunk becomes a message. What is captured in memory that the engine sees needs no chunks.
Every byte is summed once: a chunk's checksum and a segment's are put together from the same runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ckptd.client.capture.snapshot import Snapshot
from ckptd.engine.lanes.feeding import first_sums
from ckptd.engine.lanes.geometry import Pieces, Segments, checksum, runs, split
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
        self._segments = Segments(lane.sizes)
        self._offsets = snapshot.offsets[lane.items] + lane.item_offsets  # of each segment, in the snapshot's memory
        # Per segment, how many of its bytes have been summed, and their checksum: nothing is summed twice.
        self._summed = np.zeros(len(lane.sizes), np.int64)
        self._crcs = np.zeros(len(lane.sizes), np.int64)

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
            self._sum_the_rest()
        packed = (self._crcs if self._captured is None else self._captured).astype("<u4").tobytes()
        count = len(self._crcs)
        for first in range(0, max(count, 1), CRCS_PER_PART):
            yield first, packed[4 * first : 4 * (first + CRCS_PER_PART)], first + CRCS_PER_PART >= count

    def _chunk(self, position: int, size: int) -> LaneChunk:
        pieces = self._segments.pieces(position, size)
        lie = runs(pieces.sizes, pieces.offsets(self._offsets))
        views = [self._snapshot.memory[begin : begin + run_bytes] for _, begin, run_bytes in lie]
        if self._captured is not None:
            views = [memoryview(bytes(view)) for view in views]  # so that what is summed is what is sent
        firsts = [first for first, _, _ in lie]
        crcs: list[int] = []
        for view, first, end in zip(views, firsts, [*firsts[1:], len(pieces.sizes)], strict=True):
            crcs += crc32c.each(split(view, pieces.sizes[first:end]))
        self._note_sums(pieces, crcs)
        return LaneChunk(position, checksum(views, crcs, pieces.sizes), tuple(views))

    def _note_sums(self, pieces: Pieces, crcs: list[int]) -> None:
        """Extend the checksums of the segments, where these bytes are their next ones."""
        rows = pieces.rows
        starts = np.zeros(len(pieces.sizes), np.int64)
        starts[0] = pieces.within
        is_next = self._summed[rows] == starts
        sums = np.array(crcs, np.int64)
        sums[0] = crc32c.combine(int(self._crcs[pieces.first]), crcs[0], int(pieces.sizes[0]))
        self._crcs[rows] = np.where(is_next, sums, self._crcs[rows])
        self._summed[rows] = np.where(is_next, starts + pieces.sizes, self._summed[rows])

    def _sum_the_rest(self) -> None:
        """Sum what was not sent by us: after a break the daemon may have had more than we knew."""
        for segment in np.flatnonzero(self._summed < self.lane.sizes).tolist():
            begin, start = int(self._offsets[segment]), int(self._summed[segment])
            size = int(self.lane.sizes[segment])
            rest = self._snapshot.memory[begin + start : begin + size]
            self._crcs[segment], self._summed[segment] = crc32c.extend(int(self._crcs[segment]), rest), size


def _captured_crcs(lane: Lane, snapshot: Snapshot) -> Column | None:
    """Return the checksum that each segment had when it was captured, where that was taken; None where not."""
    if snapshot.sums is None:
        return None
    rows = first_sums(snapshot.manifest)[lane.items] + (lane.item_offsets > 0)
    return snapshot.sums[rows].astype(np.int64)
