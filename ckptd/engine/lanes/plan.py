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

from ckptd.engine.lanes.cutting import Hosts, choose_hosts, cut_by_bytes, cut_by_host, place
from ckptd.engine.lanes.joining import join_touching
from ckptd.engine.lanes.part_table import PartTable, gather
from ckptd.engine.lanes.units import Units, choose_units
from ckptd.engine.layout import Column, Layout, Literal, SliceSet, narrow
from ckptd.engine.manifest import STRING, VARIANT, Manifest
from ckptd.engine.replicas import Replicas
from ckptd.format import crc32c
from ckptd.format.strings import CHECKSUM_BYTES, lengths_checksum

PAGE_BYTES = 4096
"""What disks are written in. A sender's bytes begin at a page of their shard, so that they can be written from memory
that begins at one. The format allows gaps."""


def plan(
    manifests: Sequence[Manifest],
    wanted_shards: int,
    align_bytes: int = 1,
    from_lowest: Collection[str] = (),
    hosts: Sequence[str] = (),
) -> Layout:
    """Lay out what the ranks bring, `manifests[rank]`, in at most `wanted_shards` shards.

    With `hosts`, which names the host of each rank, there is a shard for each host that has bytes instead, and slices
    of a host that touch are stored as one.

    A sender's bytes begin at a multiple of `align_bytes` in each shard, if they are many. Of the tensors `from_lowest`
    each box is sent by the lowest rank that holds it, however much that has to send.

    Raises `InvalidRequestError` naming the tensor, the ranks and both shapes where the parts do not make whole tensors.
    """
    parts = gather(manifests)
    units, replicas = choose_units(parts, from_lowest)
    cut = _Cut(wanted_shards, align_bytes, Hosts.of(hosts) if hosts else None)
    if cut.hosts is not None:
        units = join_touching(parts, units, cut.hosts.of_rank[parts.rank[units.row]])
    order, entry, entry_host = _group_entries(parts, units, cut.hosts)
    return _lay_out(parts, units.take(order), entry, entry_host, replicas, cut)


@dataclass(frozen=True, slots=True)
class _Cut:
    """What is wanted of shards; with `hosts` their number is that of the hosts."""

    wanted_shards: int
    align_bytes: int
    hosts: Hosts | None


