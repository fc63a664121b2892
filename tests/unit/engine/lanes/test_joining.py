"""Slices of one host that touch share an entry; whatever is joined, an entry's bytes are those of its box."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ckptd.engine.lanes.merge import merge
from ckptd.engine.lanes.plan import plan
from ckptd.engine.layout import Layout
from ckptd.format import crc32c
from ckptd.format.index import Index
from ckptd.format.slices import Box
from tests.fakes.ranks import Ranks

FOUR = range(4)


def cut(shape: tuple[int, ...], axis: int, pieces: int) -> dict[int, Box | None]:
    """Return equal boxes of a tensor, cut along one axis, each on a rank of its own."""
    size = shape[axis] // pieces
    start, part = [0] * len(shape), (*shape[:axis], size, *shape[axis + 1 :])
    return {rank: Box((*start[:axis], rank * size, *start[axis + 1 :]), part) for rank in range(pieces)}


def boxes(layout: Layout, name: str) -> list[tuple[list[int], list[int]]]:
    found = layout.slices.get(layout.names.index(name))
    return [] if found is None else list(zip(found.starts.tolist(), found.shapes.tolist(), strict=True))


@pytest.mark.parametrize(
    ("shape", "axis", "joined"),
    [
        ((8, 3), 0, [([0, 0], [4, 3]), ([4, 0], [4, 3])]),
        ((1, 8), 1, [([0, 0], [1, 4]), ([0, 4], [1, 4])]),
        ((1, 4, 2), 1, [([0, 0, 0], [1, 2, 2]), ([0, 2, 0], [1, 2, 2])]),
        ((3, 8), 1, [([0, at], [3, 2]) for at in (0, 2, 4, 6)]),  # their bytes would be mixed
    ],
)
def test_what_touches_on_one_host_is_one_slice(shape, axis, joined):
    ranks = Ranks(4)
    ranks.hold("w", np.zeros(shape, np.float32), cut(shape, axis, 4))
    assert boxes(plan(ranks.manifests, 4, hosts=["a", "a", "b", "b"]), "w") == joined
    for apart in (["a", "b", "a", "b"], ()):
        assert len(boxes(plan(ranks.manifests, 4, hosts=apart), "w")) == 4


def test_a_tensor_that_is_on_one_host_whole_is_stored_whole():
    ranks = Ranks(4)
    ranks.rows("w", np.zeros((8, 3), np.float32), FOUR)
    layout = plan(ranks.manifests, 4, hosts=["a"] * 4)
    assert (dict(layout.slices), layout.entry_tensor.tolist()) == ({}, [0])
    assert layout.segment_rank.tolist() == [0, 1, 2, 3]
    crcs = np.array([crc32c.crc32c(bytes(24))] * 4, np.uint32)
    [piece] = Index.decode(merge(layout, crcs)).tensor("w").pieces
    assert (piece.box, piece.crc32c) == (Box.whole((8, 3)), crc32c.crc32c(bytes(96)))


def split(box: Box, rng: random.Random, depth: int) -> list[Box]:
    """Cut a box in two, and the halves again."""
    axes = [axis for axis, size in enumerate(box.shape) if size > 1]
    if not (depth and axes):
        return [box]
    axis = rng.choice(axes)
    size = rng.randrange(1, box.shape[axis])
    low = Box(box.start, (*box.shape[:axis], size, *box.shape[axis + 1 :]))
    start = (*box.start[:axis], box.start[axis] + size, *box.start[axis + 1 :])
    high = Box(start, (*box.shape[:axis], box.shape[axis] - size, *box.shape[axis + 1 :]))
    return split(low, rng, depth - 1) + split(high, rng, depth - 1)


@pytest.mark.parametrize("seed", range(30))
def test_the_bytes_of_an_entry_are_those_of_its_box(seed):
    rng, ranks = random.Random(seed), Ranks(6)
    shape = tuple(rng.choice((1, 2, 3, 6)) for _ in range(rng.randrange(1, 4)))
    array = np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)
    pieces = dict(enumerate(split(Box.whole(shape), rng, 3)))
    held: dict[int, dict[int, Box | None]] = {}
    for rank, piece in pieces.items():
        held.setdefault(rank // 6, {})[rank % 6] = piece
    for boxes_of_ranks in held.values():
        ranks.hold("w", array, boxes_of_ranks)
    layout = plan(ranks.manifests, 3, hosts=[rng.choice("ab") for _ in range(6)])
    data = {lane: ranks.lane(layout, *lane) for lane in layout.lane_segments}
    shards = [bytearray(size) for size in layout.shard_sizes]
    crcs = np.zeros(len(layout.segment_size), np.uint32)
    for (rank, shard), rows in layout.lane_segments.items():
        at = 0
        for row, size in zip(rows.tolist(), layout.segment_size[rows].tolist(), strict=True):
            to = int(layout.segment_offset[row])
            shards[shard][to : to + size] = data[rank, shard][at : at + size]
            crcs[row] = crc32c.crc32c(data[rank, shard][at : at + size])
            at += size
    for piece in Index.decode(merge(layout, crcs)).tensor("w").pieces:
        stored = bytes(shards[piece.shard_id][piece.offset : piece.offset + piece.size])
        assert stored == array[piece.box.within(Box.whole(shape))].tobytes()
        assert crc32c.crc32c(stored) == piece.crc32c
