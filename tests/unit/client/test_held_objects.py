"""Bytes that come partly from the daemon's memory and partly from the store."""

from __future__ import annotations

import numpy as np
import pytest

from ckptd.arena.segment import Segment
from ckptd.client import held_objects
from ckptd.client.held_objects import HeldObjects
from ckptd.engine.objects import SummingObjects
from ckptd.format import crc32c
from ckptd.storage.local import LocalStore
from ckptd.wire.v1 import arena_pb2

SIZE = 10_000
HELD = [(1000, 3000), (3000, 3500), (6000, 9000)]  # begin and end in the object
RANGES = [(0, SIZE), (0, 500), (1000, 3000), (2500, 3200), (2900, 7000), (3500, 6000), (8999, 9001), (5, 5)]


@pytest.fixture
def held(tmp_path, monkeypatch):
    """Yield the content, objects that hold some of it, and the arena where that lies in reverse order."""
    monkeypatch.setattr(held_objects, "_BLOCK_BYTES", 700)
    content = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8).tobytes()
    (tmp_path / "shard").write_bytes(content)
    (tmp_path / "other").write_bytes(content[::-1])
    segment = Segment.create(SIZE)
    generation = segment.begin()
    runs, at = [], 0
    for begin, end in reversed(HELD):
        segment.data[at : at + end - begin] = np.frombuffer(content[begin:end], np.uint8)
        runs.append(
            arena_pb2.ArenaRun(
                shard_key="shard",
                shard_offset=begin,
                arena=1,
                generation=generation,
                arena_offset=at,
                size_bytes=end - begin,
            )
        )
        at += end - begin
    yield content, HeldObjects(LocalStore(tmp_path), {1: segment}, runs), segment
    segment.close()


@pytest.mark.parametrize(("begin", "end"), RANGES)
def test_any_range_comes_with_its_checksums(held, begin, end):
    content, objects, _ = held
    assert isinstance(objects, SummingObjects)
    middle = (begin + end) // 2
    parts = [bytearray(middle - begin), bytearray(0), bytearray(end - middle)]
    sums = objects.read_summed("shard", begin, *map(memoryview, parts))
    assert b"".join(parts) == content[begin:end]
    assert sums == [crc32c.crc32c(part) for part in parts]


def test_what_is_overwritten_comes_from_the_store_and_is_summed_there(held):
    content, objects, segment = held
    segment.begin()
    segment.data[:] = 0
    into = bytearray(SIZE)
    assert objects.read_summed("shard", 0, memoryview(into)) == [crc32c.crc32c(content)]
    assert into == content


def test_what_is_not_held_at_all_comes_from_the_store(held):
    content, objects, _ = held
    into = bytearray(SIZE)
    assert objects.read_summed("other", 0, memoryview(into)) == [crc32c.crc32c(content[::-1])]
    objects.read_into("shard", 0, memoryview(into))
    assert into == content
