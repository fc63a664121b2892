"""Find a tensor in an index, and check it as far as that is possible without the data files.

A tensor is stored whole, or in slices: then its entry lists them, and each has an entry of its own. A checkpoint of
very many workers has very many slices, and restoring one box needs few of them: only their entries are read then,
while what is listed is checked all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ckptd.errors import CorruptionError
from ckptd.format import crc32c as checksum
from ckptd.format import slices, tensors, tiling
from ckptd.format.bundle_pb2 import BundleEntryProto
from ckptd.format.dtypes import DType
from ckptd.format.entry import Entry, parse_entry, usual_form
from ckptd.format.slice_list import slice_columns
from ckptd.format.slices import WHOLE, Box, TensorSlice
from ckptd.format.table import Table

MAX_INT64 = (1 << 63) - 1
_MANY = 16  # from this number of slices on, checking them together is faster than one by one


@dataclass(frozen=True, slots=True)
class Piece:
    """Where one box of a tensor is; `key` is the one it has in the index, `crc32c` the plain checksum."""

    box: Box
    shard_id: int
    offset: int
    size: int
    crc32c: int
    key: bytes


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as a checkpoint holds it: one piece, or its slices in the order in which they are listed.

    Pieces do not overlap and are inside the shape, but may leave gaps. Where a box was requested, those may be missing
    that have nothing of it.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    is_sliced: bool


def stored_tensor(
    entries: Table, num_shards: int, name: str, key: bytes, value: bytes, box: Box | None = None
) -> StoredTensor:
    """Return what `value`, the entry of `name` under `key`, says; with `box`, of the slices that have some of it.

    Raises:
        CorruptionError: the entry, or that of a slice, cannot be right.
        InvalidRequestError: a slice leaves its tensor.
    """
    message = parse_entry(value)
    if not message.slices:
        return _undivided(name, key, message, num_shards)
    dtype, whole, _ = usual_form(message.dtype, message.shape.SerializeToString())
    if dtype.array is None:
        raise CorruptionError(f"dtype {dtype.name} cannot be stored")
    wanted = whole if box is None or len(box.start) != len(whole.shape) else box
    listed = _touching(value, whole.shape, wanted) if len(message.slices) >= _MANY else None
    if listed is None:
        listed = _all_listed(Entry.of(message))
        if wanted is not whole:
            listed = [(recorded, its) for recorded, its in listed if its.intersect(wanted) is not None]
    prefix = slices.key_prefix(name, len(whole.shape))
    pieces = tuple([_slice(entries, num_shards, prefix, message.dtype, recorded, its) for recorded, its in listed])
    return StoredTensor(name, dtype, whole.shape, pieces, is_sliced=True)


def _undivided(name: str, key: bytes, message: BundleEntryProto, num_shards: int) -> StoredTensor:
    """Check a tensor that is stored in one piece, as nearly all are: there may be a million of them."""
    dtype, box, _ = usual_form(message.dtype, message.shape.SerializeToString())
    return StoredTensor(name, dtype, box.shape, (_piece(key, message, box, num_shards),), is_sliced=False)


def _touching(value: bytes, shape: tuple[int, ...], box: Box) -> list[tuple[TensorSlice, Box]] | None:
    """Return the slices that an entry lists and that have elements of `box`.

    All listed ones are checked together; None if one of them is wrong: `_all_listed` finds out which.
    """
    listed = slice_columns(value, len(shape))
    if listed is None:
        return None
    starts, lengths = listed
    sizes = np.array(shape, np.int64)
    is_whole = lengths == WHOLE
    counts = np.where(is_whole, sizes, lengths)
    fits = np.where(is_whole, starts == 0, starts >= 0) & (counts > 0) & (counts <= sizes - starts)
    if not fits.all() or tiling.find_overlap_in_columns(starts, counts) is not None:
        return None
    # The box is the caller's and may reach anywhere, beyond 64 bits too.
    begin, end = (
        np.array([min(max(at, 0), size) for at, size in zip(corner, shape, strict=True)], np.int64)
        for corner in (box.start, box.stop)
    )
    rows = np.flatnonzero(((starts < end) & (starts + counts > begin)).all(axis=1))
    return [
        (TensorSlice(tuple(zip(start, (None if n == WHOLE else n for n in recorded), strict=True))), Box(start, count))
        for start, recorded, count in zip(
            map(tuple, starts[rows].tolist()), lengths[rows].tolist(), map(tuple, counts[rows].tolist()), strict=True
        )
    ]


def _all_listed(entry: Entry) -> list[tuple[TensorSlice, Box]]:
    """Return all slices that an entry lists, after checking that none is there twice and none overlap."""
    boxes: dict[TensorSlice, Box] = {}
    for recorded in entry.slices:
        if recorded in boxes:
            raise CorruptionError(f"slice {recorded} is listed twice")
        boxes[recorded] = recorded.resolve(entry.shape)
    overlap = tiling.find_overlap(list(boxes.values()))
    if overlap is not None:
        one, other = (entry.slices[number] for number in sorted(overlap))
        raise CorruptionError(f"Overlapping slices: existing slice = {one}, new slice = {other}")
    return list(boxes.items())


def _slice(entries: Table, num_shards: int, prefix: bytes, dtype_number: int, recorded: TensorSlice, box: Box) -> Piece:
    """Read and check the entry of one listed slice."""
    key = prefix + recorded.key_suffix()
    value = entries.get(key)
    if value is None:
        raise CorruptionError(f"slice {recorded} is listed but has no entry")
    message = parse_entry(value)
    if message.dtype != dtype_number:
        raise CorruptionError(f"slice {recorded} has another dtype", expected=dtype_number, actual=message.dtype)
    shape = tuple([dim.size for dim in message.shape.dim])
    if shape != box.shape:
        raise CorruptionError(f"entry of slice {box} has another shape", expected=box.shape, actual=shape)
    return _piece(key, message, box, num_shards)


def _piece(key: bytes, message: BundleEntryProto, box: Box, num_shards: int) -> Piece:
    """Check size and place of what an entry of the shape of `box` stands for."""
    dtype, _, wanted = usual_form(message.dtype, message.shape.SerializeToString())
    shard_id, offset, size = message.shard_id, message.offset, message.size
    if size != wanted:  # or the dtype's size varies, or is unknown
        tensors.check_stored(dtype, box.shape, size)
    if not 0 <= shard_id < num_shards:
        raise CorruptionError("shard id out of range", expected=f"below {num_shards}", actual=shard_id)
    if offset < 0 or size < 0 or offset + size > MAX_INT64:
        raise CorruptionError(f"offset {offset} or size {size} out of range")
    return Piece(box, shard_id, offset, size, checksum.unmask(message.crc32c), key)
