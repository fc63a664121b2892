"""Which part goes to which shard, decided before any byte moves. Pure.

Refused here, so that no checkpoint is ever a mixture: ranks that disagree about a tensor's dtype or full shape,
parts that overlap, and parts that leave a gap. The same box on several ranks is sent once, by the one of them that has
least to send.

Entries are ordered by sender, then laid down one after another and cut into shards of about equal bytes, so that a
rank's bytes are contiguous in a shard wherever they can be. Parts are rows of arrays all the way: there is a Python
loop over tensors, and one over the boxes that several ranks hold, but none over all parts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.layout import Column, Layout, Literal, SliceSet
from ckptd.engine.manifest import STRING, VARIANT, Manifest, box_volumes
from ckptd.engine.replicas import Replicas
from ckptd.errors import InvalidRequestError
from ckptd.format import crc32c, dtypes
from ckptd.format.strings import CHECKSUM_BYTES, lengths_checksum
from ckptd.format.tiling import Overlap, check_tiling

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
    parts = _gather(manifests)
    units, replicas = _choose_units(parts, from_lowest)
    order, entry = _group_entries(parts, units)
    return _lay_out(parts, units.take(order), entry, replicas, wanted_shards, align_bytes)


@dataclass(frozen=True, eq=False, slots=True)
class _Parts:
    """The parts of all ranks in one table sorted by (tensor, rank), tensors under common numbers.

    `corner_at` is where a part's numbers begin in the flat `starts` and `shapes`.
    """

    names: tuple[str, ...]
    dtypes: tuple[int, ...]
    full_shapes: tuple[tuple[int, ...], ...]
    tensor: Column
    rank: Column
    item: Column
    size: Column
    lengths_size: Column
    lengths_crc: Column
    lengths_covered: Column
    is_whole: Column
    corner_at: Column
    starts: Column
    shapes: Column

    def corners(self, rows: Column, tensor: int) -> tuple[Column, Column]:
        """Return starts and shapes of some parts of one tensor, each [rows, rank]."""
        at = self.corner_at[rows][:, None] + np.arange(len(self.full_shapes[tensor]))
        return self.starts[at], self.shapes[at]


@dataclass(frozen=True, eq=False, slots=True)
class _Units:
    """The distinct boxes, each with the one part that is sent. `is_slice` ones get an entry of their own."""

    row: Column
    tensor: Column
    is_slice: NDArray[np.bool_]

    def take(self, order: Column) -> _Units:
        return _Units(self.row[order], self.tensor[order], self.is_slice[order])


def _gather(manifests: Sequence[Manifest]) -> _Parts:
    ids: dict[str, int] = {}
    owner: list[tuple[int, int]] = []  # of each tensor: the rank that named it first, under which number there
    columns: list[tuple[Column, ...]] = []
    corners = 0
    for rank, manifest in enumerate(manifests):
        numbers = np.empty(len(manifest.names), np.int64)
        for local, name in enumerate(manifest.names):
            known = ids.setdefault(name, len(owner))
            if known == len(owner):
                owner.append((rank, local))
            else:
                _check_agreement(manifests, owner[known], (rank, local))
            numbers[local] = known
        volumes = box_volumes(manifest)
        full = np.array([prod(shape) for shape in manifest.full_shapes], np.int64)[manifest.tensor]
        # An empty part brings nothing, unless the whole tensor is empty.
        kept = np.flatnonzero((volumes > 0) | (full == 0))
        columns.append(
            (
                numbers[manifest.tensor[kept]],
                np.full(len(kept), rank, np.int64),
                kept,
                manifest.sizes[kept],
                manifest.lengths_sizes[kept],
                manifest.lengths_crcs[kept].astype(np.int64),
                manifest.lengths_covered[kept],
                (volumes == full)[kept].astype(np.int64),
                manifest.row_starts[kept] + corners,
            )
        )
        corners += len(manifest.starts)
    if not owner:
        raise InvalidRequestError("there is nothing to save: no rank brought a tensor")
    table = np.stack([np.concatenate(column) for column in zip(*columns, strict=True)])
    table = table[:, np.argsort(table[0], kind="stable")]
    tensor, rank_of, item, size, lengths_size, lengths_crc, lengths_covered, is_whole, corner_at = table
    return _Parts(
        names=tuple(ids),
        dtypes=tuple(manifests[rank].dtypes[local] for rank, local in owner),
        full_shapes=tuple(manifests[rank].full_shapes[local] for rank, local in owner),
        tensor=tensor,
        rank=rank_of,
        item=item,
        size=size,
        lengths_size=lengths_size,
        lengths_crc=lengths_crc,
        lengths_covered=lengths_covered,
        is_whole=is_whole,
        corner_at=corner_at,
        starts=np.concatenate([manifest.starts for manifest in manifests]),
        shapes=np.concatenate([manifest.shapes for manifest in manifests]),
    )


def _check_agreement(manifests: Sequence[Manifest], first: tuple[int, int], second: tuple[int, int]) -> None:
    (rank_a, a), (rank_b, b) = first, second
    one, other = manifests[rank_a], manifests[rank_b]
    if one.full_shapes[a] != other.full_shapes[b]:
        what, expected, actual = "full shape", str(list(one.full_shapes[a])), str(list(other.full_shapes[b]))
    elif one.dtypes[a] != other.dtypes[b]:
        what = "dtype"
        expected, actual = dtypes.by_number(one.dtypes[a]).name, dtypes.by_number(other.dtypes[b]).name
    else:
        return
    raise InvalidRequestError(
        f"ranks {rank_a} and {rank_b} disagree about the {what} of tensor {one.names[a]!r}",
        expected=f"{expected} as on rank {rank_a}",
        actual=f"{actual} on rank {rank_b}",
    )


def _choose_units(parts: _Parts, from_lowest: Collection[str]) -> tuple[_Units, Replicas]:
    """Find the distinct boxes of every tensor, checked to cover it once, and choose which rank sends each."""
    begins = np.searchsorted(parts.tensor, np.arange(len(parts.names) + 1))
    counts = np.diff(begins)
    if (counts == 0).any():
        name = parts.names[int((counts == 0).argmax())]
        raise InvalidRequestError(f"tensor {name!r} is named, but no rank brings any of it")
    is_empty = np.array([prod(shape) == 0 for shape in parts.full_shapes])
    all_whole = is_empty | (np.minimum.reduceat(parts.is_whole, begins[:-1]) > 0)

    whole = np.flatnonzero(all_whole)
    rows, tensors, is_slice = [begins[whole]], [whole], [np.zeros(len(whole), bool)]
    # Boxes that several ranks hold, by the number of the unit. Of an empty tensor any part stands for the whole.
    shared = {
        unit: np.arange(begins[tensor], begins[tensor + 1])
        for unit, tensor in enumerate(whole.tolist())
        if counts[tensor] > 1 and not is_empty[tensor]
    }
    num_units = len(whole)
    for tensor in np.flatnonzero(~all_whole).tolist():
        group = np.arange(begins[tensor], begins[tensor + 1])
        by_box, begins_box = _distinct_boxes(parts, tensor, group)
        counts_box = np.diff(begins_box, append=len(by_box))
        for box in np.flatnonzero(counts_box > 1).tolist():
            shared[num_units + box] = by_box[begins_box[box] : begins_box[box] + counts_box[box]]
        num_units += len(begins_box)
        rows.append(by_box[begins_box])
        tensors.append(np.full(len(begins_box), tensor, np.int64))
        is_slice.append(np.full(len(begins_box), not _is_joined(parts, tensor, group)))
    units = _Units(np.concatenate(rows), np.concatenate(tensors), np.concatenate(is_slice))
    _choose_senders(parts, units.row, shared, from_lowest)
    return units.take(np.argsort(units.tensor, kind="stable")), _replicas(parts, shared)


def _distinct_boxes(parts: _Parts, tensor: int, group: Column) -> tuple[Column, Column]:
    """Check that the boxes of a sliced tensor cover it once.

    Returns the rows ordered by box, boxes ascending, and where each distinct box begins among them.
    """
    starts, shapes = parts.corners(group, tensor)
    rank, full = starts.shape[1], parts.full_shapes[tensor]
    distinct, which = np.unique(np.hstack([starts, shapes]), axis=0, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    by_box, begins = group[order], np.flatnonzero(np.diff(which.ravel()[order], prepend=-1))
    problem = check_tiling(distinct[:, :rank], distinct[:, rank:], full)
    if isinstance(problem, Overlap):
        one, other = (
            f"start {distinct[box, :rank].tolist()} shape {distinct[box, rank:].tolist()} "
            f"on rank {int(parts.rank[by_box[begins[box]]])}"
            for box in (problem.first, problem.second)
        )
        raise InvalidRequestError(f"parts of tensor {parts.names[tensor]!r} {list(full)} overlap: {one} and {other}")
    if problem is not None:
        where = f"{problem.missing_elements} of its {prod(full)} elements"
        if problem.where is not None:
            axis, begin, end = problem.where
            where = f"{begin} to {end} along axis {axis}"
        ranks = ", ".join(map(str, sorted(set(parts.rank[group].tolist()))))
        raise InvalidRequestError(
            f"the parts of tensor {parts.names[tensor]!r} {list(full)} leave a gap: "
            f"no rank brings {where} (it has parts on ranks {ranks})"
        )
    return by_box, begins


def _is_joined(parts: _Parts, tensor: int, group: Column) -> bool:
    """Should these parts be side by side under one full entry?

    TensorFlow can't join stored slices of some dtypes. Parts cut along axis 0 alone are contiguous in the whole
    tensor, so they can be stored as the whole and every reader is served. Other cuts have to stay slices.
    """
    if dtypes.by_number(parts.dtypes[tensor]).joinable:
        return False
    _, shapes = parts.corners(group, tensor)
    return bool((shapes[:, 1:] == parts.full_shapes[tensor][1:]).all())


def _choose_senders(parts: _Parts, rows: Column, shared: Mapping[int, Column], from_lowest: Collection[str]) -> None:
    """Set, for each box that several ranks hold, the row of the one with least to send, or of the lowest.

    The largest box first, as that evens out best. `rows` is per unit and changed in place.
    """
    load = np.zeros(int(parts.rank.max()) + 1, np.int64)
    alone = np.delete(rows, list(shared))
    np.add.at(load, parts.rank[alone], parts.size[alone])
    for unit in sorted(shared, key=lambda unit: (-int(parts.size[rows[unit]]), unit)):
        candidates = shared[unit]
        is_fixed = parts.names[int(parts.tensor[candidates[0]])] in from_lowest
        rows[unit] = candidates[0 if is_fixed else load[parts.rank[candidates]].argmin()]
        load[parts.rank[rows[unit]]] += parts.size[rows[unit]]


def _replicas(parts: _Parts, shared: Mapping[int, Column]) -> Replicas:
    rows = np.concatenate([np.zeros(0, np.int64), *shared.values()])
    box = np.repeat(np.arange(len(shared)), np.array([len(each) for each in shared.values()], np.int64))
    return Replicas(box, parts.tensor[rows], parts.rank[rows], parts.item[rows], parts.size[rows])


def _group_entries(parts: _Parts, units: _Units) -> tuple[Column, Column]:
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


def _pieces(parts: _Parts, units: _Units, entry: Column) -> tuple[_Pieces, dict[int, int]]:
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
    parts: _Parts, units: _Units, entry: Column, replicas: Replicas, wanted_shards: int, align_bytes: int
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


def _slice_sets(parts: _Parts, units: _Units, entry: Column) -> dict[int, SliceSet]:
    sliced = np.flatnonzero(units.is_slice)
    sliced = sliced[np.argsort(units.tensor[sliced], kind="stable")]
    sets: dict[int, SliceSet] = {}
    for group in np.split(sliced, np.flatnonzero(np.diff(units.tensor[sliced])) + 1) if len(sliced) else ():
        tensor = int(units.tensor[group[0]])
        starts, shapes = parts.corners(units.row[group], tensor)
        order = np.lexsort(starts.T[::-1])
        sets[tensor] = SliceSet(starts[order], shapes[order], entry[group[order]])
    return sets