def _group_entries(parts: PartTable, units: Units, hosts: Hosts | None) -> tuple[Column, Column, Column]:
    """Return the units in the order of their bytes, by host and sender of the entry, and the entry of each so.

    Also return the host of each entry, in the same order; 0 where hosts do not matter.
    """
    entry = np.cumsum(units.begins_entry) - 1
    sender = parts.rank[units.row[units.begins_entry]]
    host = np.zeros(len(sender), np.int64)
    if hosts is not None:
        host = choose_hosts(entry, hosts.of_rank[parts.rank[units.row]], parts.size[units.row], hosts.here)
    in_order = np.lexsort((sender, host))
    place_of = np.empty(len(sender), np.int64)
    place_of[in_order] = np.arange(len(sender))
    order = np.argsort(place_of[entry], kind="stable")
    return order, place_of[entry][order], host[in_order]


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
    strings, plain = np.flatnonzero(is_string), np.flatnonzero(~is_string)
    rows = units.row[plain]
    columns = [(entry[plain], rows, np.zeros(len(plain), np.int64), parts.size[rows], np.zeros(len(plain), np.int64))]
    is_variant = np.array(parts.dtypes, np.int64)[units.tensor] == VARIANT
    lengths_crcs = dict(zip(entry[is_variant].tolist(), parts.lengths_crc[units.row[is_variant]].tolist(), strict=True))
    if not len(strings):
        nothing = np.zeros(len(entry), np.int64)
        return _Pieces(entry, units.row, nothing, columns[0][3], nothing.astype(bool)), lengths_crcs
    for group in np.split(strings, np.flatnonzero(np.diff(entry[strings])) + 1):
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
    parts: PartTable, units: Units, entry: Column, entry_host: Column, replicas: Replicas, cut: _Cut
) -> Layout:
    pieces, lengths_crcs = _pieces(parts, units, entry)
    first_piece = np.flatnonzero(np.diff(pieces.entry, prepend=-1))
    entry_size = np.add.reduceat(pieces.size, first_piece)
    shard_hosts: tuple[str, ...] = ()
    if cut.hosts is None:
        entry_shard = cut_by_bytes(entry_size, cut.wanted_shards)
    else:
        entry_shard, host_of_shard = cut_by_host(entry_size, entry_host)
        shard_hosts = tuple(cut.hosts.names[host] for host in host_of_shard.tolist())
    entry_tensor = units.tensor[np.flatnonzero(np.diff(entry, prepend=-1))]
    sender = parts.rank[units.row[np.flatnonzero(np.diff(entry, prepend=-1))]]
    entry_offset, shard_sizes = place(entry_size, entry_shard, sender, cut.align_bytes)
    position = np.cumsum(pieces.size) - pieces.size  # as if all shards were one
    offset = position + (entry_offset - position[first_piece])[pieces.entry]

    crcs = np.zeros(len(entry_size), np.uint32)
    crcs[list(lengths_crcs)] = list(lengths_crcs.values())
    literals = tuple(
        Literal(int(entry_shard[owner]), int(at), lengths_checksum(int(crcs[owner])))
        for owner, at in zip(pieces.entry[pieces.row < 0].tolist(), offset[pieces.row < 0].tolist(), strict=True)
    )
    is_moved = (pieces.row >= 0) & (pieces.size > 0)
    moved = slice(None) if is_moved.all() else np.flatnonzero(is_moved)  # mostly all: then nothing is copied
    rows = pieces.row[moved]
    return Layout(
        names=parts.names,
        dtypes=parts.dtypes,
        full_shapes=parts.full_shapes,
        shard_sizes=shard_sizes,
        entry_tensor=narrow(entry_tensor),
        entry_shard=narrow(entry_shard),
        entry_offset=entry_offset,
        entry_size=entry_size,
        entry_lengths_crc=crcs,
        slices=_slice_sets(parts, units, entry),
        segment_entry=narrow(pieces.entry[moved]),
        segment_rank=narrow(parts.rank[rows]),
        segment_item=narrow(parts.item[rows]),
        segment_item_offset=pieces.item_offset[moved],
        segment_size=pieces.size[moved],
        segment_offset=offset[moved],
        segment_is_lengths=pieces.is_lengths[moved],
        literals=literals,
        replicas=replicas,
        shard_hosts=shard_hosts,
    )


def _slice_sets(parts: PartTable, units: Units, entry: Column) -> dict[int, SliceSet]:
    """Return the slices of each sliced tensor, in the order of their starts."""
    sliced = np.flatnonzero(units.is_slice)
    ndims = parts.ndims[units.tensor[sliced]]
    sets: dict[int, SliceSet] = {}
    for ndim in np.unique(ndims).tolist():
        rows = sliced[ndims == ndim]
        starts, shapes = parts.corners(units.row[rows], ndim)
        first = np.flatnonzero(np.diff(entry[rows], prepend=-1))
        if len(first) < len(rows):  # of several parts, which come one after another
            shapes = np.maximum.reduceat(starts + shapes, first) - starts[first]
            rows, starts = rows[first], starts[first]
        order = np.lexsort((*starts.T[::-1], units.tensor[rows]))
        tensors, starts, shapes, entries = units.tensor[rows][order], starts[order], shapes[order], entry[rows[order]]
        begins = np.flatnonzero(np.diff(tensors, prepend=-1))
        for tensor, at, end in zip(
            tensors[begins].tolist(), begins.tolist(), [*begins[1:].tolist(), len(tensors)], strict=True
        ):
            sets[tensor] = SliceSet(starts[at:end], shapes[at:end], entries[at:end])
    return dict(sorted(sets.items()))
