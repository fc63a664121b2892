"""What the values of a tensor are like, found in one pass over bounded pieces: a tensor need not fit in memory.

Numbers of every kind are compared in double precision, except for the extremes of integers, which stay exact. Complex
numbers count by their magnitude, booleans as 0 and 1. What is not finite is counted and left out of the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptd.engine.reading.blocks import blocks
from ckptd.engine.reading.bundle import Array, Bundle
from ckptd.format.slices import Box

WHOLE_BYTES = 16 << 20
ELEMENTS_AT_ONCE = 1 << 20  # elements: what is made of them on the way is in double precision


@dataclass(frozen=True, slots=True)
class Statistics:
    """The values of one tensor in a few figures; None where there is no finite number.

    Attributes:
        count: elements.
        nans: elements that are no number.
        infinities: elements that are infinite, of either sign.
        zeros: elements that are zero.
        minimum: the smallest finite one; an `int` for integers.
        maximum: the largest finite one.
        mean: of the finite ones.
        deviation: their standard deviation, over all of them and not a sample.
    """

    count: int
    nans: int
    infinities: int
    zeros: int
    minimum: float | int | None
    maximum: float | int | None
    mean: float | None
    deviation: float | None

    @property
    def num_finite(self) -> int:
        """Elements that count for the extremes and the mean."""
        return self.count - self.nans - self.infinities


@dataclass(frozen=True, slots=True)
class Histogram:
    """How the finite values of a tensor are spread: `counts[i]` of them from `edges[i]` up to `edges[i + 1]`."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


def statistics(parts: Iterable[Array]) -> Statistics:
    """Describe the values that come in `parts`: flat arrays of numbers, read once, one after the other.

    Memory is bounded by a part. Errors are those of reading.
    """
    count = nans = infinities = zeros = num_finite = 0
    lows: list[Any] = []
    highs: list[Any] = []
    mean = squares = 0.0
    for values in _numbers(parts):
        count += values.size
        finite = values
        if values.dtype.kind == "f":
            is_finite = np.isfinite(values)
            num_nans = int(np.count_nonzero(np.isnan(values)))
            nans += num_nans
            infinities += values.size - int(np.count_nonzero(is_finite)) - num_nans
            finite = values[is_finite]
        zeros += values.size - int(np.count_nonzero(values))
        if not finite.size:
            continue
        lows.append(finite.min().item())
        highs.append(finite.max().item())
        # Chan's way of joining means: sums of squares of large numbers would lose what is small between them.
        exact = finite.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            block_mean = float(exact.mean())
            exact -= block_mean
            block_squares = float(np.dot(exact, exact))
        delta, total = block_mean - mean, num_finite + finite.size
        mean += delta * finite.size / total
        squares += block_squares + delta * delta * num_finite * finite.size / total
        num_finite = total
    if not num_finite:
        return Statistics(count, nans, infinities, zeros, None, None, None, None)
    deviation = math.sqrt(max(squares / num_finite, 0.0))
    return Statistics(count, nans, infinities, zeros, min(lows), max(highs), mean, deviation)


def joined(figures: Iterable[Statistics]) -> Statistics:
    """Return the statistics of several sets of values together, from those of each."""
    count = nans = infinities = zeros = num_finite = 0
    lows: list[float | int] = []
    highs: list[float | int] = []
    mean = squares = 0.0
    for each in figures:
        count, nans, infinities = count + each.count, nans + each.nans, infinities + each.infinities
        zeros += each.zeros
        if each.minimum is None or each.maximum is None or each.mean is None or each.deviation is None:
            continue
        lows.append(each.minimum)
        highs.append(each.maximum)
        delta, total = each.mean - mean, num_finite + each.num_finite
        mean += delta * each.num_finite / total
        squares += each.deviation * each.deviation * each.num_finite
        if num_finite:
            squares += delta * delta * num_finite * each.num_finite / total
        num_finite = total
    if not num_finite:
        return Statistics(count, nans, infinities, zeros, None, None, None, None)
    return Statistics(count, nans, infinities, zeros, min(lows), max(highs), mean, math.sqrt(squares / num_finite))


def histogram(parts: Iterable[Array], known: Statistics, num_bins: int = 20) -> Histogram | None:
    """Count the finite values that come in `parts` in bins of equal width; None when there is nothing to count.

    `known` are their statistics: they say from where to where the bins go.
    """
    if known.minimum is None or known.maximum is None:
        return None
    low, high = float(known.minimum), float(known.maximum)
    if low == high or not math.isfinite(high - low):
        return Histogram((low, high), (known.num_finite,))
    if known.count and isinstance(known.minimum, int):
        num_bins = max(1, min(num_bins, int(known.maximum) - int(known.minimum) + 1))
    edges = np.linspace(low, high, num_bins + 1)
    counts = np.zeros(num_bins, np.int64)
    for values in _numbers(parts):
        exact = values.astype(np.float64)
        exact = exact[np.isfinite(exact)]
        # By the range and not by the edges: numpy sorts when bins may differ in width, which takes four times as long.
        counts += np.histogram(exact, num_bins, (low, high))[0]
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def parts_of(bundle: Bundle, name: str) -> Iterator[Array]:
    """Read a tensor of numbers as flat arrays, block by block.

    Checksums are not looked at beyond what `Bundle.read` does: see `verify`.

    Raises:
        CorruptionError: when slices are missing, or data files end early.
    """
    tensor = bundle.index.tensor(name)
    # What is small is read whole, and checked by that. A large one is cut as if it were stored whole, because going
    # by its pieces would look through all of them for every piece.
    boxes: Iterator[Box]
    if sum(piece.size for piece in tensor.pieces) <= WHOLE_BYTES:
        boxes = iter([Box.whole(tensor.shape)])
    else:
        cut = blocks(tensor.shape, Box.whole(tensor.shape), tensor.dtype.width, WHOLE_BYTES)
        boxes = (block.box for block in cut)
    for box in boxes:
        yield bundle.read(name, box).reshape(-1)


def _numbers(parts: Iterable[Array]) -> Iterator[Array]:
    """Yield all elements as flat arrays of one of numpy's own number types, none of them large."""
    for array in parts:
        for at in range(0, array.size, ELEMENTS_AT_ONCE):
            yield _as_numbers(array[at : at + ELEMENTS_AT_ONCE])


def _as_numbers(array: Array) -> Array:
    if array.dtype.kind == "c":
        return np.abs(array)
    if array.dtype.kind == "b":
        return array.astype(np.int8)
    if array.dtype.kind in "iuf":
        return array
    if array.dtype.name in ("int4", "uint4", "int2", "uint2"):
        return array.astype(np.int8)
    return array.astype(np.float32)  # bfloat16, float8 and their kin: all of them fit
