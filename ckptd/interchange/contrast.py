"""By how much a tensor differs between two checkpoints, at a glance: of a large one the same parts of both are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ckptd.engine.reading.bundle import Bundle
from ckptd.engine.reading.glance import read_parts
from ckptd.engine.reading.sampling import USUAL, SampleBounds
from ckptd.errors import InvalidRequestError
from ckptd.format.stored import StoredTensor
from ckptd.interchange.comparing import PART_ELEMENTS, Tally


@dataclass(frozen=True, slots=True)
class Contrast:
    """How a tensor differs.

    Attributes:
        is_sampled: only parts of it were compared, and the figures are of these.
        num_elements: how many were compared.
        num_different: how many are not equal; a NaN equals a NaN at the same place.
        num_nan: of those, how many are NaN on one side only.
        max_abs: the largest absolute difference; None for what is no number.
        rms: the root of the mean square difference; None for what is no number.
    """

    is_sampled: bool
    num_elements: int
    num_different: int
    num_nan: int
    max_abs: float | None
    rms: float | None


def contrast(
    newer: Bundle,
    older: Bundle,
    name: str,
    *,
    is_late: Callable[[], bool] = lambda: False,
    bounds: SampleBounds = USUAL,
) -> Contrast:
    """Compare the values of a tensor. Once `is_late`, no more is read.

    Raises:
        NotFoundError: one of them has no such tensor.
        InvalidRequestError: shapes or kinds of element differ; strings that are too long to be read for this.
        CorruptionError: bytes are missing or wrong.
    """
    tensor, before = newer.index.tensor(name), older.index.tensor(name)
    _check_comparable(tensor, before, bounds)
    width = max(tensor.dtype.width, before.dtype.width)
    tally = Tally(is_number=bool(width))
    if width:
        for _, (values, values_before) in read_parts([newer, older], tensor, width, is_late=is_late, bounds=bounds):
            for at in range(0, values.size, PART_ELEMENTS):
                tally.take(values_before[at : at + PART_ELEMENTS], values[at : at + PART_ELEMENTS])
    else:
        tally.take(older.read(name).reshape(-1), newer.read(name).reshape(-1))
    found = tally.result()
    return Contrast(
        tally.num_elements < math.prod(tensor.shape),
        found.num_elements,
        found.num_different,
        found.num_nan,
        found.max_abs,
        tally.rms,
    )


def _check_comparable(tensor: StoredTensor, before: StoredTensor, bounds: SampleBounds) -> None:
    name = tensor.name
    if tensor.shape != before.shape:
        raise InvalidRequestError(
            f"tensor {name!r} has another shape in the other checkpoint: {list(before.shape)}, not {list(tensor.shape)}"
        )
    dtypes = (tensor.dtype, before.dtype)
    if not all(dtype.width for dtype in dtypes) and tensor.dtype != before.dtype:
        raise InvalidRequestError(
            f"tensor {name!r} has elements of another kind in the other checkpoint: "
            f"{before.dtype.name}, not {tensor.dtype.name}"
        )
    sizes = [sum(piece.size for piece in each.pieces) for each in (tensor, before)]
    if not tensor.dtype.width and sum(sizes) > bounds.size_bytes:
        raise InvalidRequestError(f"tensor {name!r} holds too many strings to be compared here: `ckptd diff` does it")
