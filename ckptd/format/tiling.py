"""Do boxes overlap, and do they fill a shape? For thousands of slices at once, so computed on arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptd.format.slices import Box

IntArray = np.ndarray[Any, np.dtype[np.int64]]

_LEAF = 64  # so few boxes are compared pair by pair


def find_overlap(boxes: Sequence[Box]) -> tuple[int, int] | None:
    """Return the numbers of two boxes that share an element, or None. All boxes have one rank."""
    if len(boxes) < 2:
        return None
    rank = len(boxes[0].start)
    starts = np.array([box.start for box in boxes], np.int64).reshape(len(boxes), rank)
    lengths = np.array([box.shape for box in boxes], np.int64).reshape(len(boxes), rank)
    return find_overlap_in_columns(starts, lengths)


def find_overlap_in_columns(starts: IntArray, lengths: IntArray) -> tuple[int, int] | None:
    """Return the row numbers of two boxes that share an element, or None.

    Both arrays are [n, rank]; starts and lengths are not negative and no end exceeds 2**63 - 1. Boxes without
    elements overlap nothing.
    """
    rows = np.flatnonzero((lengths > 0).all(axis=1))
    if len(rows) < 2:
        return None
    if starts.shape[1] == 0:
        return int(rows[0]), int(rows[1])
    return _find(rows, starts, starts + lengths)


def _find(rows: IntArray, starts: IntArray, stops: IntArray) -> tuple[int, int] | None:
    low, high = starts[rows], stops[rows]
    for axis in range(low.shape[1]):
        order = np.argsort(low[:, axis], kind="stable")
        if (low[order[1:], axis] >= high[order[:-1], axis]).all():
            return None  # slabs along one axis, the usual case
    if len(rows) <= _LEAF:
        return _compare(rows, low, high)
    # Cut where the fewest boxes are hit; those go to both sides.
    best: tuple[int, int, int] | None = None
    for axis in range(low.shape[1]):
        cut = int(np.partition(low[:, axis], len(rows) // 2)[len(rows) // 2])
        left = int((low[:, axis] < cut).sum())
        right = int((high[:, axis] > cut).sum())
        if 0 < left < len(rows) and right < len(rows) and (best is None or left + right < best[0]):
            best = left + right, axis, cut
    if best is None or best[0] > len(rows) * 5 // 4:
        return _compare(rows, low, high)
    _, axis, cut = best
    return _find(rows[low[:, axis] < cut], starts, stops) or _find(rows[high[:, axis] > cut], starts, stops)


def _compare(rows: IntArray, low: IntArray, high: IntArray) -> tuple[int, int] | None:
    """Compare every pair, a bounded number of them at a time."""
    step = max(1, (1 << 20) // len(rows))
    for begin in range(0, len(rows), step):
        end = min(len(rows), begin + step)
        hit = np.ones((end - begin, len(rows) - begin), bool)
        for axis in range(low.shape[1]):
            hit &= low[begin:end, None, axis] < high[None, begin:, axis]
            hit &= low[None, begin:, axis] < high[begin:end, None, axis]
        hit[np.arange(end - begin), np.arange(end - begin)] = False
        if hit.any():
            one, other = np.argwhere(hit)[0]
            return int(rows[begin + one]), int(rows[begin + other])
    return None


def missing_or_overlapping(boxes: Sequence[Box], full_shape: tuple[int, ...]) -> str | None:
    """Say what keeps boxes from tiling a shape exactly, or None if they do. All boxes are inside the shape."""
    overlap = find_overlap(boxes)
    if overlap is not None:
        one, other = sorted(overlap)
        return f"slices {boxes[one]} and {boxes[other]} overlap"
    covered = sum(box.num_elements for box in boxes)
    wanted = math.prod(full_shape)
    if covered != wanted:
        return f"slices cover {covered} of {wanted} elements"
    return None


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two boxes, by row, that share an element."""

    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Elements that no box covers. `where` is known for cuts along one axis: (axis, start, end)."""

    missing_elements: int
    where: tuple[int, int, int] | None


def check_tiling(starts: IntArray, shapes: IntArray, full_shape: tuple[int, ...]) -> Overlap | Gap | None:
    """Return what is wrong with the boxes as a cover of a tensor, None if each element is covered just once.

    `starts` and `shapes` are [boxes, rank]; every box is within `full_shape` and has at least one element.
    Boxes that are apart and whose volumes add up to the whole leave no room for a gap.
    """
    overlap = find_overlap_in_columns(starts, shapes)
    if overlap is not None:
        return Overlap(*sorted(overlap))
    missing = math.prod(full_shape) - int(shapes.prod(axis=1).sum())
    return Gap(missing, _gap_along_one_axis(starts, starts + shapes, full_shape)) if missing else None


def _gap_along_one_axis(starts: IntArray, ends: IntArray, full_shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    cut = [axis for axis, size in enumerate(full_shape) if (starts[:, axis] > 0).any() or (ends[:, axis] < size).any()]
    if len(cut) != 1:
        return None
    order = np.argsort(starts[:, cut[0]])
    edges_low = np.append(starts[order, cut[0]], full_shape[cut[0]])
    edges_high = np.insert(ends[order, cut[0]], 0, 0)
    gap = int(np.flatnonzero(edges_low > edges_high)[0])
    return cut[0], int(edges_high[gap]), int(edges_low[gap])
