"""Memory that another name fills already: tied weights, and views of each other, share it under several names."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from ckptd.torch.arrays import Array


class Taken:
    """The address ranges of arrays."""

    def __init__(self) -> None:
        self._begins: list[int] = []  # of ranges that do not touch, in order
        self._ends: list[int] = []

    def meets(self, array: Array) -> bool:
        """Return whether an array overlaps one that was added."""
        begin, end = _range(array)
        at = bisect.bisect_right(self._ends, begin)
        return begin < end and at < len(self._begins) and self._begins[at] < end

    def add(self, arrays: Iterable[Array]) -> None:
        """Add the ranges of arrays, which may overlap each other."""
        for array in arrays:
            begin, end = _range(array)
            if begin == end:
                continue
            low = bisect.bisect_left(self._ends, begin)
            high = bisect.bisect_right(self._begins, end)
            if low < high:  # merged with the ranges that it touches
                begin, end = min(begin, self._begins[low]), max(end, self._ends[high - 1])
            self._begins[low:high] = [begin]
            self._ends[low:high] = [end]


def _range(array: Array) -> tuple[int, int]:
    """Return the first address and the one after the last; an empty range for an array without elements."""
    begin = end = array.__array_interface__["data"][0]
    if not array.size:
        return begin, begin
    for length, stride in zip(array.shape, array.strides, strict=True):
        reach = (length - 1) * stride
        begin, end = begin + min(reach, 0), end + max(reach, 0)
    return begin, end + array.itemsize
