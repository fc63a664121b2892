"""Which part goes to which shard, decided before any byte moves. Pure.

The ranks' parts are put into one table (`part_table`), which gives the distinct boxes and the rank that sends each
(`units`). Entries are ordered by sender, then laid down one after another and cut into shards of about equal bytes, so
that a rank's bytes are contiguous in a shard wherever they can be. PartTable are rows of arrays all the way: there is a
Python loop over lanes, and one over tensors of strings, but none over all parts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.lanes.part_table import PartTable, gather
from ckptd.engine.lanes.units import Units, choose_units
from ckptd.engine.layout import Column, Layout, Literal, SliceSet
from ckptd.engine.manifest import STRING, VARIANT, Manifest
from ckptd.engine.replicas import Replicas
from ckptd.format import crc32c
from ckptd.format.strings import CHECKSUM_BYTES, lengths_checksum

PAGE_BYTES = 4096
"""What disks are written in. A sender's bytes begin at a page of their shard, so that they can be written from memory
that begins at one. The format allows gaps."""

_LONG_BYTES = 256 << 10  # fewer bytes of a sender are not worth a gap


def plan(
    manifests: Sequence[Manifest], wanted_shards: int, align_bytes: int = 1, from_lowest: Collection[str] = ()
) -> Layout:
    """Lay out what the ranks bring, `manifests[rank]`, in at most `wanted_shards` shards.

    A sender's bytes begin at a multiple of `align_bytes` in each shard, if they are many. Of the tensors `from_lowest`
    each box is sent by the lowest rank that holds it, however much that has to send.

    Raises `InvalidRequestError` naming the tensor, the ranks and both shapes where the parts do not make whole tensors.
    """
    parts = gather(manifests)
    units, replicas = choose_units(parts, from_lowest)
    order, entry = _group_entries(parts, units)
    return _lay_out(parts, units.take(order), entry, replicas, wanted_shards, align_bytes)


def _group_entries(parts: PartTable, units: Units) -> tuple[Column, Column]:
    """Return the units in the order of their bytes, by sender of the entry, and the entry of each in that order."""
    starts_entry = units.is_slice | (np.diff(units.tensor, prepend=-1) != 0)
    entry = np.cumsum(starts_entry) - 1
    sender = parts.rank[units.row[starts_entry]]
    place = np.empty(len(sender), np.int64)
    place[np.argsort(sender, kind="stable")] = np.arange(len(sender))
    order = np.argsort(place[entry], kind="stable")
    return order, place[entry][order]


@dataclass(frozen=True, eq=False, slots=True)
class _Pieces:
    """Runs of bytes in the order in which they are: segments of parts, and literals (row -1)."""

    entry: Column
    row: Column
    item_offset: Column
    size: Column
    is_lengths: NDArray[np.bool_]


def _pieces(parts: PartTable, units: Units, entry: Column) -> tuple[_Pieces, dict[int, int]]:
    """Cut the units into pieces; also return the checksum over all lengths, per entry of strings or variants."""
    is_string = np.array(parts.dtypes, np.int64)[units.tensor] == STRING
    plain = np.flatnonzero(~is_string)
    rows = units.row[plain]
    columns = [(entry[plain], rows, np.zeros(len(plain), np.int64), parts.size[rows], np.zeros(len(plain), np.int64))]
    is_variant = np.array(parts.dtypes, np.int64)[units.tensor] == VARIANT
    lengths_crcs = dict(zip(entry[is_variant].tolist(), parts.lengths_crc[units.row[is_variant]].tolist(), strict=True))
    strings = np.flatnonzero(is_string)
    for group in np.split(strings, np.flatnonzero(np.diff(entry[strings])) + 1) if len(strings) else ():
        rows, n = units.row[group], len(group)
        lengths, covered = parts.lengths_size[rows], parts.lengths_covered[rows]
        lengths_crcs[int(entry[group[0]])] = crc32c.joined(parts.lengths_crc[rows].tolist(), covered.tolist())
        # All lengths, the checksum over them, all payloads.
        columns.append(
            (
                np.full(2 * n + 1, entry[group[0]]),
                np.concatenate([rows, [-1], rows]),
                np.concatenate([np.zeros(n + 1, np.int64), lengths + CHECKSUM_BYTES]),
                np.concatenate([lengths, [CHECKSUM_BYTES], parts.size[rows] - lengths - CHECKSUM_BYTES]),
                np.concatenate([np.ones(n, np.int64), np.zeros(n + 1, np.int64)]),
            )
        )
    table = np.stack([np.concatenate(column) for column in zip(*columns, strict=True)])
    table = table[:, np.argsort(table[0], kind="stable")]
    of_entry, row, item_offset, size, is_lengths = table
    return _Pieces(of_entry, row, item_offset, size, is_lengths.astype(bool)), lengths_crcs


def _lay_out(
    parts: PartTable, units: Units, entry: Column, replicas: Replicas, wanted_shards: int, align_bytes: int
) -> Layout:
    pieces, lengths_crcs = _pieces(parts, units, entry)
    first_piece = np.flatnonzero(np.diff(pieces.entry, prepend=-1))
    entry_size = np.add.reduceat(pieces.size, first_piece)
    entry_shard = _cut(entry_size, wanted_shards)
    entry_tensor = units.tensor[np.flatnonzero(np.diff(entry, prepend=-1))]
    sender = parts.rank[units.row[np.flatnonzero(np.diff(entry, prepend=-1))]]
    entry_offset, shard_sizes = _place(entry_size, entry_shard, sender, align_bytes)
    position = np.cumsum(pieces.size) - pieces.size  # as if all shards were one
    offset = position + (entry_offset - position[first_piece])[pieces.entry]

    crcs = np.zeros(len(entry_size), np.uint32)
    crcs[list(lengths_crcs)] = list(lengths_crcs.values())
    literals = tuple(
        Literal(int(entry_shard[owner]), int(at), lengths_checksum(int(crcs[owner])))
        for owner, at in zip(pieces.entry[pieces.row < 0].tolist(), offset[pieces.row < 0].tolist(), strict=True)
    )
    moved = np.flatnonzero((pieces.row >= 0) & (pieces.size > 0))
    rows = pieces.row[moved]
    return Layout(
        names=parts.names,
        dtypes=parts.dtypes,
        full_shapes=parts.full_shapes,
        shard_sizes=shard_sizes,
        entry_tensor=entry_tensor,
        entry_shard=entry_shard,
        entry_offset=entry_offset,
        entry_size=entry_size,
        entry_lengths_crc=crcs,
        slices=_slice_sets(parts, units, entry),
        segment_entry=pieces.entry[moved],
        segment_rank=parts.rank[rows],
        segment_item=parts.item[rows],
        segment_item_offset=pieces.item_offset[moved],
        segment_size=pieces.size[moved],
        segment_offset=offset[moved],
        segment_is_lengths=pieces.is_lengths[moved],
        literals=literals,
        replicas=replicas,
    )


def _cut(sizes: Column, wanted_shards: int) -> Column:
    """Give each entry a shard so that all have about the same bytes; every shard from 0 on has an entry."""
    total = int(sizes.sum())
    middles = np.cumsum(sizes) - sizes // 2
    shard = np.minimum(middles * wanted_shards // max(total, 1), wanted_shards - 1)
    return np.cumsum(np.diff(shard, prepend=shard[0]) > 0)


def _place(sizes: Column, shards: Column, senders: Column, align_bytes: int) -> tuple[Column, tuple[int, ...]]:
    """Return where each entry begins in its shard, and how long the shards are. Entries come shard by shard."""
    position = np.cumsum(sizes) - sizes
    begins = np.flatnonzero((np.diff(shards, prepend=-1) != 0) | (np.diff(senders, prepend=-1) != 0))
    ends = np.append(begins[1:], len(sizes))
    moved = np.empty(len(begins), np.int64)  # per run of one sender in one shard: how far its entries move
    shard_sizes: list[int] = []
    shard = -1
    for number, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        size = int(position[end - 1] + sizes[end - 1] - position[begin])
        if shards[begin] != shard:
            shard = int(shards[begin])
            shard_sizes.append(0)
        at = shard_sizes[-1]
        if size >= _LONG_BYTES:
            at = -(-at // align_bytes) * align_bytes
        moved[number] = at - position[begin]
        shard_sizes[-1] = at + size
    return position + np.repeat(moved, ends - begins), tuple(shard_sizes)


def _slice_sets(parts: PartTable, units: Units, entry: Column) -> dict[int, SliceSet]:
    """Return the slices of each sliced tensor, in the order of their starts."""
    sliced = np.flatnonzero(units.is_slice)
    ndims = parts.ndims[units.tensor[sliced]]
    sets: dict[int, SliceSet] = {}
    for ndim in np.unique(ndims).tolist():
        rows = sliced[ndims == ndim]
        starts, shapes = parts.corners(units.row[rows], ndim)
        order = np.lexsort((*starts.T[::-1], units.tensor[rows]))
        tensors, starts, shapes, entries = units.tensor[rows][order], starts[order], shapes[order], entry[rows[order]]
        begins = np.flatnonzero(np.diff(tensors, prepend=-1))
        for tensor, at, end in zip(
            tensors[begins].tolist(), begins.tolist(), [*begins[1:].tolist(), len(tensors)], strict=True
        ):
            sets[tensor] = SliceSet(starts[at:end], shapes[at:end], entries[at:end])
    return dict(sorted(sets.items()))
