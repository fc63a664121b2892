"""Bytes that come partly from the daemon's memory and partly from the store."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from ckptd.arena.segment import Segment
from ckptd.client.daemon.held_objects import HeldObjects, Offer
from ckptd.errors import NotFoundError
from ckptd.format import crc32c
from ckptd.storage.base import SummingObjects
from ckptd.storage.local.local_store import LocalStore
from ckptd.wire.v1 import arena_pb2
from tests import seams

SIZE = 10_000
INDEX = b"an index"
HELD = [(1000, 3000), (3000, 3500), (6000, 9000)]  # begin and end in the object
RANGES = [(0, SIZE), (0, 500), (1000, 3000), (2500, 3200), (2900, 7000), (3500, 6000), (8999, 9001), (5, 5)]


@pytest.fixture
def is_alive():
    """Say whether the daemon lives; a test ends it by clearing this."""
    alive = threading.Event()
    alive.set()
    return alive


@pytest.fixture
def held(tmp_path, monkeypatch, is_alive):
    """Yield the content, objects that hold some of it, and the arena where that lies in reverse order."""
    seams.HELD_BLOCK_BYTES.put(monkeypatch, 700)
    content = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8).tobytes()
    (tmp_path / "shard").write_bytes(content)
    (tmp_path / "other").write_bytes(content[::-1])
    (tmp_path / "m.index").write_bytes(INDEX)
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
    offer = Offer({1: segment}, runs, "m.index", crc32c.crc32c(INDEX), is_alive.is_set)
    objects = HeldObjects(LocalStore(tmp_path), offer)
    assert objects.get("m.index") == INDEX
    yield content, objects, segment
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


@pytest.mark.parametrize("ends_by", ["deletion", "an overwrite of the memory", "the daemon's end"])
def test_once_memory_is_gone_another_checkpoint_in_its_place_is_not_taken_for_it(held, is_alive, tmp_path, ends_by):
    content, objects, segment = held
    into = bytearray(SIZE)
    match ends_by:
        case "deletion":
            segment.end(segment.generation)
        case "an overwrite of the memory":
            segment.begin()
        case _:
            is_alive.clear()
    segment.data[:] = 0
    objects.read_into("shard", 0, memoryview(into))
    assert into == content, "the files are still there"
    (tmp_path / "m.index").write_bytes(INDEX)
    objects.read_into("shard", 0, memoryview(into))
    assert into == content, "an index that says the same is the same"
    (tmp_path / "shard").write_bytes(bytes(SIZE))
    (tmp_path / "m.index").write_bytes(b"another")
    with pytest.raises(NotFoundError, match="deleted or replaced"):
        objects.read_into("shard", 0, memoryview(into))
    (tmp_path / "m.index").unlink()
    with pytest.raises(NotFoundError):
        objects.read_into("shard", 0, memoryview(into))


@pytest.mark.parametrize("index", [b"another", None])
def test_memory_of_another_save_than_the_index_is_of_is_not_read(held, tmp_path, index):
    content, _, segment = held
    run = arena_pb2.ArenaRun(shard_key="shard", arena=1, generation=segment.generation, size_bytes=SIZE)
    objects = HeldObjects(LocalStore(tmp_path), Offer({1: segment}, [run], "m.index", 1, lambda: True))
    if index is not None:
        (tmp_path / "m.index").write_bytes(index)
        objects.get("m.index")
    into = bytearray(SIZE)
    assert objects.read_summed("shard", 0, memoryview(into)) == [crc32c.crc32c(content)]
    assert into == content
