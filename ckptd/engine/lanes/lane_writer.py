"""Takes the bytes of a shard, lane by lane, and keeps the checksum of every segment.

Bytes are sent, in chunks with a checksum each (`LaneWriter.write`), or are in captured memory already
(`LaneWriter.take`); either way the lane ends when its checksums agree with those of the capture.

A lane is what one rank owes one shard, seen as one stream of bytes: its segments one after another. How much of it
has arrived is therefore a single number, which is all that resuming a broken stream needs. Several lanes of a shard are
filled at once, each under its own lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.lanes.geometry import Pieces, Segments, checksum, runs
from ckptd.engine.layout import Column, Layout, Rows
from ckptd.errors import CkptdError, CorruptionError, InvalidRequestError
from ckptd.format import crc32c
from ckptd.storage.base import BorrowingWriter, ByteSink


class LaneWriter:
    """Writes one lane into its shard. Safe from any thread; calls of one lane take turns.

    Attributes:
        rank: the sender.
        shard: where the bytes go.
        size_bytes: of the whole lane.
        progressed_at: when bytes last arrived, on the clock passed in.
        ended: all bytes are here and their checksums agree.
    """

    def __init__(
        self,
        layout: Layout,
        rank: int,
        shard: int,
        writer: ByteSink,
        *,
        now: Callable[[], float],
        on_end: Callable[[], None],
        on_failure: Callable[[CkptdError], None],
    ) -> None:
        """Start with nothing received.

        Args:
            layout: where everything of the save is.
            rank: the sender.
            shard: where the bytes go.
            writer: where the bytes go: the shard's object, which its lanes share, or another agent.
            now: seconds on a forward-only clock.
            on_end: called when the lane has ended.
            on_failure: called with what makes the whole save impossible: the store failed, or a tensor is not what
                was captured. The sender gets the same error.
        """
        self.rank = rank
        self.shard = shard
        self.segments: Rows = layout.lane_segments[rank, shard]
        self._layout = layout
        self._writer = writer
        self._borrower = writer if isinstance(writer, BorrowingWriter) else None
        self._now = now
        self._on_end = on_end
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._segments = Segments(layout.segment_size[self.segments])
        self._offsets: Column = layout.segment_offset[self.segments]  # in the shard
        self.size_bytes = self._segments.size_bytes
        self.crcs: NDArray[np.uint32] = np.zeros(len(self.segments), np.uint32)
        self._compared = 0
        self._received = 0
        self._closed: CkptdError | None = None
        self.ended = False
        self.progressed_at = now()
        self.at_store_since: float | None = None  # while the store takes bytes

    @property
    def received(self) -> int:
        """Bytes of the lane from its start that need never be sent again."""
        return self._received

    def write(self, position: int, data: memoryview, crc: int) -> int:
        """Take `data` for bytes `position` on of the lane; return how much has arrived.

        What arrived before is ignored, so a chunk may be repeated. Raises `CorruptionError` when `data` has not
        the checksum `crc`, `InvalidRequestError` when it would leave a gap or go past the end.
        """
        is_within = len(data) > 0 and 0 <= position <= self.size_bytes - len(data)
        pieces = self._segments.pieces(position, len(data)) if is_within else None
        crcs = [] if pieces is None else pieces.summed(data)
        actual = crc32c.crc32c(data) if pieces is None else checksum((data,), crcs, pieces.sizes)
        if actual != crc:
            raise CorruptionError(
                f"bytes of rank {self.rank} for shard {self.shard} were damaged on the way", offset=position
            )
        with self._lock:
            self.check_open()
            if not len(data) and 0 <= position <= self._received:
                return self._received
            if pieces is None or position > self._received:
                raise InvalidRequestError(
                    f"rank {self.rank} sent bytes for shard {self.shard} out of turn",
                    expected=f"byte {self._received} of {self.size_bytes}",
                    actual=f"bytes {position} to {position + len(data)}",
                )
            fresh = data[self._received - position :]
            if len(fresh):
                if len(fresh) < len(data):
                    pieces = self._segments.pieces(self._received, len(fresh))
                    crcs = pieces.summed(fresh)
                self.at_store_since = self._now()
                try:
                    self._store(fresh, pieces, crcs)
                except CkptdError as error:
                    self._on_failure(error)
                    raise
                finally:
                    self.at_store_since = None
                self.progressed_at = self._now()
            return self._received

    def excuse(self) -> None:
        """Say that the daemon holds its sender back at this moment: it is not the sender that stalls."""
        self.progressed_at = self._now()

    def end(self, first_segment: int, crcs: bytes, last: bool) -> bool:
        """Compare the rank's checksums of its copy, little-endian uint32 per segment from `first_segment` on.

        Returns True when the lane has ended. Raises `CorruptionError` naming the tensor where they disagree.
        """
        with self._lock:
            self.check_open()
            if self.ended:
                return True
            if self._received != self.size_bytes or len(crcs) % 4 or first_segment not in (0, self._compared):
                raise InvalidRequestError(
                    f"rank {self.rank} ended its lane to shard {self.shard} too early",
                    expected=f"{self.size_bytes} bytes",
                    actual=f"{self._received} bytes",
                )
            captured = np.frombuffer(crcs, "<u4")
            through = first_segment + len(captured)
            if through > len(self.crcs) or (last and through < len(self.crcs)):
                raise InvalidRequestError(
                    f"rank {self.rank} sent the wrong number of checksums for shard {self.shard}",
                    expected=len(self.crcs),
                    actual=through,
                )
            self._compare(first_segment, captured)
            self._compared = through
            self.ended = last
        if last:
            self._on_end()
        return last

    def take(self, position: int, data: memoryview, *, may_borrow: bool = True) -> bool:
        """Write the next bytes of the lane, which are side by side in the shard, from memory that is shared with
        the rank.

        Returns whether they are still to be summed, by `sum`. It has to be done after they were copied: what the rank
        changes meanwhile, it changes before the sum is taken. A writer that borrows them gets the sum along with them;
        unless it `may_borrow`, it copies them.
        """
        with self._lock:
            self.check_open()
            assert position == self._received, "captured memory is fed in order"
            offset = int(self._segments.pieces(position, len(data)).offsets(self._offsets)[0])
            self.at_store_since = self._now()
            try:
                if self._borrower is not None and may_borrow:
                    self._borrower.borrow(offset, data, crc32c.joined(*self._sum(position, data)))
                else:
                    self._writer.write(offset, data)
            except CkptdError as error:
                self._on_failure(error)
                raise
            finally:
                self.at_store_since = None
            self._received = position + len(data)
            self.progressed_at = self._now()
            return self._borrower is None or not may_borrow

    def sum(self, position: int, data: memoryview) -> None:
        """Sum the next bytes of the lane, by one thread at a time, in their order."""
        self._sum(position, data)

    def _sum(self, position: int, data: memoryview) -> tuple[list[int], list[int]]:
        """Sum the next bytes; return the checksum and the size of what there is of each segment."""
        pieces = self._segments.pieces(position, len(data))
        crcs = pieces.summed(data)
        self._note_sums(pieces, crcs)
        return crcs, pieces.sizes.tolist()

    def _note_sums(self, pieces: Pieces, crcs: Sequence[int]) -> None:
        """Extend the checksums of the lane's segments by those of its next bytes."""
        begun = crc32c.combine(int(self.crcs[pieces.first]), crcs[0], int(pieces.sizes[0]))
        self.crcs[pieces.rows] = [begun, *crcs[1:]]

    def finish(self, captured: NDArray[np.uint32] | None) -> None:
        """End a lane that was taken whole and summed; `captured` are its rank's checksums, None if there are none."""
        with self._lock:
            self.check_open()
            assert self._received == self.size_bytes, "a lane ends with its last byte"
            if captured is not None:
                self._compare(0, captured)
            self.ended = True
        self._on_end()

    def fail(self, error: CkptdError) -> None:
        """Say that the rest of the lane will never come, and why. Harmless when the save is over."""
        self._on_failure(error)

    def close(self, reason: CkptdError) -> None:
        """Take no more bytes, for a reason that every later call raises; returns when no write is under way."""
        with self._lock:
            self._closed = reason

    def refuse(self, reason: CkptdError) -> None:
        """Do as `close`, and return at once: a write may be under way still."""
        self._closed = reason

    def check_open(self) -> None:
        """Raise why no more bytes are taken, if that is so."""
        if self._closed is not None:
            raise self._closed

    def _compare(self, first_segment: int, captured: NDArray[np.uint32]) -> None:
        differs = np.flatnonzero(captured != self.crcs[first_segment : first_segment + len(captured)])
        if len(differs):
            self._refuse(first_segment + int(differs[0]), int(captured[differs[0]]))

    def _store(self, data: memoryview, pieces: Pieces, crcs: Sequence[int]) -> None:
        """Put the next bytes where their segments are; neighbours in the shard go down in one write."""
        taken = 0
        for _, offset, size in runs(pieces.sizes, pieces.offsets(self._offsets)):
            self._writer.write(offset, data[taken : taken + size])
            taken += size
        self._note_sums(pieces, crcs)
        self._received += len(data)

    def _refuse(self, segment: int, captured: int) -> None:
        layout, row = self._layout, int(self.segments[segment])
        name = layout.names[int(layout.entry_tensor[layout.segment_entry[row]])]
        error = CorruptionError(
            f"tensor {name!r} of rank {self.rank} is not what was captured: its memory was changed during the save",
            expected=f"crc32c {captured:08x}",
            actual=f"crc32c {int(self.crcs[segment]):08x}",
        )
        self._on_failure(error)
        raise error
