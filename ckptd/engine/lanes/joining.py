"""Slices of one host that touch are stored as one. Pure.

A host's ranks often hold neighbouring boxes of a tensor. Where the bytes of one, followed by those of the next, are the
bytes of a box, that box gets one entry of the index: it is smaller by the number of ranks on a host, as are the list of
slices that each reader goes through and the sums that are told. Readers of the format see a slice like any other.

What is part of a slice is checked by reading the whole slice: a rank that reads its own part from the store reads that
of the host's other ranks, too, or, if that is more than four times as much, does not check it (see ``docs/damage.md``).
What reads for a whole host checks all of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.lanes.part_table import PartTable
from ckptd.engine.lanes.units import Units
from ckptd.engine.layout import Column


def join_touching(parts: PartTable, units: Units, hosts: Column) -> Units:
    """Let slices that touch, and are on one host, share an entry. A tensor of one entry is stored whole.

    Args:
        parts: what the ranks bring.
        units: by tensor, and those of a tensor by where they begin.
        hosts: per unit, the host that it is on.
    """
    joins = np.zeros(len(units.row), bool)  # the entry of the unit before
    sliced = np.flatnonzero(units.is_slice)
    ndims = parts.ndims[units.tensor[sliced]]
    for ndim in np.unique(ndims).tolist():
        rows = sliced[ndims == ndim]
        starts, shapes = parts.corners(units.row[rows], ndim)
        is_near = (units.tensor[rows][1:] == units.tensor[rows][:-1]) & (hosts[rows][1:] == hosts[rows][:-1])
        joins[rows[1:]] = _go_on(starts, shapes) & is_near
    begins_entry = units.begins_entry & ~joins
    entries = np.bincount(units.tensor[begins_entry], minlength=len(parts.names))
    return Units(units.row, units.tensor, units.is_slice & (entries[units.tensor] > 1), begins_entry)


def _go_on(starts: Column, shapes: Column) -> NDArray[np.bool_]:
    """Say of each box but the first whether its bytes go on where those of the box before end, in a box of both.

    It begins where the other ends along one axis and is alike along the rest; and before that axis there is one row of
    each, or their bytes would be mixed. A box made of several grows along one axis.
    """
    before, after = slice(None, -1), slice(1, None)
    differs = starts[after] != starts[before]
    axis = differs.argmax(axis=1)
    pair = np.arange(len(axis))
    is_alike = shapes[after] == shapes[before]
    is_alike[pair, axis] = True
    touches = starts[before][pair, axis] + shapes[before][pair, axis] == starts[after][pair, axis]
    rows_before = np.cumprod(np.hstack([np.ones((len(axis), 1), np.int64), shapes[before]]), axis=1)[pair, axis]
    goes_on = (np.count_nonzero(differs, axis=1) == 1) & is_alike.all(axis=1) & touches & (rows_before == 1)
    turns = np.zeros(len(axis), bool)
    turns[1:] = goes_on[:-1] & (axis[1:] != axis[:-1])
    joins: NDArray[np.bool_] = goes_on & ~turns
    return joins
