"""What agents read together: one reads from the store, others ask it, and one that is silent or wrong is passed by."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from ckptd.agent.memory_here import MemoryHere
from ckptd.agent.neighbourhood import Neighbour, owners_of
from ckptd.agent.other_agents import OtherAgents
from ckptd.agent.pooled_reads import BLOCK_BYTES, PooledReads
from ckptd.client.daemon.remote_objects import objects_for
from ckptd.engine.hosts.memories import Where
from ckptd.engine.reading.waits import NOTICE_S
from ckptd.errors import CorruptionError
from ckptd.format import crc32c
from ckptd.storage.base import Objects, ObjectStat
from ckptd.storage.capabilities import SlicePart, beneath
from ckptd.storage.memory import MemoryStore
from ckptd.wire import versions
from tests import seams
from tests.fakes.coordinator import FakeCoordinator
from tests.fakes.waiting import eventually
from tests.unit.service.conftest import serving

KEY = "r/model.ckpt-1.data-00000-of-00001"
DATA = np.random.default_rng(7).bytes(5 * BLOCK_BYTES + 1234)


class CountingStore:
    """A store that counts the blocks that are read from it."""

    def __init__(self) -> None:
        self.inner = MemoryStore("shared")
        self.inner.put(KEY, DATA)
        self.reads: Counter[int] = Counter()

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        self.reads[offset // BLOCK_BYTES] += 1
        self.inner.read_into(key, offset, *into)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Memory:
    """What one host's ranks left in memory of one data file."""

    changes = 0

    def __init__(self, data: bytes, begin: int, end: int) -> None:
        self.data, self.begin, self.end = data, begin, end
        self.num_reads = 0
        self.dropped: list[str] = []

    def held_shards(self) -> list[tuple[str, str, dict[str, int]]]:
        return [("r", "s1", {KEY: self.end - self.begin})]

    def read_held(self, run: str, save_id: str, shard_key: str, offset: int, into: memoryview) -> list[tuple[int, int]]:
        self.num_reads += 1
        begin, end = max(offset, self.begin), min(offset + len(into), self.end)
        if (run, save_id, shard_key) != ("r", "s1", KEY) or begin >= end:
            return [(0, len(into))]
        into[begin - offset : end - offset] = self.data[begin:end]
        return [gap for gap in ((0, begin - offset), (end - offset, len(into))) if gap[0] < gap[1]]

    def drop(self, run: str, save_ids: Collection[str]) -> None:
        self.dropped.extend(save_ids)


class LyingStore(CountingStore):
    """Gives wrong bytes: what an agent reads from it is wrong for whoever asks that agent."""

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        self.inner.read_into(key, offset, *into)
        into[0].cast("B")[0] ^= 1


