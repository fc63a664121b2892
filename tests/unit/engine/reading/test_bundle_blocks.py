"""Which bytes a box needs: the blocks cover it exactly, in stored order, each contiguous and bounded."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ckptd.engine.reading.blocks import SHORT_BYTES, Block, blocks, widen
from ckptd.format.slices import Box

SHAPES = [(), (1,), (7,), (0,), (4, 5), (1, 9), (3, 4, 5), (2, 1, 3, 2), (5, 0, 2)]
WIDTHS = [1, 4]
LIMITS = [1, 7, 16, 1 << 20]


def boxes_of(shape):
    ranges = [[(start, stop) for start in range(n + 1) for stop in range(start, n + 1)] for n in shape]
    picked = list(itertools.product(*ranges))
    for extents in picked[:: max(1, len(picked) // 60)]:
        yield Box(tuple(a for a, _ in extents), tuple(b - a for a, b in extents))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("limit", LIMITS)
def test_blocks_are_exactly_the_bytes_of_a_box_in_stored_order(shape, width, limit):
    stored = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    for box in boxes_of(shape):
        cut = list(blocks(shape, box, width, limit))
        seen = []
        for block in cut:
            elements = stored[(..., *block.box.within(Box.whole(shape)))].reshape(-1)
            assert block.size == elements.size * width
            assert block.size <= max(limit, width)
            # Contiguous: the elements of a block are consecutive numbers from its offset on.
            assert elements.tolist() == list(range(block.offset // width, block.offset // width + elements.size))
            seen += elements.tolist()
        assert seen == stored[(..., *box.within(Box.whole(shape)))].reshape(-1).tolist()


def test_a_whole_piece_within_the_limit_is_one_block():
    assert list(blocks((3, 4), Box.whole((3, 4)), 4)) == [Block(Box((0, 0), (3, 4)), 0, 48)]


COVERS = [
    # (shape, box, width) -> what is read instead
    pytest.param((100, 10), Box((0, 3), (100, 2)), 4, Box((0, 0), (100, 10)), id="short runs are joined"),
    pytest.param((100, 10), Box((5, 3), (2, 2)), 4, Box((0, 0), (100, 10)), id="a small piece is read, and checked"),
    pytest.param((4, 1 << 20), Box((0, 0), (4, 1 << 19)), 4, Box((0, 0), (4, 1 << 19)), id="long gaps are jumped"),
    pytest.param((1 << 20, 4), Box((9, 0), (100, 4)), 4, Box((9, 0), (100, 4)), id="one run is read as it is"),
    pytest.param((1 << 20, 4), Box((9, 1), (1000, 2)), 4, Box((9, 0), (1000, 4)), id="rows are read whole"),
    pytest.param((), Box((), ()), 8, Box((), ()), id="a scalar"),
]


@pytest.mark.parametrize(("shape", "box", "width", "covering"), COVERS)
def test_what_is_read_for_a_box(shape, box, width, covering):
    assert widen(shape, box, width, SHORT_BYTES) == covering


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_read_always_holds_the_box(shape):
    for box in boxes_of(shape):
        assert widen(shape, box, 4, SHORT_BYTES).contains(box)


def test_no_gap_that_is_read_through_is_long():
    shape = (64, 64, 1024)
    for box in [Box((0, 0, 0), (64, 64, 1)), Box((0, 0, 0), (64, 1, 1024)), Box((3, 3, 3), (3, 3, 3))]:
        covering = widen(shape, box, 4, SHORT_BYTES)
        wasted_per_run = [
            (covering.shape[axis] - box.shape[axis]) * int(np.prod(shape[axis + 1 :], dtype=int)) * 4
            for axis in range(3)
        ]
        assert max(wasted_per_run) <= SHORT_BYTES
