"""What a tensor is like, at a glance: figures, a histogram, and a strip that shows where its values are large.

At most `sampling.SampleBounds` are read of a tensor and kept in memory; a glance says whether that was all. Checksums
are looked at only as far as `Bundle.read` does: `verify` checks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ckptd.engine.reading.bundle import Array, Bundle
from ckptd.engine.reading.sampling import NUM_BLOCKS, USUAL, SampleBounds, SampledPart, fits, parts
from ckptd.engine.reading.statistics import Histogram, Statistics, histogram, joined, statistics
from ckptd.errors import InvalidRequestError
from ckptd.format.stored import StoredTensor

NUM_BINS = 40
_MOST_VALUES = 5
_MOST_VALUE_BYTES = 200


@dataclass(frozen=True, slots=True)
class StripCell:
    """Consecutive elements of a tensor, in C order.

    Attributes:
        first, stop: their positions, half-open.
        rms: the root of the mean square of the finite ones; None without any.
        num_odd: how many are NaN or infinite.
    """

    first: int
    stop: int
    rms: float | None
    num_odd: int


@dataclass(frozen=True, slots=True)
class Glance:
    """What was seen of a tensor of numbers.

    Attributes:
        is_sampled: only blocks at equal distances were read; then all figures are of these.
        read_bytes: how many.
        statistics: of what was read.
        histogram: of the finite values of it; None without any.
        strip: stretches that ascend, with gaps between them where it was sampled.
    """

    is_sampled: bool
    read_bytes: int
    statistics: Statistics
    histogram: Histogram | None
    strip: tuple[StripCell, ...]


@dataclass(frozen=True, slots=True)
class StringGlance:
    """What was seen of a tensor of strings or variants; lengths are in bytes, None where there is no element.

    Attributes:
        count: elements.
        num_empty: those of length 0.
        shortest, longest, mean: of the lengths.
        beginnings: the first bytes of the first elements.
    """

    count: int
    num_empty: int
    shortest: int | None
    longest: int | None
    mean: float | None
    beginnings: tuple[bytes, ...]


def glance(
    bundle: Bundle, name: str, *, is_late: Callable[[], bool] = lambda: False, bounds: SampleBounds = USUAL
) -> Glance | StringGlance:
    """Look at a tensor.

    Once `is_late`, no more is read: the figures are of what was seen by then.

    Raises:
        NotFoundError: there is no such tensor.
        InvalidRequestError: strings that are too long to be read for this.
        CorruptionError: its bytes are missing or wrong.
    """
    tensor = bundle.index.tensor(name)
    if not tensor.dtype.width:
        return _glance_at_strings(bundle, tensor, bounds)
    seen = sorted(
        read_parts([bundle], tensor, tensor.dtype.width, is_late=is_late, bounds=bounds), key=lambda each: each[0].first
    )
    strip, figures = [], []
    for part, (values,) in seen:
        length = -(-values.size // max(1, NUM_BLOCKS // len(seen)))
        for at in range(0, values.size, length or 1):
            its = statistics([values[at : at + length]])
            figures.append(its)
            first = part.first + at
            strip.append(StripCell(first, first + its.count, _rms(its), its.nans + its.infinities))
    whole = joined(figures)
    drawn = histogram((values for _, (values,) in seen), whole, NUM_BINS)
    read_bytes = sum(values.nbytes for _, (values,) in seen)
    return Glance(whole.count < math.prod(tensor.shape), read_bytes, whole, drawn, tuple(strip))


def read_parts(
    bundles: Sequence[Bundle],
    tensor: StoredTensor,
    width: int,
    *,
    is_late: Callable[[], bool] = lambda: False,
    bounds: SampleBounds = USUAL,
) -> Iterator[tuple[SampledPart, list[Array]]]:
    """Read parts of a tensor of numbers, see `sampling`: the same of several checkpoints, in any order.

    Each comes with its values in a row, of each checkpoint. `width` is that of the widest elements.
    """
    is_whole = fits(tensor.shape, width, bounds)  # then its pieces are checked, too
    for part in _spread(list(parts(tensor.shape, width, bounds))):
        name, box = tensor.name, part.box
        found = (each.read(name) if is_whole else each.read_exactly(name, box) for each in bundles)
        yield part, [values.reshape(-1) for values in found]
        if is_late():
            return


def _spread(ascending: list[SampledPart]) -> list[SampledPart]:
    """Return parts in an order whose beginning is spread over the tensor too: halves, quarters, eighths."""
    step = 1 << max(0, len(ascending) - 1).bit_length()
    order = list(ascending[:1])
    while step > 1:
        order += ascending[step // 2 :: step]
        step //= 2
    return order


def _rms(figures: Statistics) -> float | None:
    if figures.mean is None or figures.deviation is None:
        return None
    return math.hypot(figures.mean, figures.deviation)


def _glance_at_strings(bundle: Bundle, tensor: StoredTensor, bounds: SampleBounds) -> StringGlance:
    size = sum(piece.size for piece in tensor.pieces)
    if size > bounds.size_bytes:
        raise InvalidRequestError(
            f"tensor {tensor.name!r} holds {size} bytes of strings, too many to be looked through here: "
            "`ckptd cat` prints them"
        )
    elements: list[bytes] = bundle.read(tensor.name).reshape(-1).tolist()
    lengths = list(map(len, elements))
    return StringGlance(
        count=len(elements),
        num_empty=lengths.count(0),
        shortest=min(lengths, default=None),
        longest=max(lengths, default=None),
        mean=sum(lengths) / len(lengths) if lengths else None,
        beginnings=tuple(element[:_MOST_VALUE_BYTES] for element in elements[:_MOST_VALUES]),
    )
