"""Where the segments of a lane are: one after another in the lane, anywhere in memory and in the shard.

Both ends of a lane do the same with it: find the segments that a range of its bytes touches, sum each of them, and join
neighbours that are side by side elsewhere into runs. That is done here by columns, never segment by segment in Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ckptd.engine.layout import Column
from ckptd.format import crc32c

_JOIN_BYTES = 6 << 10


@dataclass(frozen=True, slots=True)
class Pieces:
    """What a range of a lane's bytes has of each segment.

    Attributes:
        first: the first segment that it touches.
        within: where in that segment it begins.
        sizes: per segment, from the first on, bytes; 0 for a segment without any.
    """

    first: int
    within: int
    sizes: Column

    @property
    def rows(self) -> slice:
        """The segments, as rows of a column that has one per segment of the lane."""
        return slice(self.first, self.first + len(self.sizes))

    def offsets(self, column: Column) -> Column:
        """Return where each piece begins elsewhere, given where each segment of the lane begins there."""
        begins = column[self.rows].copy()
        begins[0] += self.within
        return begins

    def summed(self, data: memoryview) -> list[int]:
        """Return the CRC-32C of each piece; `data` is the whole range."""
        return crc32c.each(split(data, self.sizes))


class Segments:
    """The segments of one lane, by their sizes in bytes.

    Attributes:
        ends: per segment, where in the lane it ends.
        size_bytes: of the whole lane.
    """

    def __init__(self, sizes: Column) -> None:
        self.ends: Column = np.cumsum(sizes)
        self.size_bytes = int(self.ends[-1]) if len(sizes) else 0

    def pieces(self, position: int, size: int) -> Pieces:
        """Return what the `size` > 0 bytes from `position` on have of each segment."""
        first = int(np.searchsorted(self.ends, position, side="right"))  # skips segments without bytes
        last = int(np.searchsorted(self.ends, position + size, side="left"))
        begin = int(self.ends[first - 1]) if first else 0
        bounds = self.ends[first : last + 1] - position
        bounds[-1] = size
        return Pieces(first, position - begin, np.diff(bounds, prepend=0))


def split(data: memoryview, sizes: Column) -> Iterator[memoryview]:
    """Yield `data` in parts of these sizes, one after another."""
    ends = np.cumsum(sizes).tolist()
    return (data[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True))


def checksum(views: Sequence[memoryview], crcs: Sequence[int], sizes: Column) -> int:
    """Return the CRC-32C of `views` together, whose pieces of these sizes have these checksums.

    To join two checksums takes as long as to sum some KiB that are in the cache, so short pieces are summed again.
    """
    if len(crcs) * _JOIN_BYTES <= int(sizes.sum()):
        return crc32c.joined(crcs, sizes.tolist())
    return crc32c.of_all(views)


def first_of_runs(sizes: Column, *offsets: Column) -> Column:
    """Return the rows at which runs begin: of what is side by side, by every column of `offsets`."""
    begins = np.ones(len(sizes), bool)
    begins[1:] = False
    for column in offsets:
        begins[1:] |= column[1:] != column[:-1] + sizes[:-1]
    return np.flatnonzero(begins)


def runs(sizes: Column, offsets: Column) -> Sequence[tuple[int, int, int]]:
    """Join what is side by side: the first row, the offset and the size of each run, in bytes.

    Rows without bytes are nowhere: they begin no run, and belong to the one before them.
    """
    rows = np.flatnonzero(sizes)
    first = rows[first_of_runs(sizes[rows], offsets[rows])]
    return list(zip(first.tolist(), offsets[first].tolist(), np.add.reduceat(sizes, first).tolist(), strict=True))
