"""The entries of many undivided tensors, read into columns: the way back from `columns.entry_values`.

Made for restoring tens of thousands of tensors, where a message and an object for each takes longer than their bytes.
It reads entries as TensorFlow and we write them, and leaves every other one to `Entry.decode`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptd.format.columns import unmask_column
from ckptd.format.varint_columns import PADDING, IntArray, read_varints

_DTYPE, _SHAPE, _SHARD_ID, _OFFSET, _SIZE, _CRC32C = 0x08, 0x12, 0x18, 0x20, 0x28, 0x35
_LONGEST_USUAL = 9  # bytes of a varint: a tenth is there for negative numbers only
_INT32_END = 1 << 31


@dataclass(frozen=True, slots=True)
class EntryColumns:
    """One row per entry, as recorded and not yet checked; numbers of rows that are not usual mean nothing.

    Attributes:
        is_usual: whether the entry could be read, bool [n]. One that lists slices could not.
        heads: the different beginnings of usual entries: messages with dtype and shape alone.
        head: per row, which of `heads` it begins with; -1 if it is not usual.
        shard_id, offset, size: int64 [n]; in bytes.
        crc32c: the plain checksum, uint32 [n].
    """

    is_usual: np.ndarray[Any, np.dtype[np.bool_]]
    heads: list[bytes]
    head: IntArray
    shard_id: IntArray
    offset: IntArray
    size: IntArray
    crc32c: np.ndarray[Any, np.dtype[np.uint32]]


def entry_columns(values: Sequence[bytes]) -> EntryColumns:
    """Read entries; empty ones are not usual."""
    count = len(values)
    data = np.frombuffer(b"".join((*values, bytes(0x80), PADDING)), np.uint8)
    lengths = np.fromiter(map(len, values), np.int64, count)
    ends = np.cumsum(lengths)
    begins = ends - lengths
    is_usual = (lengths > 0) & (data[begins] == _DTYPE)
    _, at = read_varints(data, begins + 1)
    is_usual &= (at <= begins + 5) & (data[at] == _SHAPE) & (data[at + 1] < 0x80)
    at = np.minimum(at + 2 + data[at + 1], ends)
    head_sizes = at - begins
    numbers = []
    for tag in (_SHARD_ID, _OFFSET, _SIZE):
        present = (at < ends) & (data[at] == tag)
        values_here, after = read_varints(data, at + 1)
        is_usual &= ~present | (after <= at + 1 + _LONGEST_USUAL)
        numbers.append(np.where(present, values_here, 0))
        at = np.where(present, np.minimum(after, ends), at)
    present = (at + 5 <= ends) & (data[at] == _CRC32C)
    words = data[at[:, None] + np.arange(1, 5)].copy().view("<u4")[:, 0]
    at = np.where(present, at + 5, at)
    shard_id, offset, size = numbers
    is_usual &= (at == ends) & (shard_id < _INT32_END)
    heads: dict[bytes, int] = {}
    head = [
        heads.setdefault(value[:stop], len(heads)) if usual else -1
        for value, stop, usual in zip(values, head_sizes.tolist(), is_usual.tolist(), strict=True)
    ]
    crc32c = unmask_column(np.where(present, words, np.uint32(0)))
    return EntryColumns(is_usual, list(heads), np.array(head, np.int64), shard_id, offset, size, crc32c)
