"""Rows of bytes that are built a field at a time, for all rows at once.

A matrix with one row per record is wide enough for the longest form of each field, beside a mask of the bytes that are
used; the masked bytes, row after row, are the encoding. Nothing here runs a step of Python per record.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ckptd.format.coding import encode_varint, varint_size
from ckptd.format.ordered_code import encode_snum, snum_size
from ckptd.format.ragged import Bytes, IntArray, Ragged

Mask = np.ndarray[Any, np.dtype[np.bool_]]


class ByteRows:
    """Rows of bytes that grow to the right, one field at a time."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._width = 0
        # Bytes [n or 1, width] and which of them are there; None means all.
        self._parts: list[tuple[Bytes, Mask | None]] = []

    def constant(self, data: bytes) -> None:
        """Append the same bytes to every row."""
        self.matrix(np.frombuffer(data, np.uint8)[None, :], None)

    def matrix(self, data: Bytes, present: Mask | None) -> None:
        """Append to each row those bytes of the matrix's row that are present."""
        self._parts.append((data, present))
        self._width += data.shape[1]

    def field(self, tag: int, values: IntArray, present: Mask | None = None) -> None:
        """Append a varint field, left out of rows where it is not present; by default, where it is 0."""
        if present is None:
            present = values != 0
        if not present.any():
            return
        coded, mask = varints(values)
        if present.all():
            self.constant(bytes((tag,)))
            self.matrix(coded, mask)
        else:
            here = present[:, None]
            self.matrix(np.full((1, 1), tag, np.uint8), here)
            self.matrix(coded, here.repeat(coded.shape[1], axis=1) if mask is None else mask & here)

    def message(self, tag: int, rows: ByteRows) -> None:
        """Append a field that holds the other rows' bytes."""
        data, mask = rows.joined()
        sizes = np.full(self._count, data.shape[1]) if mask is None else mask.sum(axis=1)
        self.constant(bytes((tag,)))
        self.matrix(*varints(sizes))
        self.matrix(data, mask)

    def joined(self) -> tuple[Bytes, Mask | None]:
        """Return all columns side by side."""
        data = np.empty((self._count, self._width), np.uint8)
        mask = None if all(present is None for _, present in self._parts) else np.ones(data.shape, bool)
        at = 0
        for part, present in self._parts:
            stop = at + part.shape[1]
            data[:, at:stop] = part
            if mask is not None and present is not None:
                mask[:, at:stop] = present
            at = stop
        return data, mask

    def flat(self) -> bytes:
        """Return the bytes that are there, row after row."""
        return self.ragged().data.tobytes()

    def ragged(self) -> Ragged:
        """Return each row's bytes that are there."""
        data, mask = self.joined()
        if mask is None:
            return Ragged.laid_end_to_end(data.ravel(), np.full(self._count, data.shape[1], np.int64))
        return Ragged.laid_end_to_end(data[mask], np.count_nonzero(mask, axis=1))


def varints(values: IntArray) -> tuple[Bytes, Mask | None]:
    """Return non-negative values as varints, one per row."""
    if not len(values):
        return np.zeros((0, 1), np.uint8), None
    low, top = int(values.min()), int(values.max())
    if low == top:
        return np.frombuffer(encode_varint(top), np.uint8)[None, :], None
    width = varint_size(top)
    if width == 1:
        return values.astype(np.uint8)[:, None], None
    shifted = values[:, None] >> (7 * np.arange(width))
    coded = (shifted & 0x7F).astype(np.uint8)
    present = shifted > 0
    present[:, 0] = True
    coded[:, :-1] |= present[:, 1:].view(np.uint8) << 7
    return coded, present


def snums(values: IntArray) -> tuple[Bytes, Mask | None]:
    """Return values as signed ordered numbers, one per row, at the right end of it; all are -1 or above."""
    if not len(values):
        return np.zeros((0, 1), np.uint8), None
    low, top = int(values.min()), int(values.max())
    if low == top:
        return np.frombuffer(encode_snum(top), np.uint8)[None, :], None
    sizes = np.ones(len(values), np.int64)
    width = snum_size(max(top, 0))
    for group in range(1, width):
        sizes += values >= 1 << (7 * group - 1)
    present = np.arange(width) >= width - sizes[:, None]
    if width < 8:  # the run of ones and the value fit a signed word together
        run = ((1 << sizes) - 1) << (7 * sizes)
        words = (values & ((1 << (8 * sizes)) - 1)) ^ run
        return words.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - width :], present
    rows = [encode_snum(value).rjust(width, b"\0") for value in values.tolist()]
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, width), present
