"""Many small tensors, each read whole: neighbours come by one read, straight into their arrays.

A checkpoint may have tens of thousands of them, and then what is done for each of them takes longer than moving its
bytes. So this does nothing for one that it could do for all: no boxes, no blocks, no plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.fetch import about, mismatch
from ckptd.engine.objects import Objects
from ckptd.errors import CkptdError
from ckptd.format import crc32c
from ckptd.format.index import Piece, StoredTensor

Array = NDArray[Any]

MOST_BYTES = 256 << 10
"""A tensor up to this size counts as small."""

_GROUP_BYTES = 4 << 20
_NUM_READERS = 2  # one waits for the disk while the other checks


@dataclass(slots=True)
class SmallRead:
    """One stored tensor, and the memory, laid out as it is stored, that it fills."""

    tensor: StoredTensor
    piece: Piece
    shard: int
    offset: int
    out: Array
    memory: memoryview = field(init=False)

    def __post_init__(self) -> None:
        """View the array's bytes, also those of a scalar and of a type that only numpy knows."""
        self.memory = self.out.reshape(-1).view(np.uint8).data


class SmallReads:
    """Reads small tensors of one checkpoint."""

    def __init__(self, objects: Objects, shard_key: Callable[[int], str]) -> None:
        self._objects = objects
        self._shard_key = shard_key

    def carry_out(self, reads: Sequence[SmallRead]) -> None:
        """Do all of `reads`; raise `CorruptionError` for one that is wrong."""
        groups = list(self._groups(sorted(reads, key=attrgetter("shard", "offset"))))
        if len(groups) < 2:
            for group in groups:
                self._read(group)
            return
        with ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="ckptd-read") as pool:
            for _ in pool.map(self._read, groups):
                pass

    def _groups(self, reads: Sequence[SmallRead]) -> Iterator[list[SmallRead]]:
        """Cut what lies in order of place into runs of neighbours, none of them too long."""
        gap_bytes = self._objects.gap_bytes
        group: list[SmallRead] = []
        shard = begin = end = -1
        for read in reads:
            far = read.shard != shard or not 0 <= read.offset - end < gap_bytes
            if far or read.offset - begin >= _GROUP_BYTES:
                if group:
                    yield group
                group, shard, begin = [], read.shard, read.offset
            group.append(read)
            end = read.offset + len(read.memory)
        if group:
            yield group

    def _read(self, group: Sequence[SmallRead]) -> None:
        key = self._shard_key(group[0].shard)
        views: list[memoryview] = []
        at = begin = group[0].offset
        for read in group:
            if read.offset > at:
                views.append(memoryview(bytearray(read.offset - at)))
            views.append(read.memory)
            at = read.offset + len(read.memory)
        try:
            self._objects.read_into(key, begin, *views)
        except CkptdError as error:
            raise about(error, group[0].tensor) from error.__cause__
        for read in group:
            crc = crc32c.crc32c(read.memory)
            if crc != read.piece.crc32c:
                raise mismatch(read.tensor, read.piece, crc, key)
