"""Entries and keys of many slices at once, straight from arrays.

A plan of a million slices needs array operations: nothing here runs a step of Python per slice, but one for some
thousands, so that memory stays small. The results equal `Entry.encode` and `TensorSlice.key`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ckptd.errors import InvalidRequestError
from ckptd.format import slices
from ckptd.format.byte_rows import ByteRows, snums
from ckptd.format.coding import encode_varint
from ckptd.format.crc32c import mask
from ckptd.format.ragged import IntArray, Ragged

_AT_ONCE = 1 << 15  # rows: their matrices stay in the processor's caches

# Protobuf tags: field number times eight, plus the wire type.
_DTYPE, _SHAPE, _SHARD_ID, _OFFSET, _SIZE, _CRC32C, _SLICES = 0x08, 0x12, 0x18, 0x20, 0x28, 0x35, 0x3A
_DIM, _DIM_SIZE = 0x12, 0x08
_EXTENT, _START, _LENGTH = 0x0A, 0x08, 0x10


def slice_keys(name: str, starts: IntArray, lengths: IntArray) -> list[bytes]:
    """Return the keys of slices of tensor `name`, in the order of the rows.

    `starts` and `lengths` are [n, rank]; a length of -1 is a whole dimension, recorded as such.

    Raises:
        InvalidRequestError: for a start below 0 or a length below -1.
    """
    prefix = slices.key_prefix(name, starts.shape[1]) if np.ndim(starts) == 2 else b""
    return [prefix + suffix for suffix in key_suffixes(starts, lengths).split()]


def key_suffixes(starts: IntArray, lengths: IntArray) -> Ragged:
    """Return what follows the tensor's own part in keys of slices, which may be of several tensors; as `slice_keys`."""
    starts, lengths = _extents(starts, lengths)

    def encode(rows: slice) -> Ragged:
        some, long = starts[rows], lengths[rows]
        encoded = ByteRows(len(some))
        for axis in range(some.shape[1]):
            encoded.matrix(*snums(some[:, axis]))
            encoded.matrix(*snums(long[:, axis]))
        return encoded.ragged()

    return Ragged.joined(map(encode, _some_at_once(len(starts))))


def entry_values(
    dtype: int, shapes: IntArray, shard_ids: IntArray, offsets: IntArray, sizes: IntArray, crcs: IntArray
) -> Ragged:
    """Return the entries of slices, in the order of the rows, as `Entry.encode` would.

    `shapes` is [n, rank], the others [n]; `offsets` and `sizes` are in bytes, `crcs` plain checksums.

    Raises:
        InvalidRequestError: for a negative number.
    """
    columns = [np.asarray(column, np.int64) for column in (shapes, shard_ids, offsets, sizes)]
    if any(column.size and int(column.min()) < 0 for column in columns):
        raise InvalidRequestError("an entry's shape, shard, offset and size cannot be negative")
    masked = mask_column(crcs)

    def encode(rows: slice) -> Ragged:
        shapes, shard_ids, offsets, sizes = (column[rows] for column in columns)
        encoded = ByteRows(len(shapes))
        encoded.constant(bytes((_DTYPE,)) + encode_varint(dtype))
        _shape(encoded, shapes)
        encoded.field(_SHARD_ID, shard_ids)
        encoded.field(_OFFSET, offsets)
        encoded.field(_SIZE, sizes)
        # Like every number, a masked checksum of 0 is left out.
        present = (masked[rows] != 0)[:, None]
        everywhere = bool(present.all())
        encoded.matrix(np.full((1, 1), _CRC32C, np.uint8), None if everywhere else present)
        encoded.matrix(
            masked[rows].astype("<u4").view(np.uint8).reshape(-1, 4), None if everywhere else present.repeat(4, axis=1)
        )
        return encoded.ragged()

    return Ragged.joined(map(encode, _some_at_once(len(masked))))


def slice_list_value(
    dtype: int, full_shape: tuple[int, ...], starts: IntArray, lengths: IntArray, shard_id: int = 0
) -> bytes:
    """Return the full entry of a tensor stored in these slices, which it lists in the order of the rows.

    TensorFlow reads a long list only quickly if it ascends. The arrays are as for `slice_keys`.
    """
    full = np.array([full_shape], np.int64).reshape(1, len(full_shape))
    [value] = slice_list_values(dtype, full, starts, lengths, np.array([len(starts)]), shard_id).split()
    return value


def slice_list_values(
    dtype: int, full_shapes: IntArray, starts: IntArray, lengths: IntArray, counts: IntArray, shard_id: int = 0
) -> Ragged:
    """Return the full entries of tensors stored in slices: `counts[0]` of them are of the first, and so on."""
    starts, lengths = _extents(starts, lengths)
    head = ByteRows(len(full_shapes))
    head.constant(bytes((_DTYPE,)) + encode_varint(dtype))
    _shape(head, full_shapes)
    head.field(_SHARD_ID, np.full(len(full_shapes), shard_id, np.int64))
    heads = head.ragged()

    def encode(rows: slice) -> Ragged:
        some, long = starts[rows], lengths[rows]
        extents = ByteRows(len(some))
        for axis in range(some.shape[1]):
            extent = ByteRows(len(some))
            extent.field(_START, some[:, axis])
            # A length is written whenever it is given, 0 included: its presence means something.
            given = long[:, axis] >= 0
            extent.field(_LENGTH, np.maximum(long[:, axis], 0), given)
            extents.message(_EXTENT, extent)
        listed = ByteRows(len(some))
        listed.message(_SLICES, extents)
        return listed.ragged()

    listed = Ragged.joined(map(encode, _some_at_once(len(starts))))
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(listed.sizes)])
    last = np.cumsum(counts)
    of_lists = Ragged(listed.data, ends[last - counts], ends[last] - ends[last - counts])
    sizes = heads.sizes + of_lists.sizes
    at = np.cumsum(sizes) - sizes
    data = np.empty(int(sizes.sum()), np.uint8)
    heads.put(data, at)
    of_lists.put(data, at + heads.sizes)
    return Ragged(data, at, sizes)


def _some_at_once(count: int) -> Iterator[slice]:
    return (slice(start, min(start + _AT_ONCE, count)) for start in range(0, count, _AT_ONCE))


def mask_column(crcs: IntArray) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Return the masked form of plain checksums, as `crc32c.mask` does for one."""
    crc = np.asarray(crcs).astype(np.uint32)
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(mask(0))


def unmask_column(masked: np.ndarray[Any, np.dtype[np.uint32]]) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Return the plain checksums that are stored as `masked`: the way back from `mask_column`."""
    rotated = np.asarray(masked).astype(np.uint32) - np.uint32(mask(0))
    return (rotated >> np.uint32(17)) | (rotated << np.uint32(15))


def _shape(rows: ByteRows, shapes: IntArray) -> None:
    """Append a shape message; the usual one is the same in all rows."""
    count, rank = shapes.shape
    same = count > 1 and bool((shapes[1:] == shapes[:1]).all())
    message = ByteRows(1 if same else count)
    for axis in range(rank):
        dim = ByteRows(1 if same else count)
        dim.field(_DIM_SIZE, shapes[:1, axis] if same else shapes[:, axis])
        message.message(_DIM, dim)
    if same:
        outer = ByteRows(1)
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
