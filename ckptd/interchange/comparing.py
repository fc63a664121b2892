"""Compare two sources of tensors: which tensors only one of them has, and by how much values differ.

Both are read as streams, so memory does not grow with them; tensors of strings are held whole, one of each at a time.
Equal means equal as numbers: -0.0 equals 0.0, and a NaN equals a NaN at the same place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ckptd.engine.reading.verify import Progress
from ckptd.errors import CorruptionError
from ckptd.interchange.source import Array, TensorFacts, TensorSource

PART_ELEMENTS = 1 << 20  # what is compared at once; the arithmetic takes some 50 bytes for each


@dataclass(frozen=True, slots=True)
class Values:
    """How two tensors of one shape differ, element by element.

    Attributes:
        num_elements: how many were compared.
        num_different: how many are not equal.
        num_nan: of those, how many are NaN on one side only; they are in neither of the two figures below.
        max_abs: the largest absolute difference, None for what is no number.
        mean_abs: the mean absolute difference of all elements, equal ones included; None for what is no number.
    """

    num_elements: int
    num_different: int
    num_nan: int
    max_abs: float | None
    mean_abs: float | None


@dataclass(frozen=True, slots=True)
class Change:
    """A tensor that both have and that is not the same. `values` is None where shapes or kinds of element forbid it."""

    name: str
    a: TensorFacts
    b: TensorFacts
    values: Values | None

    @property
    def what(self) -> tuple[str, ...]:
        """Return what differs, of "dtype", "shape" and "values"."""
        found = []
        if self.a.dtype_name != self.b.dtype_name:
            found.append("dtype")
        if self.a.shape != self.b.shape:
            found.append("shape")
        if self.values is not None and self.values.num_different:
            found.append("values")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """What a comparison found: `added` are only in b, `removed` only in a; all in the order of their names."""

    added: tuple[TensorFacts, ...]
    removed: tuple[TensorFacts, ...]
    changed: tuple[Change, ...]
    num_equal: int

    @property
    def is_equal(self) -> bool:
        """Whether both hold the same tensors with the same values."""
        return not (self.added or self.removed or self.changed)


def compare(
    a: TensorSource, b: TensorSource, *, values: bool = True, progress: Progress | None = None
) -> TensorDifference:
    """Compare `a`, the older one, with `b`. Without `values` only names, dtypes and shapes are compared.

    Raises:
        CorruptionError: when bytes do not have their checksum: then there is nothing to compare.
    """
    names_a, names_b = a.names(), b.names()
    known_a, known_b = set(names_a), set(names_b)
    both = [name for name in names_a if name in known_b]
    total = sum(a.facts(name).size_bytes + b.facts(name).size_bytes for name in both) if values else 0
    done = 0

    def passed(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, total)

    changed, num_equal = [], 0
    for name in both:
        change = _compare(name, a, b, values, passed)
        if change.what:
            changed.append(change)
        else:
            num_equal += 1
    return TensorDifference(
        added=tuple(b.facts(name) for name in names_b if name not in known_a),
        removed=tuple(a.facts(name) for name in names_a if name not in known_b),
        changed=tuple(changed),
        num_equal=num_equal,
    )


def _compare(name: str, a: TensorSource, b: TensorSource, values: bool, passed: Callable[[int], None]) -> Change:
    facts_a, facts_b = a.facts(name), b.facts(name)
    if not values or facts_a.shape != facts_b.shape or not _are_comparable(facts_a, facts_b):
        return Change(name, facts_a, facts_b, None)
    tally = Tally(is_number=bool(facts_a.dtype and facts_a.dtype.width))
    for part_a, part_b in _pairs(a.stream(name), b.stream(name)):
        tally.take(part_a, part_b)
        passed(part_a.nbytes + part_b.nbytes if tally.is_number else 0)
    if tally.num_elements != facts_a.num_elements:
        raise CorruptionError(
            f"tensor {name!r} does not have the size of its shape",
            expected=facts_a.num_elements,
            actual=tally.num_elements,
        )
    return Change(name, facts_a, facts_b, tally.result())


def _are_comparable(a: TensorFacts, b: TensorFacts) -> bool:
    """Return whether values can be compared: numbers with numbers, else one and the same kind of element."""
    if a.dtype is None or b.dtype is None:
        return False
    return bool(a.dtype.width and b.dtype.width) or a.dtype == b.dtype


def _pairs(a: Iterator[Array], b: Iterator[Array]) -> Iterator[tuple[Array, Array]]:
    """Yield two streams in step, in parts of equal length; both to their ends, where checksums are compared."""
    left, right = next(a, None), next(b, None)
    while left is not None and right is not None:
        count = min(len(left), len(right), PART_ELEMENTS)
        if count:
            yield left[:count], right[:count]
        left, right = left[count:], right[count:]
        # A stream's part is valid until the next is requested, so it is used up first.
        if not len(left):
            left = next(a, None)
        if not len(right):
            right = next(b, None)
    for rest in (a, b):
        for _ in rest:
            pass


class Tally:
    """Adds up differences between two tensors, part by part.

    Attributes:
        num_elements: how many were compared.
    """

    def __init__(self, is_number: bool) -> None:
        """Begin with none; elements that are no numbers are only equal or not."""
        self.is_number = is_number
        self.num_elements = 0
        self._num_different = 0
        self._num_nan = 0
        self._num_compared = 0
        self._max = 0.0
        self._sum = 0.0
        self._squares = 0.0

    def take(self, a: Array, b: Array) -> None:
        """Add two parts of equal length."""
        self.num_elements += len(a)
        if not self.is_number:
            self._num_different += int(np.count_nonzero(a != b))
            return
        if a.dtype == b.dtype and (a.view(np.uint8) == b.view(np.uint8)).all():
            self._num_compared += len(a) - int(np.count_nonzero(_is_nan(_plain(a))))
            return
        left, right = _plain(a), _plain(b)
        nan_left, nan_right = _is_nan(left), _is_nan(right)
        equal = (left == right) | (nan_left & nan_right)
        one_sided = nan_left ^ nan_right
        self._num_different += int(len(a) - np.count_nonzero(equal))
        self._num_nan += int(np.count_nonzero(one_sided))
        self._num_compared += int(len(a) - np.count_nonzero(nan_left | nan_right))
        chosen = ~(equal | one_sided)
        if not chosen.any():
            return
        apart = _distance(left[chosen], right[chosen])
        self._max = max(self._max, float(apart.max()))
        self._sum += float(apart.sum())
        with np.errstate(over="ignore"):
            self._squares += float(np.dot(apart, apart))

    @property
    def rms(self) -> float | None:
        """The root of the mean square difference, as `Values.mean_abs` counts; None for what is no number."""
        if not self.is_number:
            return None
        return math.sqrt(self._squares / self._num_compared) if self._num_compared else 0.0

    def result(self) -> Values:
        """Return the result."""
        if not self.is_number:
            return Values(self.num_elements, self._num_different, 0, None, None)
        mean = self._sum / self._num_compared if self._num_compared else 0.0
        return Values(self.num_elements, self._num_different, self._num_nan, self._max, mean)


def _plain(array: Array) -> Array:
    """Return elements as numpy itself computes with them; `ml_dtypes` all fit float32 or int8."""
    if array.dtype.isbuiltin == 1:
        return array
    if array.dtype.name in ("int4", "int2"):
        return array.astype(np.int8)
    if array.dtype.name in ("uint4", "uint2"):
        return array.astype(np.uint8)
    return array.astype(np.float32)


def _is_nan(array: Array) -> Array:
    return np.isnan(array) if array.dtype.kind in "fc" else np.zeros(len(array), bool)


def _distance(a: Array, b: Array) -> Array:
    """Return absolute differences in float64; of integers exactly, before they are rounded."""
    if a.dtype == b.dtype and a.dtype.kind in "iu":
        wide = np.dtype(np.int64 if a.dtype.kind == "i" else np.uint64)
        low, high = np.minimum(a, b).astype(wide), np.maximum(a, b).astype(wide)
        # Modulo 2**64 this is right also where the difference of two int64 is no int64.
        exact: Array = high.view(np.uint64) - low.view(np.uint64)
        return exact.astype(np.float64)
    kind = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
    with np.errstate(over="ignore", invalid="ignore"):
        apart: Array = np.abs(a.astype(kind) - b.astype(kind))
    return apart
