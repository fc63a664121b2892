"""Which boxes there are of every tensor, and which rank sends each. Pure.

Refused here, so that no checkpoint is ever a mixture: parts that overlap, and parts that leave a gap. The same box on
several ranks is sent once, by the one of them that has least to send.

Boxes are rows of arrays: there is a step of Python for each tensor only if its cut is irregular, so that the boxes
have to be compared with each other, and one for each box that several ranks hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.lanes.part_table import PartTable
from ckptd.engine.layout import Column
from ckptd.engine.replicas import Replicas
from ckptd.errors import InvalidRequestError
from ckptd.format import dtypes
from ckptd.format.tiling import Overlap, check_tiling

_AT_ONCE = 1 << 18  # parts whose boxes are compared
_NO_ROWS = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False, slots=True)
class Units:
    """The distinct boxes, each with the one part that is sent.

    `is_slice` says that a tensor's entries are slices, `begins_entry` that a unit does not go on in the entry of the
    one before.
    """

    row: Column
    tensor: Column
    is_slice: NDArray[np.bool_]
    begins_entry: NDArray[np.bool_]

    def take(self, order: Column) -> Units:
        """Return all of them in another order, in which those of an entry stay together."""
        return Units(self.row[order], self.tensor[order], self.is_slice[order], self.begins_entry[order])


@dataclass(frozen=True, eq=False, slots=True)
class _Boxes:
    """The distinct boxes: the parts that are each one, lowest rank first, in `rows[begins[i] : begins[i + 1]]`."""

    rows: Column
    begins: Column
    tensor: Column
    is_slice: NDArray[np.bool_]

    @property
    def counts(self) -> Column:
        return np.diff(self.begins, append=len(self.rows))

    def take(self, order: Column) -> _Boxes:
        counts = self.counts[order]
        begins = np.cumsum(counts) - counts
        rows = self.rows[np.arange(int(counts.sum())) + np.repeat(self.begins[order] - begins, counts)]
        return _Boxes(rows, begins, self.tensor[order], self.is_slice[order])

    @classmethod
    def joined(cls, groups: list[_Boxes]) -> _Boxes:
        before = np.cumsum([0, *(len(each.rows) for each in groups)])
        return cls(
            np.concatenate([each.rows for each in groups]),
            np.concatenate([each.begins + at for each, at in zip(groups, before.tolist(), strict=False)]),
            np.concatenate([each.tensor for each in groups]),
            np.concatenate([each.is_slice for each in groups]),
        )


def choose_units(parts: PartTable, from_lowest: Collection[str]) -> tuple[Units, Replicas]:
    """Find the distinct boxes of every tensor, checked to cover it once, and choose which rank sends each.

    Of the tensors `from_lowest` that is the lowest rank.
    """
    begins = np.searchsorted(parts.tensor, np.arange(len(parts.names) + 1))
    counts = np.diff(begins)
    if (counts == 0).any():
        name = parts.names[int((counts == 0).argmax())]
        raise InvalidRequestError(f"tensor {name!r} is named, but no rank brings any of it")
    is_empty = parts.volumes == 0
    is_whole = is_empty | np.logical_and.reduceat(parts.is_whole, begins[:-1])
    whole = np.flatnonzero(is_whole)
    # Of an empty tensor any part stands for the whole.
    of_whole = np.where(is_empty[whole], 1, counts[whole])
    begins_whole = np.cumsum(of_whole) - of_whole
    rows = np.arange(int(of_whole.sum())) + np.repeat(begins[whole] - begins_whole, of_whole)
    groups = [_Boxes(rows, begins_whole, whole, np.zeros(len(whole), bool))]
    sliced = np.flatnonzero(~is_whole)
    if len(sliced):
        found = _Boxes.joined([_sliced_boxes(parts, some, begins) for some in _alike(parts, sliced, counts)])
        is_in_order = bool((found.tensor[1:] >= found.tensor[:-1]).all())
        groups.append(found if is_in_order else found.take(np.argsort(found.tensor, kind="stable")))
    boxes = _Boxes.joined(groups) if len(groups) > 1 else groups[0]
    row, order = _choose_senders(parts, boxes, from_lowest), np.argsort(boxes.tensor, kind="stable")
    tensor, is_slice = boxes.tensor[order], boxes.is_slice[order]
    begins_entry = is_slice | (np.diff(tensor, prepend=-1) != 0)
    return Units(row[order], tensor, is_slice, begins_entry), _replicas(parts, boxes)


def _alike(parts: PartTable, tensors: Column, counts: Column) -> Iterator[Column]:
    """Yield tensors that have as many dimensions, and so few parts at once that their corners take little memory."""
    for ndim in np.unique(parts.ndims[tensors]).tolist():
        alike = tensors[parts.ndims[tensors] == ndim]
        batch = np.cumsum(counts[alike]) // _AT_ONCE
        yield from np.split(alike, np.flatnonzero(np.diff(batch)) + 1)


def _sliced_boxes(parts: PartTable, tensors: Column, begins: Column) -> _Boxes:
    """Return the boxes of sliced tensors that all have as many dimensions, ascending; all are checked."""
    ndim = int(parts.ndims[tensors[0]])
    counts = begins[tensors + 1] - begins[tensors]
    rows = np.arange(int(counts.sum())) + np.repeat(begins[tensors] - (np.cumsum(counts) - counts), counts)
    of_row = parts.tensor[rows]
    starts, shapes = parts.corners(rows, ndim)
    # Where a box begins in the flat tensor orders boxes as their starts do.
    order = np.lexsort((_flat_starts(starts, parts.full(of_row, ndim)), of_row))
    rows, of_row, starts, shapes = rows[order], of_row[order], starts[order], shapes[order]
    is_next = np.ones(len(rows), bool)
    is_next[1:] = (of_row[1:] != of_row[:-1]) | (starts[1:] != starts[:-1]).any(axis=1)
    is_unlike = ~is_next
    is_unlike[1:] &= (shapes[1:] != shapes[:-1]).any(axis=1)
    at = np.flatnonzero(is_next)
    boxes = _Boxes(rows, at, of_row[at], np.ones(len(at), bool))
    starts, shapes = starts[at], shapes[at]
    doubtful = np.union1d(of_row[is_unlike], _not_evidently_tiled(parts, boxes.tensor, starts, shapes))
    for tensor in doubtful.tolist():
        _check(parts, tensor, np.arange(begins[tensor], begins[tensor + 1]))
    is_slice = ~_are_joined(parts, boxes.tensor, shapes)
    return _Boxes(boxes.rows, boxes.begins, boxes.tensor, is_slice)


def _flat_starts(starts: Column, full: Column) -> Column:
    at = np.zeros(len(starts), np.int64)
    for axis in range(starts.shape[1]):
        at = at * full[:, axis] + starts[:, axis]
    return at


def _not_evidently_tiled(parts: PartTable, tensor: Column, starts: Column, shapes: Column) -> Column:
    """Return the tensors of which a cover by these distinct boxes, ascending, takes a closer look.

    Boxes lie in a grid if, along each axis, those that begin at one place end at one, and before the next begins: two
    distinct boxes of a grid are apart. If their volumes add up to the whole, they leave no gap.
    """
    first = np.flatnonzero(np.diff(tensor, prepend=-1))
    volume = np.add.reduceat(shapes.prod(axis=1), first)
    doubtful = [tensor[first][volume != parts.volumes[tensor[first]]]]
    for axis in range(starts.shape[1]):
        order = np.lexsort((starts[:, axis], tensor))
        of, low = tensor[order], starts[order, axis]
        high = low + shapes[order, axis]
        is_wrong = np.where(low[1:] == low[:-1], high[1:] != high[:-1], low[1:] < high[:-1])
        doubtful.append(of[1:][is_wrong & (of[1:] == of[:-1])])
    return np.unique(np.concatenate(doubtful))


def _check(parts: PartTable, tensor: int, group: Column) -> None:
    """Raise `InvalidRequestError` unless the boxes of one sliced tensor cover it once; `group` are its rows."""
    ndim, full = int(parts.ndims[tensor]), parts.full_shapes[tensor]
    starts, shapes = parts.corners(group, ndim)
    distinct, first = np.unique(np.hstack([starts, shapes]), axis=0, return_index=True)
    problem = check_tiling(distinct[:, :ndim], distinct[:, ndim:], full)
    if isinstance(problem, Overlap):
        one, other = (
            f"start {distinct[box, :ndim].tolist()} shape {distinct[box, ndim:].tolist()} "
            f"on rank {int(parts.rank[group[first[box]]])}"
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


def _are_joined(parts: PartTable, tensor: Column, shapes: Column) -> NDArray[np.bool_]:
    """Say of each box of sliced tensors whether those of its tensor go side by side under one full entry.

    TensorFlow can't join stored slices of some dtypes. PartTable cut along axis 0 alone are contiguous in the whole
    tensor, so they can be stored as the whole and every reader is served. Other cuts have to stay slices.
    """
    numbers = np.array(parts.dtypes, np.int64)[tensor]
    apart = [number for number in np.unique(numbers).tolist() if not dtypes.by_number(number).joinable]
    is_apart = np.isin(numbers, apart)
    if not is_apart.any():
        return is_apart
    is_along_first = (shapes[:, 1:] == parts.full(tensor, shapes.shape[1])[:, 1:]).all(axis=1)
    first = np.diff(tensor, prepend=-1) != 0
    of_tensor = np.logical_and.reduceat(is_along_first, np.flatnonzero(first))
    is_joined: NDArray[np.bool_] = is_apart & of_tensor[np.cumsum(first) - 1]
    return is_joined


def _choose_senders(parts: PartTable, boxes: _Boxes, from_lowest: Collection[str]) -> Column:
    """Return, per box, the row of the part that is sent: of the rank that has least to send, or of the lowest.

    The largest box first, as that evens out best.
    """
    rows = boxes.rows[boxes.begins]
    counts = boxes.counts
    shared = np.flatnonzero(counts > 1)
    alone = rows[counts == 1]
    load = np.zeros(int(parts.rank.max()) + 1, np.int64)
    np.add.at(load, parts.rank[alone], parts.size[alone])
    loads = load.tolist()
    sizes = parts.size[rows]
    fixed = {number for number, name in enumerate(parts.names) if name in from_lowest} if from_lowest else ()
    for box in shared[np.lexsort((shared, -sizes[shared]))].tolist():
        begin, count, size = int(boxes.begins[box]), int(counts[box]), int(sizes[box])
        candidates = parts.rank[boxes.rows[begin : begin + count]].tolist()
        chosen = candidates[0] if int(boxes.tensor[box]) in fixed else min(candidates, key=loads.__getitem__)
        rows[box] = boxes.rows[begin + candidates.index(chosen)]
        loads[chosen] += size
    return rows


def _replicas(parts: PartTable, boxes: _Boxes) -> Replicas:
    shared = np.flatnonzero(boxes.counts > 1)
    if not len(shared):
        return Replicas(_NO_ROWS, _NO_ROWS, _NO_ROWS, _NO_ROWS, _NO_ROWS)
    taken = boxes.take(shared)
    box = np.repeat(np.arange(len(shared)), taken.counts)
    rows = taken.rows
    return Replicas(box, parts.tensor[rows], parts.rank[rows], parts.item[rows], parts.size[rows])
