"""Do these boxes cover a tensor exactly once? Pure array work."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from ckptd.format.tiling import find_overlap_in_columns


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


def check_tiling(
    starts: NDArray[np.int64], shapes: NDArray[np.int64], full_shape: tuple[int, ...]
) -> Overlap | Gap | None:
    """Return what is wrong with the boxes as a cover of a tensor, None if each element is covered just once.

    `starts` and `shapes` are [boxes, rank]; every box lies within `full_shape` and has at least one element.
    Boxes that lie apart and whose volumes add up to the whole leave no room for a gap.
    """
    overlap = find_overlap_in_columns(starts, shapes)
    if overlap is not None:
        return Overlap(*sorted(overlap))
    missing = prod(full_shape) - int(shapes.prod(axis=1).sum())
    return Gap(missing, _gap_along_one_axis(starts, starts + shapes, full_shape)) if missing else None


def _gap_along_one_axis(
    starts: NDArray[np.int64], ends: NDArray[np.int64], full_shape: tuple[int, ...]
) -> tuple[int, int, int] | None:
    cut = [axis for axis, size in enumerate(full_shape) if (starts[:, axis] > 0).any() or (ends[:, axis] < size).any()]
    if len(cut) != 1:
        return None
    order = np.argsort(starts[:, cut[0]])
    edges_low = np.append(starts[order, cut[0]], full_shape[cut[0]])
    edges_high = np.insert(ends[order, cut[0]], 0, 0)
    gap = int(np.flatnonzero(edges_low > edges_high)[0])
    return cut[0], int(edges_high[gap]), int(edges_low[gap])
