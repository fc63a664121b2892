"""Pieces, sums and runs by columns are those that one finds byte by byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.engine.lanes.geometry import Segments, checksum, runs, split
from ckptd.format import crc32c


@st.composite
def lanes(draw):
    """Sizes of segments, where they lie elsewhere (some side by side), and a range of the lane's bytes."""
    sizes = draw(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any))
    offsets, at = [], 0
    for size in sizes:
        at += draw(st.sampled_from([0, 0, 3]))
        offsets.append(at)
        at += size
    position = draw(st.integers(0, sum(sizes) - 1))
    length = draw(st.integers(1, sum(sizes) - position))
    return np.array(sizes, np.int64), np.array(offsets, np.int64), position, length


@given(lanes())
def test_a_range_is_cut_at_the_segments_ends_and_joined_where_these_lie_side_by_side(lane):
    sizes, offsets, position, length = lane
    # Byte by byte: of which segment each byte of the lane is, and where it lies elsewhere.
    owner = np.repeat(np.arange(len(sizes)), sizes)[position : position + length]
    elsewhere = np.concatenate([at + np.arange(size) for at, size in zip(offsets, sizes, strict=True)])
    elsewhere = elsewhere[position : position + length]
    segments = Segments(sizes)
    assert segments.size_bytes == sizes.sum()
    pieces = segments.pieces(position, length)
    assert pieces.first == owner[0]
    assert pieces.sizes.tolist() == [int((owner == row).sum()) for row in range(pieces.first, owner[-1] + 1)]
    found = [np.arange(offset, offset + size) for _, offset, size in runs(pieces.sizes, pieces.offsets(offsets))]
    assert np.concatenate(found).tolist() == elsewhere.tolist()
    breaks = int((np.diff(elsewhere) != 1).sum())
    assert len(found) == 1 + breaks  # as few as can be
    data = memoryview(np.random.default_rng(length).bytes(length))
    crcs = pieces.summed(data)
    assert crcs == [crc32c.crc32c(part) for part in split(data, pieces.sizes)]
    assert checksum((data,), crcs, pieces.sizes) == crc32c.crc32c(data)


@pytest.mark.parametrize("size", [1, 5 << 10, 1 << 20])
def test_the_sum_of_a_chunk_is_the_same_joined_or_taken_again(size):
    data = memoryview(np.random.default_rng(1).bytes(3 * size))
    pieces = Segments(np.full(3, size, np.int64)).pieces(0, 3 * size)
    views = (data[:size], data[size:])
    assert checksum(views, pieces.summed(data), pieces.sizes) == crc32c.crc32c(data)
