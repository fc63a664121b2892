"""Which bytes of a stored piece a box needs. Pure geometry: nothing is read here.

A piece is stored in C order, so a box of it is a set of equally long *runs*, one after every gap. Runs are read as they
are while they are long; where runs and gaps are both short, the gap is read too, because a seek costs more. What is
read then is cut into *blocks*: boxes that are contiguous in the piece and of bounded size, so that several threads can
fetch them and memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from ckptd.format.slices import Box

BLOCK_BYTES = 8 << 20
"""A block is at most this long, unless one element is longer."""

SHORT_BYTES = 256 << 10
"""A run longer than this is not worth joining with another."""


@dataclass(frozen=True, slots=True)
class Block:
    """One contiguous stretch of a stored piece.

    Attributes:
        box: in the piece's own coordinates (the piece begins at zero).
        offset: of its first byte, from the start of the piece.
        size: bytes.
    """

    box: Box
    offset: int
    size: int


def widen(shape: tuple[int, ...], box: Box, width: int, gap_bytes: int) -> Box:
    """Return what to read of a piece of `shape` to get `box` (in the piece's coordinates): the box, or a bit more.

    Dimensions are taken whole from the last one on, as long as the runs that this joins are short, and the gaps between
    them below `gap_bytes`. A box that ends up as the whole piece can be checked against the piece's checksum.
    """
    start, extent = list(box.start), list(box.shape)
    for axis in reversed(range(len(shape))):
        inner = prod(shape[axis + 1 :]) * width
        run, gap = extent[axis] * inner, (shape[axis] - extent[axis]) * inner
        if not gap:
            continue
        if prod(extent[:axis]) == 1 and run + gap > gap_bytes:
            break  # a single run: nothing is joined by reading around it
        if run > SHORT_BYTES or gap >= gap_bytes:
            break
        start[axis], extent[axis] = 0, shape[axis]
    return Box(tuple(start), tuple(extent))


def blocks(shape: tuple[int, ...], box: Box, width: int, limit_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """Yield the blocks that make up `box` in a piece of `shape`, in the order in which they are stored.

    Each is contiguous in the piece and at most `limit_bytes` long if an element is. An empty box has none.
    """
    if 0 in box.shape:
        return
    strides = [prod(shape[axis + 1 :]) * width for axis in range(len(shape))]
    # Dimensions after `tail` are whole, so every run spans `tail` and all that follows it.
    tail = len(shape)
    while tail > 0 and box.shape[tail - 1] == shape[tail - 1]:
        tail -= 1
    first_run = max(tail - 1, 0)
    yield from _cut(list(box.start), list(box.shape), 0, first_run, strides, width, limit_bytes)


def _cut(
    start: list[int], extent: list[int], axis: int, first_run: int, strides: list[int], width: int, limit_bytes: int
) -> Iterator[Block]:
    """Cut along `axis` and, while the pieces are too long or not contiguous, along those after it."""
    size = prod(extent) * width
    while axis < len(extent) and extent[axis] == 1:
        axis += 1
    if axis >= first_run and (size <= limit_bytes or axis >= len(extent)):
        yield Block(Box(tuple(start), tuple(extent)), _offset(start, strides), size)
        return
    count, base = extent[axis], start[axis]
    row = size // count
    step = max(1, limit_bytes // row) if axis >= first_run else 1
    for at in range(0, count, step):
        sub_start, sub_extent = start.copy(), extent.copy()
        sub_start[axis], sub_extent[axis] = base + at, min(step, count - at)
        yield from _cut(sub_start, sub_extent, axis, first_run, strides, width, limit_bytes)


def _offset(start: list[int], strides: list[int]) -> int:
    return sum(n * stride for n, stride in zip(start, strides, strict=True))
