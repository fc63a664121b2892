"""The slices that a full entry lists, read into columns: the way back from `columns.slice_list_value`.

Made for listing an index of a million slices, where a Python object per slice would take seconds. It reads
entries as TensorFlow and we write them, and leaves everything else to `Entry.decode`.
"""

from __future__ import annotations

import numpy as np

from ckptd.format.varint_columns import PADDING, IntArray, read_varints

_SHAPE, _SLICES = 0x12, 0x3A
_NUMBERS = (0x08, 0x18, 0x20, 0x28)  # dtype, shard_id, offset, size
_EXTENT, _START, _LENGTH = 0x0A, 0x08, 0x10


def slice_columns(value: bytes, rank: int) -> tuple[IntArray, IntArray] | None:
    """Return starts and lengths, [n, rank], of the slices an entry lists, a length of -1 being a whole dimension.

    None means that the entry is not of the usual form, or lists slices of another rank; nothing is said about
    whether the slices make sense.
    """
    at = _skip_to_slices(value)
    if at is None:
        return None
    begins: list[int] = []
    end = len(value)
    while at < end:
        # One byte holds the size of a slice of up to five dimensions, however large the numbers.
        if value[at] != _SLICES or at + 1 == end or value[at + 1] >= 0x80:
            return None
        begins.append(at + 2)
        at += 2 + value[at + 1]
    if at != end or not begins:
        return None
    return _read(value, np.array(begins), rank)


def _skip_to_slices(value: bytes) -> int | None:
    """Return where the list starts, after the numbers and the shape, which are short."""
    at = 0
    while at + 1 < len(value):
        tag = value[at]
        if tag == _SLICES:
            return at
        if tag in _NUMBERS:
            at += 1
            while at < len(value) and value[at] >= 0x80:
                at += 1
            at += 1
        elif tag == _SHAPE and value[at + 1] < 0x80:
            at += 2 + value[at + 1]
        else:
            return None
    return None


def _read(value: bytes, begins: IntArray, rank: int) -> tuple[IntArray, IntArray] | None:
    """Read one extent after the other of all slices together."""
    data = np.frombuffer(value + PADDING, np.uint8)
    starts = np.zeros((len(begins), rank), np.int64)
    lengths = np.full((len(begins), rank), -1, np.int64)
    ends = begins + data[begins - 1]
    at = begins
    for axis in range(rank):
        if (data[at] != _EXTENT).any():
            return None
        stop = at + 2 + data[at + 1]
        if (stop > ends).any():
            return None
        at = at + 2
        for tag, column in ((_START, starts), (_LENGTH, lengths)):
            present = (at < stop) & (data[at] == tag)
            if present.any():
                numbers, after = read_varints(data, at + 1)
                column[present, axis] = numbers[present]
                at = np.where(present, after, at)
        if (at != stop).any() or (starts[:, axis] < 0).any() or (lengths[:, axis] < -1).any():
            return None
    return (starts, lengths) if (at == ends).all() else None
