"""Which parts of a tensor to read to get an idea of it: all of a small one, blocks at equal distances of a large one.

A block is contiguous in the tensor, so of each stored piece too it needs one stretch. Blocks are chosen by arithmetic:
a tensor of a terabyte has as many as one of a gigabyte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from ckptd.format.slices import Box

NUM_BLOCKS = 64
"""So many are read of a large tensor."""


@dataclass(frozen=True, slots=True)
class SampleBounds:
    """How much of a tensor is read at most.

    Attributes:
        size_bytes: in bytes.
        num_elements: in elements: those of one byte take as much time as those of eight.
    """

    size_bytes: int = 64 << 20
    num_elements: int = 16 << 20


USUAL = SampleBounds()


@dataclass(frozen=True, slots=True)
class SampledPart:
    """One box that is read.

    Attributes:
        box: contiguous in the tensor's C order.
        first: the position of its first element in that order.
    """

    box: Box
    first: int

    @property
    def stop(self) -> int:
        """The position after its last element."""
        return self.first + self.box.num_elements


def fits(shape: tuple[int, ...], width: int, bounds: SampleBounds = USUAL) -> bool:
    """Say whether a tensor is small enough to be read whole; `width` is bytes per element."""
    count = prod(shape)
    return count <= bounds.num_elements and count * width <= bounds.size_bytes


def parts(shape: tuple[int, ...], width: int, bounds: SampleBounds = USUAL) -> Iterator[SampledPart]:
    """Yield what to read of a tensor: all of it, or parts that ascend, do not overlap, and together are in bounds."""
    if fits(shape, width, bounds):
        yield SampledPart(Box.whole(shape), 0)
        return
    most = min(bounds.size_bytes // width, bounds.num_elements) // NUM_BLOCKS  # elements of a block
    # All of the dimensions after `axis` fit into a block, and together with `axis` they do not.
    axis, inner = len(shape) - 1, 1
    while inner * shape[axis] <= most:
        inner *= shape[axis]
        axis -= 1
    rows = most // inner
    cells_of_row = -(-shape[axis] // rows)
    num_cells = prod(shape[:axis]) * cells_of_row
    num_taken = min(NUM_BLOCKS, num_cells)
    for number in range(num_taken):
        # The first and the last are among them: what is wrong is often wrong at an end.
        cell = number * (num_cells - 1) // max(1, num_taken - 1)
        outer, begin = divmod(cell, cells_of_row)
        begin *= rows
        start, extent = [begin], [min(rows, shape[axis] - begin)]
        first = (outer * shape[axis] + begin) * inner
        for size in reversed(shape[:axis]):
            outer, at = divmod(outer, size)
            start.insert(0, at)
            extent.insert(0, 1)
        rest = shape[axis + 1 :]
        yield SampledPart(Box((*start, *(0 for _ in rest)), (*extent, *rest)), first)
