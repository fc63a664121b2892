"""Do boxes overlap, and do they fill a shape? Asked of thousands of slices at once, so answered on arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    """Say what keeps boxes from tiling a shape exactly, or None if they do. All boxes lie inside the shape."""
    overlap = find_overlap(boxes)
    if overlap is not None:
        one, other = sorted(overlap)
        return f"slices {boxes[one]} and {boxes[other]} overlap"
    covered = sum(box.num_elements for box in boxes)
    wanted = math.prod(full_shape)
    if covered != wanted:
        return f"slices cover {covered} of {wanted} elements"
    return None
