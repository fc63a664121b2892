"""Many small tensors, each read whole: neighbours come by one read, straight into their arrays.

A checkpoint may have tens of thousands of them, and then what is done for each of them takes longer than moving its
bytes. So this does nothing for one that it could do for all: no boxes, no blocks, no plan, no object for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptd import threads
from ckptd.engine.reading.mismatch import mismatch
from ckptd.errors import CkptdError
from ckptd.format import crc32c
from ckptd.format.plain import PlainTensors
from ckptd.format.stored import StoredTensor
from ckptd.format.varint_columns import IntArray
from ckptd.storage.base import Objects, SummingObjects

Array = NDArray[Any]

MOST_BYTES = 256 << 10
"""A tensor up to this size counts as small."""

_GROUP_BYTES = 4 << 20
_NUM_READERS = 2  # one waits for the disk while the other checks


class SmallReads:
    """Reads small tensors of one checkpoint, each into memory that is laid out as it is stored.

    Attributes:
        arrays: what is filled, by the caller's numbers.
    """

    def __init__(
        self,
        objects: Objects,
        shard_key: Callable[[int], str],
        tensor_of: Callable[[int], StoredTensor],
        tensors: PlainTensors,
        arrays: Mapping[int, Array],
    ) -> None:
        """Prepare to fill `arrays`, one for each of `tensors`, in their order.

        Their keys are what the caller knows them by; `tensor_of` describes one of them, for errors.
        """
        self.arrays = arrays
        self._objects = objects
        self._summing = objects if isinstance(objects, SummingObjects) else None
        self._shard_key = shard_key
        self._tensor_of = tensor_of
        order = np.lexsort((tensors.offset, tensors.shard_id))
        self._tensors = tensors.take(order)
        numbers, memories = list(arrays), list(arrays.values())
        self._numbers = [numbers[row] for row in order.tolist()]
        self._arrays = [memories[row] for row in order.tolist()]

    def carry_out(self) -> None:
        """Read everything; raise `CorruptionError` for a tensor that is wrong."""
        groups = list(self._groups())
        if len(groups) < 2:
            for group in groups:
                self._read(group)
            return
        threads.each(self._read, groups, _NUM_READERS, "ckptd-read")

    def _groups(self) -> Iterator[slice]:
        """Cut what is in order of place into runs of neighbours, none of them too long."""
        shard, offset = self._tensors.shard_id, self._tensors.offset
        gaps = offset[1:] - (offset + self._tensors.size)[:-1]
        is_far = (shard[1:] != shard[:-1]) | (gaps < 0) | (gaps >= self._objects.access.gap_bytes)
        starts = [0, *(np.flatnonzero(is_far) + 1).tolist(), len(offset)]
        for begin, end in pairwise(starts):
            while begin < end:
                stop = begin + int(np.searchsorted(offset[begin:end], offset[begin] + _GROUP_BYTES))
                yield slice(begin, stop)
                begin = stop

    def _read(self, group: slice) -> None:
        offsets: IntArray = self._tensors.offset[group]
        # The bytes of each array, also those of a scalar and of a type that only numpy knows.
        memories = [array.reshape(-1).view(np.uint8).data for array in self._arrays[group]]
        key = self._shard_key(int(self._tensors.shard_id[group.start]))
        views: list[memoryview] = []
        places: list[int] = []
        begin = at = int(offsets[0])
        for offset, memory in zip(offsets.tolist(), memories, strict=True):
            if offset > at:
                views.append(memoryview(bytearray(offset - at)))
            places.append(len(views))
            views.append(memory)
            at = offset + len(memory)
        try:
            if self._summing is not None:
                summed = self._summing.read_summed(key, begin, *views)
                sums = [summed[place] for place in places]
            else:
                self._objects.read_into(key, begin, *views)
                sums = crc32c.each(memories)
        except CkptdError as error:
            first = self._tensor_of(self._numbers[group.start])
            raise error.in_tensor(first.name) from error.__cause__
        crcs = np.array(sums, np.uint32)
        for wrong in np.flatnonzero(crcs != self._tensors.crc32c[group])[:1].tolist():
            tensor = self._tensor_of(self._numbers[group.start + wrong])
            raise mismatch(tensor, tensor.pieces[0], int(crcs[wrong]), key)