class Pool:
    """Agents on some hosts, each served by a real server. Those of `lying` give others wrong bytes."""

    def __init__(self, hosts: str, lying: str = "") -> None:
        self.store, self.clock, self.stack = CountingStore(), Clock(), ExitStack()
        self.neighbours: list[Neighbour] = []
        self.reads: dict[str, PooledReads] = {}
        self.others: dict[str, OtherAgents] = {}
        self.memories: dict[str, MemoryHere] = {}
        self.where = Where("", {})
        for host in hosts:
            others = self.others[host] = OtherAgents()
            peer = versions.this_peer(f"agent-{host}")
            memory = self.memories[host] = MemoryHere(host, lambda key: self.where, lambda saves: [], now=self.clock)
            store = LyingStore() if host in lying else self.store
            reads = PooledReads(store, host, others, lambda: self.neighbours, peer, memory, now=self.clock)
            coordinator = FakeCoordinator()
            coordinator.store, coordinator.objects = self.store.inner, reads
            served = self.stack.enter_context(serving(coordinator))
            self.reads[host] = reads
            self.neighbours.append(Neighbour(host, tuple(served.listening)))

    def hold(self, host: str, data: bytes = DATA, begin: int = 0, end: int = len(DATA)) -> Memory:
        """Let a host have a part of the object in memory, and the coordinator know it."""
        self.where = Where("s1", {host: {0: end - begin}})
        memory = self.memories[host].lent = Memory(data, begin, end)
        return memory

    def read(self, host: str, offset: int = 0, size: int = len(DATA)) -> bytes:
        data = bytearray(size)
        self.reads[host].read_into(KEY, offset, memoryview(data)[: size // 3], memoryview(data)[size // 3 :])
        return bytes(data)


def owners(pool: Pool) -> list[str]:
    return owners_of(KEY, pool.store.inner.stat(KEY).version, 0, 6, "abc")


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A neighbour that is slow, as the machine is, is not passed by."""
    seams.NEIGHBOUR_SILENT_S.put(monkeypatch, 60.0)


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool("abc")
    with made.stack:
        yield made


def test_what_three_hosts_read_the_store_gives_once(pool):
    for host in "abc":
        assert pool.read(host) == DATA
        assert pool.read(host, 5, BLOCK_BYTES + 77) == DATA[5 : BLOCK_BYTES + 82]
    assert pool.store.reads == dict.fromkeys(range(6), 1)
    read = {rate.host: rate.read_bytes for rate in pool.others["a"].rates()}
    assert sum(read.values()) > 0


def test_what_a_rank_will_read_its_host_gets_from_the_store_before_and_only_its_own(pool):
    pool.reads["a"].expect(KEY, 0, 2 * len(DATA))
    own = {number for number, host in enumerate(owners(pool)) if host == "a"}
    eventually(lambda: set(pool.store.reads) == own, "what a owns is read", within_s=40)
    pool.reads["b"].expect("r/model.ckpt-2.data-00000-of-00001", 0, 10)  # it is not there, or not any more
    for host in "abc":
        assert pool.read(host) == DATA
    assert pool.store.reads == dict.fromkeys(range(6), 1)


def test_what_memory_has_is_not_read_ahead(pool):
    pool.hold("a")
    pool.reads["a"].expect(KEY, 0, len(DATA))
    assert pool.read("a") == DATA
    assert not pool.store.reads


def part_of(pool: Pool, host: str, part: SlicePart, offset: int, size: int, num_ranks: int = 1) -> bytes:
    data = bytearray(size)
    pool.reads[host].checked([part], num_ranks).read_into(KEY, offset, memoryview(data)[:7], memoryview(data)[7:])
    return bytes(data)


def slice_at(offset: int, size: int, wanted: int) -> SlicePart:
    return SlicePart(offset, size, crc32c.crc32c(DATA[offset : offset + size]), wanted)


def test_a_part_of_a_slice_is_as_it_was_saved_whatever_another_agent_gives(caplog):
    pool = Pool("abc", lying="bc")
    with pool.stack:
        assert pool.read("a") != DATA
        whole = slice_at(1000, len(DATA) - 2000, wanted=1 << 20)
        for begin in (900, 5000, BLOCK_BYTES - 3, 3 * BLOCK_BYTES + 1, len(DATA) - (1 << 20)):
            # What is outside of the slice is not checked: its first byte is block 0's, and changed.
            got = part_of(pool, "a", whole, begin, 1 << 20, num_ranks=16)
            assert got == DATA[begin : begin + (1 << 20)]
        assert "was damaged in memory" in caplog.text


def test_a_part_of_a_slice_is_read_once_where_nobody_lies(pool):
    whole = slice_at(1000, len(DATA) - 2000, wanted=BLOCK_BYTES)
    for host in "abc":
        for begin in (1000, 3 * BLOCK_BYTES - 5, 7777):
            assert part_of(pool, host, whole, begin, 1 << 20, num_ranks=8) == DATA[begin : begin + (1 << 20)]
    assert pool.store.reads == dict.fromkeys(range(6), 1)


def test_a_small_part_of_a_slice_comes_from_the_store_alone():
    pool = Pool("abc", lying="bc")
    with pool.stack:
        whole = slice_at(0, len(DATA), wanted=1 << 20)
        assert part_of(pool, "a", whole, BLOCK_BYTES + 5, 1 << 20) == DATA[BLOCK_BYTES + 5 :][: 1 << 20]
        assert set(pool.store.reads) == {1}


def test_a_slice_that_is_damaged_in_the_store_is_refused_also_in_part(pool):
    wrong = SlicePart(0, len(DATA), 1, wanted_bytes=len(DATA))
    with pytest.raises(CorruptionError, match="another checksum than the index says"):
        part_of(pool, "a", wrong, 0, 1000)


def test_a_silent_agent_is_passed_by_and_named(pool, caplog, monkeypatch):
    seams.NEIGHBOUR_SILENT_S.put(monkeypatch, 5.0)  # longer than the other neighbour takes
    caplog.set_level(logging.INFO, "ckptd")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        pool.neighbours[1] = Neighbour("b", (f"127.0.0.1:{silent.getsockname()[1]}",))
        assert "b" in owners(pool)
        assert pool.read("a") == DATA
    assert "the agent on b is passed by for 30 s" in caplog.text
    assert len([record for record in caplog.records if "passed by" in record.message]) == 1
    assert sum(pool.store.reads.values()) == 6


def test_what_one_host_has_in_memory_the_store_does_not_give_and_that_host_gives_it_once(pool):
    memory = pool.hold("b")
    for host in "acb":
        assert pool.read(host) == DATA
    assert not pool.store.reads
    before = memory.num_reads
    for host in "ac":
        assert pool.read(host) == DATA
    assert memory.num_reads == before  # who got a block keeps it


def test_what_memory_lacks_of_a_data_file_comes_from_the_store(pool):
    pool.hold("b", begin=100, end=2 * BLOCK_BYTES + 5)
    assert pool.read("a") == DATA
    assert pool.read("b") == DATA
    assert set(pool.store.reads) == {0, 2, 3, 4, 5}


def test_a_host_whose_memory_was_overwritten_is_not_passed_by(pool, caplog):
    pool.hold("b", begin=0, end=0)
    pool.where = Where("s1", {"b": {0: len(DATA)}})
    assert pool.read("a") == DATA
    assert "passed by" not in caplog.text
    assert pool.store.reads == dict.fromkeys(range(6), 1)


def test_a_host_that_is_silent_about_its_memory_is_passed_by_and_the_store_is_read(pool, caplog):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pool.neighbours.append(Neighbour("d", (f"127.0.0.1:{silent.getsockname()[1]}",)))
        pool.where = Where("s1", {"d": {0: len(DATA)}})
        assert pool.read("a") == DATA
    assert "the agent on d is passed by for 30 s" in caplog.text
    assert pool.store.reads == dict.fromkeys(range(6), 1)


def test_memory_in_which_a_reader_found_damage_is_not_read_again(pool):
    memory = pool.hold("a", data=bytes(len(DATA)))
    assert pool.read("a") != DATA
    pool.reads["a"].forget(KEY)
    memory.num_reads = 0
    assert pool.read("a") == DATA
    assert not memory.num_reads


def test_an_object_that_was_replaced_is_not_mixed_with_what_is_kept(pool):
    assert pool.read("a") == DATA
    other = bytes(len(DATA))
    pool.store.inner.replace(KEY, other)
    pool.clock.now += 100.0
    assert pool.read("a") == other


def test_what_was_found_damaged_is_forgotten(pool, caplog):
    pool.read("a")
    before = sum(pool.store.reads.values())
    pool.reads["a"].forget(KEY)
    assert "damaged in memory" in caplog.text
    pool.read("a")
    assert sum(pool.store.reads.values()) == before + owners(pool).count("a")
    assert pool.reads["a"].beneath is pool.store


def test_a_reader_that_finds_a_copy_damaged_reads_the_original():
    pool = Pool("a")
    with pool.stack:
        inner, damaged = pool.store.inner.read_into, iter([True])

        def read_into(key: str, offset: int, *into: memoryview) -> None:
            inner(key, offset, *into)
            into[0][0] ^= next(damaged, False)

        pool.store.read_into = read_into  # type: ignore[method-assign]
        place = pool.neighbours[0].addresses[0]
        stub = OtherAgents().to("a", [place]).read
        objects = objects_for(stub, place, versions.this_peer("reader"), "s3://b/ckpts", "", 40.0)
        assert bytes(read(objects)) != DATA
        assert bytes(read(objects)) != DATA  # it is kept
        assert bytes(read(beneath(objects))) == DATA
        assert bytes(read(objects)) == DATA


def read(objects: Objects) -> bytearray:
    data = bytearray(len(DATA))
    objects.read_into(KEY, 0, memoryview(data))
    return data


def test_a_long_wait_is_told_with_what_is_awaited(caplog):
    clock, store = Clock(), CountingStore()
    memory = MemoryHere("a", lambda key: Where("", {}), lambda saves: [])
    reads = PooledReads(store, "a", OtherAgents(), list, versions.this_peer("a"), memory, now=clock)
    inner = store.inner.read_into

    def slow(key: str, offset: int, *into: memoryview) -> None:
        clock.now += NOTICE_S + 1
        reads.tick()
        inner(key, offset, *into)

    store.read_into = slow  # type: ignore[method-assign]
    stat = store.inner.stat(KEY)
    assert isinstance(stat, ObjectStat)
    block = reads.own_block(stat, 0)
    assert block is not None
    assert block.tobytes() == DATA[:BLOCK_BYTES]
    assert f"reading {KEY} waits for the store, for 31 s now; 8.4 MB are requested" in caplog.text
