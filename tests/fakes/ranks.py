"""Ranks that hold parts of tensors, and fill the lanes that a layout gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ckptd.engine.lanes.lane_writer import LaneWriter
from ckptd.engine.layout import Layout
from ckptd.engine.manifest import Manifest, Part
from ckptd.format import crc32c, dtypes, tensors
from ckptd.format.slices import Box
from ckptd.format.strings import string_sections

Array = np.ndarray[Any, Any]
Boxes = Mapping[int, Box | None]
"""Per rank that holds some of a tensor, which box; None for all of it."""


class Ranks:
    """The ranks of one job: their manifests, and the stored form of each part.

    Attributes:
        arrays: the whole tensors.
        manifests: per rank.
    """

    def __init__(self, num_ranks: int) -> None:
        self.arrays: dict[str, Array] = {}
        self._parts: list[list[Part]] = [[] for _ in range(num_ranks)]
        self._data: list[list[bytes]] = [[] for _ in range(num_ranks)]

    @property
    def manifests(self) -> list[Manifest]:
        return [Manifest.of(parts) for parts in self._parts]

    def hold(self, name: str, array: Array, boxes: Boxes) -> None:
        """Let ranks hold these boxes of a tensor."""
        self.arrays[name] = array
        dtype = dtypes.of_array_dtype(array.dtype)
        for rank, box in boxes.items():
            box = box or Box.whole(array.shape)
            piece = np.ascontiguousarray(array[box.within(Box.whole(array.shape))])
            stored = b"".join(bytes(each) for each in tensors.encode(piece).parts)
            lengths = (0, 0, 0)
            if array.dtype == object:
                sections = string_sections(piece)
                lengths = (len(sections.lengths), sections.lengths_crc32c, sections.lengths_crc_bytes)
            self._parts[rank].append(Part(name, dtype.number, array.shape, box, len(stored), *lengths))
            self._data[rank].append(stored)

    def rows(self, name: str, array: Array, ranks: Sequence[int]) -> None:
        """Let each of some ranks hold an equal part of a tensor, cut along its first axis."""
        size = array.shape[0] // len(ranks)
        shape = (size, *array.shape[1:])
        self.hold(
            name, array, {rank: Box((at * size,) + (0,) * (array.ndim - 1), shape) for at, rank in enumerate(ranks)}
        )

    def lane(self, layout: Layout, rank: int, shard: int) -> bytes:
        """Return the bytes that a rank sends to a shard."""
        rows = layout.lane_segments[rank, shard]
        columns = (layout.segment_item[rows], layout.segment_item_offset[rows], layout.segment_size[rows])
        return b"".join(
            self._data[rank][item][at : at + size]
            for item, at, size in zip(*(c.tolist() for c in columns), strict=True)
        )

    def fill(self, layout: Layout, lanes: Iterable[LaneWriter]) -> None:
        """Send all bytes of lanes, and end them."""
        for lane in lanes:
            data = self.lane(layout, lane.rank, lane.shard)
            ends = np.cumsum(layout.segment_size[lane.segments]).tolist()
            crcs = [crc32c.crc32c(data[begin:end]) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
            lane.write(0, memoryview(data), crc32c.crc32c(data))
            assert lane.end(0, np.array(crcs, "<u4").tobytes(), last=True)


def six_on_three_hosts() -> tuple[Ranks, list[str]]:
    """Return six ranks with tensors of all kinds, and the host of each: a, a, b, b, c, c."""
    rng, ranks = np.random.default_rng(5), Ranks(6)
    everyone = range(6)
    ranks.rows("rows", rng.random((12, 5), np.float32), everyone)
    cols = rng.random((3, 12))
    ranks.hold("cols", cols, {rank: Box((0, 2 * rank), (3, 2)) for rank in everyone})
    ranks.rows("on b and c", rng.integers(0, 99, (8,)), (2, 3, 4, 5))
    ranks.rows("half", rng.random((600, 4)).astype(np.float16), everyone)
    ranks.rows("unsigned", rng.integers(0, 60_000, (12,), np.uint16), everyone)
    ranks.rows("words", np.array([b"w" * n for n in range(12)], object), everyone)
    ranks.hold("step", np.array(7), dict.fromkeys(everyone))
    ranks.hold("nothing", np.zeros((0, 3), np.float32), {3: None})
    for rank in everyone:
        ranks.hold(f"own/{rank}", rng.random((rank + 1, 3), np.float32), {rank: None})
    return ranks, ["a", "a", "b", "b", "c", "c"]
