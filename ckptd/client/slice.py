"""A part of a tensor; other processes hold the rest."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ckptd.errors import InvalidRequestError


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One box of a tensor, to be saved beside the boxes of other ranks: ``Slice(part, (1000, 64), start=(250, 0))``.

    Attributes:
        part: the elements of the box; whatever `Checkpointer.save` takes.
        full_shape: of the whole tensor.
        start: where the part begins in it, one number per dimension.
    """

    part: Any
    full_shape: tuple[int, ...]
    start: tuple[int, ...]

    def __init__(self, part: Any, full_shape: Sequence[int], start: Sequence[int]) -> None:
        object.__setattr__(self, "part", part)
        object.__setattr__(self, "full_shape", _whole_numbers(full_shape, "full_shape"))
        object.__setattr__(self, "start", _whole_numbers(start, "start"))


def _whole_numbers(values: Sequence[int], what: str) -> tuple[int, ...]:
    try:
        return tuple(operator.index(value) for value in values)
    except TypeError as error:
        raise InvalidRequestError(f"{what} of a slice is a sequence of whole numbers", actual=repr(values)) from error
