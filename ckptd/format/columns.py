"""Entries and keys of many slices of one tensor at once, straight from arrays.

A plan of a million slices needs array operations: nothing here runs a step of Python per field. Each function builds a
matrix with one row per slice, wide enough for the longest form of each field, beside a mask of the bytes that are
used; the masked bytes, row after row, are the encoding. The results equal `Entry.encode` and `TensorSlice.key`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ckptd.errors import InvalidRequestError
from ckptd.format import slices
from ckptd.format.coding import encode_varint, varint_size
from ckptd.format.crc32c import mask
from ckptd.format.ordered_code import encode_snum, snum_size

IntArray = np.ndarray[Any, np.dtype[np.int64]]
_Bytes = np.ndarray[Any, np.dtype[np.uint8]]
_Mask = np.ndarray[Any, np.dtype[np.bool_]]

# Protobuf tags: field number times eight, plus the wire type.
_DTYPE, _SHAPE, _SHARD_ID, _OFFSET, _SIZE, _CRC32C, _SLICES = 0x08, 0x12, 0x18, 0x20, 0x28, 0x35, 0x3A
_DIM, _DIM_SIZE = 0x12, 0x08
_EXTENT, _START, _LENGTH = 0x0A, 0x08, 0x10


class _Rows:
    """Rows of bytes that grow to the right, one field at a time."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._width = 0
        # Bytes [n or 1, width] and which of them are there; None means all.
        self._parts: list[tuple[_Bytes, _Mask | None]] = []

    def constant(self, data: bytes) -> None:
        """Append the same bytes to every row."""
        self.matrix(np.frombuffer(data, np.uint8)[None, :], None)

    def matrix(self, data: _Bytes, present: _Mask | None) -> None:
        """Append to each row those bytes of the matrix's row that are present."""
        self._parts.append((data, present))
        self._width += data.shape[1]

    def field(self, tag: int, values: IntArray, present: _Mask | None = None) -> None:
        """Append a varint field, left out of rows where it is not present; by default, where it is 0."""
        if present is None:
            present = values != 0
        if not present.any():
            return
        coded, mask = _varints(values)
        if present.all():
            self.constant(bytes((tag,)))
            self.matrix(coded, mask)
        else:
            here = present[:, None]
            self.matrix(np.full((1, 1), tag, np.uint8), here)
            self.matrix(coded, here.repeat(coded.shape[1], axis=1) if mask is None else mask & here)

    def message(self, tag: int, rows: _Rows) -> None:
        """Append a field that holds the other rows' bytes."""
        data, mask = rows.joined()
        sizes = np.full(self._count, data.shape[1]) if mask is None else mask.sum(axis=1)
        self.constant(bytes((tag,)))
        self.matrix(*_varints(sizes))
        self.matrix(data, mask)

    def joined(self) -> tuple[_Bytes, _Mask | None]:
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
        data, mask = self.joined()
        return (data if mask is None else data[mask]).tobytes()

    def split(self, prefix: bytes = b"") -> list[bytes]:
        """Return each row's bytes after a common prefix."""
        if prefix:
            self._parts.insert(0, (np.frombuffer(prefix, np.uint8)[None, :], None))
            self._width += len(prefix)
        data, mask = self.joined()
        if mask is None:
            width = data.shape[1]
            flat = data.tobytes()
            return [flat[start : start + width] for start in range(0, width * self._count, width)]
        flat = data[mask].tobytes()
        stops = np.cumsum(mask.sum(axis=1)).tolist()
        return [flat[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


def _varints(values: IntArray) -> tuple[_Bytes, _Mask | None]:
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


def _snums(values: IntArray) -> tuple[_Bytes, _Mask | None]:
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


def slice_keys(name: str, starts: IntArray, lengths: IntArray) -> list[bytes]:
    """Return the keys of slices of tensor `name`, in the order of the rows.

    `starts` and `lengths` are [n, rank]; a length of -1 is a whole dimension, recorded as such.

    Raises:
        InvalidRequestError: for a start below 0 or a length below -1.
    """
    starts, lengths = _extents(starts, lengths)
    count, rank = starts.shape
    rows = _Rows(count)
    for axis in range(rank):
        rows.matrix(*_snums(starts[:, axis]))
        rows.matrix(*_snums(lengths[:, axis]))
    return rows.split(slices.key_prefix(name, rank))


def entry_values(
    dtype: int, shapes: IntArray, shard_ids: IntArray, offsets: IntArray, sizes: IntArray, crcs: IntArray
) -> list[bytes]:
    """Return the entries of slices, in the order of the rows, as `Entry.encode` would.

    `shapes` is [n, rank], the others [n]; `offsets` and `sizes` are in bytes, `crcs` plain checksums.

    Raises:
        InvalidRequestError: for a negative number.
    """
    columns = [np.asarray(column, np.int64) for column in (shapes, shard_ids, offsets, sizes)]
    if any(column.size and int(column.min()) < 0 for column in columns):
        raise InvalidRequestError("an entry's shape, shard, offset and size cannot be negative")
    shapes, shard_ids, offsets, sizes = columns
    count = len(shapes)
    rows = _Rows(count)
    rows.constant(bytes((_DTYPE,)) + encode_varint(dtype))
    _shape(rows, shapes)
    rows.field(_SHARD_ID, shard_ids)
    rows.field(_OFFSET, offsets)
    rows.field(_SIZE, sizes)
    masked = mask_column(crcs)
    # Like every number, a masked checksum of 0 is left out.
    present = (masked != 0)[:, None]
    everywhere = bool(present.all())
    rows.matrix(np.full((1, 1), _CRC32C, np.uint8), None if everywhere else present)
    rows.matrix(
        masked.astype("<u4").view(np.uint8).reshape(count, 4), None if everywhere else present.repeat(4, axis=1)
    )
    return rows.split()


def slice_list_value(
    dtype: int, full_shape: tuple[int, ...], starts: IntArray, lengths: IntArray, shard_id: int = 0
) -> bytes:
    """Return the full entry of a tensor stored in these slices, which it lists in the order of the rows.

    TensorFlow reads a long list only quickly if it ascends. The arrays are as for `slice_keys`.
    """
    starts, lengths = _extents(starts, lengths)
    head = _Rows(1)
    head.constant(bytes((_DTYPE,)) + encode_varint(dtype))
    _shape(head, np.array([full_shape], np.int64).reshape(1, len(full_shape)))
    head.field(_SHARD_ID, np.array([shard_id], np.int64))
    extents = _Rows(len(starts))
    for axis in range(starts.shape[1]):
        extent = _Rows(len(starts))
        extent.field(_START, starts[:, axis])
        # A length is written whenever it is given, 0 included: its presence means something.
        given = lengths[:, axis] >= 0
        extent.field(_LENGTH, np.maximum(lengths[:, axis], 0), given)
        extents.message(_EXTENT, extent)
    listed = _Rows(len(starts))
    listed.message(_SLICES, extents)
    return head.flat() + listed.flat()


def mask_column(crcs: IntArray) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Return the masked form of plain checksums, as `crc32c.mask` does for one."""
    crc = np.asarray(crcs).astype(np.uint32)
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(mask(0))


def unmask_column(masked: np.ndarray[Any, np.dtype[np.uint32]]) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Return the plain checksums that are stored as `masked`: the way back from `mask_column`."""
    rotated = np.asarray(masked).astype(np.uint32) - np.uint32(mask(0))
    return (rotated >> np.uint32(17)) | (rotated << np.uint32(15))


def _shape(rows: _Rows, shapes: IntArray) -> None:
    """Append a shape message; the usual one is the same in all rows."""
    count, rank = shapes.shape
    same = count > 1 and bool((shapes[1:] == shapes[:1]).all())
    message = _Rows(1 if same else count)
    for axis in range(rank):
        dim = _Rows(1 if same else count)
        dim.field(_DIM_SIZE, shapes[:1, axis] if same else shapes[:, axis])
        message.message(_DIM, dim)
    if same:
        outer = _Rows(1)
        outer.message(_SHAPE, message)
        rows.constant(outer.flat())
    else:
        rows.message(_SHAPE, message)


def _extents(starts: IntArray, lengths: IntArray) -> tuple[IntArray, IntArray]:
    starts, lengths = np.asarray(starts, np.int64), np.asarray(lengths, np.int64)
    if starts.ndim != 2 or starts.shape != lengths.shape:
        raise InvalidRequestError("starts and lengths must be arrays [n, rank] of one shape")
    if starts.size and (int(starts.min()) < 0 or int(lengths.min()) < slices.WHOLE):
        raise InvalidRequestError("a slice has a negative start or length")
    return starts, lengths
