from __future__ import annotations

import errno
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptd.errors import CorruptionError, StorageFullError, UnavailableError
from ckptd.storage.base import Durability
from ckptd.storage.local import around_cache
from ckptd.storage.local.around_cache import LEAST_DIRECT_BYTES, UNIT_BYTES, Bounces, address_of, empty_at, whole_units
from ckptd.storage.local.disk import WriteMode
from ckptd.storage.local.local_store import LocalStore
from ckptd.storage.local.mounts import mount_of
from ckptd.storage.local.system_disk import SystemDisk
from tests import seams
from tests.fakes.descriptors import num_open
from tests.fakes.disk import PowerCut, SimulatedDisk

MIB = 1 << 20


def random_at(phase: int, size: int) -> memoryview:
    """Return random bytes that begin `phase` bytes past a page's begin."""
    memory = empty_at(size, phase)
    memory[:] = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    return memory.data


class RefusingDisk(SystemDisk):
    """A file system that opens a file for direct writes, and refuses them after so many."""

    def __init__(self, num_direct: int) -> None:
        super().__init__()
        self._left = num_direct

    def write_direct(self, file: around_cache.DirectFile, offset: int, data: memoryview) -> int:
        if self._left == 0:
            offset += 1  # out of line: the kernel refuses it as it would refuse anything
        self._left -= 1
        return super().write_direct(file, offset, data)


def test_memory_is_made_at_the_wanted_place_of_a_page() -> None:
    for phase in (0, 1, 512, 4095, 4096, 5000):
        memory = empty_at(100, phase)
        assert address_of(memory.data) % UNIT_BYTES == phase % UNIT_BYTES
        assert (memory.size, memory.flags.c_contiguous, memory.flags.writeable) == (100, True, True)
    assert address_of(memoryview(b"read-only")) > 0


@given(st.integers(0, 20_000), st.integers(0, 20_000), st.sampled_from([512, 4096]))
def test_whole_units_are_all_that_lie_whole_within_a_range(offset: int, size: int, unit: int) -> None:
    begin, end = whole_units(offset, size, unit)
    assert (begin % unit, end % unit) == (0, 0)
    whole = [at for at in range(0, 50_000, unit) if offset <= at and at + unit <= offset + size]
    assert [*range(begin, end, unit)] == whole


def test_bounce_buffers_are_aligned_used_again_and_never_more_than_allowed() -> None:
    bounces = Bounces(8192, 2)
    one, other = bounces.take(), bounces.take()
    assert one is not None
    assert other is not None
    assert bounces.take() is None
    assert address_of(one.data) % UNIT_BYTES == address_of(other.data) % UNIT_BYTES == 0
    bounces.give(one)
    assert bounces.take() is one


OFFSETS = st.integers(0, 3 * MIB)


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(OFFSETS, max_size=6),
    phases=st.lists(st.sampled_from([0, 16, 512, 4000]), min_size=7),
    seed=st.integers(0, 9),
)
def test_any_pieces_in_any_order_make_the_object(cuts: list[int], phases: list[int], seed: int) -> None:
    size = 3 * MIB + 123
    data = np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()
    ends = sorted({0, *cuts, size})
    pieces = list(itertools.pairwise(ends))
    np.random.default_rng(seed).shuffle(pieces)
    disk = SimulatedDisk()
    store = LocalStore("/root", disk=disk)
    writer = store.create("k", size)
    for (low, high), phase in zip(pieces, phases, strict=False):
        memory = empty_at(high - low, phase)
        memory[:] = np.frombuffer(data, np.uint8)[low:high]
        writer.write(int(low), memory.data)
    writer.finish()
    assert store.get("k") == data


def test_lanes_that_meet_within_pages_are_written_at_once_by_several_threads(tmp_path: Path) -> None:
    size = 24 * MIB + 77
    data = random_at(0, size)
    # Every lane begins inside a page, and at another place of memory than of the file.
    cuts = [0, 3 * MIB + 1, 3 * MIB + 9, 7 * MIB + 4000, 15 * MIB + 513, 15 * MIB + 514, 22 * MIB + 2048, size]
    store = LocalStore(str(tmp_path))
    writer = store.create("k", size)

    def write(lane: int) -> None:
        for at in range(cuts[lane], cuts[lane + 1], MIB):
            writer.write(at, data[at : min(at + MIB, cuts[lane + 1])])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(len(cuts) - 1)))
    assert writer.finish().size_bytes == size
    assert (tmp_path / "k").read_bytes() == data
    assert store.write_mode() is not WriteMode.BUFFERED


@pytest.mark.parametrize("phase", [0, 16])
def test_what_goes_around_the_page_cache_leaves_partial_pages_to_it(phase: int) -> None:
    disk = SimulatedDisk()
    data = random_at(phase + 100, 2 * MIB)
    store = LocalStore("/root", disk=disk)
    writer = store.create("k", 3 * MIB)
    before = len(disk.operations)
    writer.write(100, data)
    num_direct = 2 * MIB - UNIT_BYTES
    written = disk.operations[before:]
    assert sum(int(each.split()[1]) for each in written if each.startswith("write_direct")) == num_direct
    assert [each for each in written if each.startswith("write ")] == ["write 3996 bytes", "write 100 bytes"]
    writer.abort()


def test_small_writes_go_through_the_page_cache() -> None:
    disk = SimulatedDisk()
    writer = LocalStore("/root", disk=disk).create("k", 2 * MIB)
    writer.write(0, bytes(LEAST_DIRECT_BYTES - 1))
    assert not any(each.startswith("write_direct") for each in disk.operations)
    writer.abort()


def test_when_all_bounce_buffers_are_lent_the_page_cache_takes_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    seams.WRITE_BOUNCES.put(monkeypatch, Bounces(MIB, 0))
    disk = SimulatedDisk()
    store = LocalStore("/root", disk=disk)
    data = random_at(16, 2 * MIB)
    writer = store.create("k", len(data))
    writer.write(0, data)
    writer.finish()
    assert not any(each.startswith("write_direct") for each in disk.operations)
    assert (store.get("k"), disk.write_mode) == (data, WriteMode.DIRECT)


@pytest.mark.parametrize("through", [0, MIB, 8 * MIB, 9 * MIB])
@pytest.mark.parametrize("phase", [0, 16])
def test_a_file_system_that_refuses_when_written_to_gets_the_rest_another_way(through: int, phase: int) -> None:
    disk = SimulatedDisk(writes_direct_through=through)
    store = LocalStore("/root", disk=disk)
    data = random_at(phase, 10 * MIB)
    for key in ("k", "later"):
        writer = store.create(key, len(data))
        writer.write(0, data)
        writer.finish()
        assert store.get(key) == data
        assert store.write_mode() is WriteMode.BUFFERED
    block = MIB if phase else 8 * MIB  # a copy goes down in smaller blocks
    assert sum(each.startswith("write_direct") for each in disk.operations) == -(-through // block)


def test_a_store_finds_its_write_mode_and_leaves_nothing_behind(tmp_path: Path) -> None:
    for disk, modes in (
        (SystemDisk(), set(WriteMode)),
        (RefusingDisk(0), {WriteMode.DONTCACHE, WriteMode.BUFFERED}),
    ):
        store = LocalStore(str(tmp_path), disk=disk)
        assert store.write_mode() in modes
        assert list(tmp_path.iterdir()) == []


def test_a_real_file_system_that_refuses_half_way_keeps_every_byte(tmp_path: Path) -> None:
    data = random_at(0, 20 * MIB)
    store = LocalStore(str(tmp_path), disk=RefusingDisk(1))
    writer = store.create("k", len(data))
    writer.write(0, data)
    writer.finish()
    assert (tmp_path / "k").read_bytes() == data


def test_direct_writes_are_durable_no_sooner_than_the_sync() -> None:
    disk = SimulatedDisk()
    writer = LocalStore("/root", disk=disk).create("k", 2 * MIB)
    writer.write(0, random_at(0, 2 * MIB))
    contents = [content for crash in disk.crashes() for content in disk.reboot(crash).content().values()]
    assert any(content != bytes(random_at(0, 2 * MIB)) for content in contents)
    writer.finish()
    for crash in disk.crashes():
        assert disk.reboot(crash).content() == {"/root/k": bytes(random_at(0, 2 * MIB))}


def test_power_may_fail_at_any_operation_of_a_bulk_object() -> None:
    data = random_at(16, MIB + 5)
    for number in range(1, 100):
        disk = SimulatedDisk(dies_at=number)
        store = LocalStore("/root", disk=disk)
        died = True
        try:
            writer = store.create("k", len(data))
            writer.write(0, data[: MIB // 2 + 7])
            writer.write(MIB // 2 + 7, data[MIB // 2 + 7 :])
            writer.finish()
            died = False
        except PowerCut:
            pass
        for crash in disk.crashes():
            found = [bytes(content) for path, content in disk.reboot(crash).content().items() if path == "/root/k"]
            assert found in ([bytes(data)],) if not died else found in ([], [bytes(data)])
        if not died:
            return
    pytest.fail("the sweep never came to its end")


ERRORS = [(errno.ENOSPC, StorageFullError), (errno.EIO, UnavailableError)]


@pytest.mark.parametrize(("code", "kind"), ERRORS)
def test_a_direct_write_that_fails_is_an_error_and_no_reason_for_another_mode(code: int, kind: type[Exception]) -> None:
    probe = SimulatedDisk()
    writer = LocalStore("/root", disk=probe).create("k", 2 * MIB)
    at = len(probe.operations) + 1
    writer.write(0, random_at(0, 2 * MIB))
    assert probe.operations[at - 1].startswith("write_direct")
    disk = SimulatedDisk(fails_at=at, error=code)
    store = LocalStore("/root", disk=disk)
    writer = store.create("k", 2 * MIB)
    with pytest.raises(kind):
        writer.write(0, random_at(0, 2 * MIB))
    writer.abort()
    assert disk.write_mode is WriteMode.DIRECT
    assert disk.content() == {}


def test_a_bulk_writer_closes_all_that_it_opened(tmp_path: Path) -> None:
    before = num_open(tmp_path)
    store = LocalStore(str(tmp_path))
    finished, aborted = store.create("a", MIB), store.create("b", MIB)
    finished.finish()
    aborted.abort()
    assert num_open(tmp_path) == before


# Reading


class CountingDisk(SimulatedDisk):
    """Counts the bytes that come through the page cache."""

    buffered = 0

    def read_into(self, file: int, offset: int, *into: memoryview) -> int:
        self.buffered += sum(map(len, into))
        return super().read_into(file, offset, *into)

    def read_direct(self, file: around_cache.DirectFile, offset: int, into: memoryview) -> int:
        count = super().read_direct(file, offset, into)
        self.buffered -= len(into)  # which the model took by the other call
        return count


def object_on(disk: SimulatedDisk, size: int) -> tuple[LocalStore, bytes]:
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    disk.add_file("/root/k", data)
    return LocalStore("/root", disk=disk), data


@settings(max_examples=60, deadline=None)
@given(
    offset=st.integers(0, 5000),
    sizes=st.lists(
        st.sampled_from([0, 1, 100, 4096, 70_000, 300_000, 700_001, MIB, 2 * MIB + 3]), min_size=1, max_size=6
    ),
    phases=st.lists(st.sampled_from([0, 16, 512, 4000, None]), min_size=6, max_size=6),
)
def test_any_memories_are_filled_from_anywhere(offset: int, sizes: list[int], phases: list[int | None]) -> None:
    disk = CountingDisk()
    store, data = object_on(disk, 14 * MIB + 77)
    at, views = offset, []
    for size, phase in zip(sizes, phases, strict=False):
        views.append(empty_at(size, at if phase is None else phase).data)  # None: in line with the file
        at += size
    store.read_into("k", offset, *views)
    assert b"".join(views) == data[offset:at]
    assert disk.buffered == (0 if sum(sizes) >= MIB else sum(sizes))


def test_memory_in_line_with_the_file_is_read_into_without_a_copy() -> None:
    disk = SimulatedDisk()
    store, data = object_on(disk, 9 * MIB)
    into = empty_at(8 * MIB, 100).data
    store.read_into("k", 100, into)
    assert into == data[100 : 8 * MIB + 100]
    assert (4096, 8 * MIB - 4096) in disk.direct_reads
    assert sum(size for _, size in disk.direct_reads) == 8 * MIB + 4096  # a page more than wanted, for both ends


@pytest.mark.parametrize("short_by", [1, 5000, 3 * MIB])
@pytest.mark.parametrize("phase", [0, 16])
def test_an_object_that_ends_early_is_damaged(short_by: int, phase: int) -> None:
    store, _ = object_on(SimulatedDisk(), 4 * MIB)
    with pytest.raises(CorruptionError, match="ends early") as caught:
        store.read_into("k", short_by, empty_at(4 * MIB, phase).data)
    assert caught.value.offset == 4 * MIB


def test_what_is_in_the_page_cache_comes_from_there() -> None:
    disk = SimulatedDisk()
    disk.caches_reads = True
    store, data = object_on(disk, 4 * MIB)
    into = empty_at(4 * MIB).data
    store.read_into("k", 0, into)
    assert (into == data, disk.direct_reads) == (True, [])


def test_what_many_read_goes_through_the_page_cache() -> None:
    disk = SimulatedDisk()
    store, data = object_on(disk, 4 * MIB)
    into = empty_at(4 * MIB).data
    store.read_by_many().read_into("k", 0, into)
    assert (into == data, disk.direct_reads) == (True, [])


@pytest.mark.parametrize("num_bounces", [0, 1])
def test_a_file_system_or_a_moment_without_direct_reads_reads_as_ever(
    num_bounces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seams.READ_BOUNCES.put(monkeypatch, Bounces(MIB, num_bounces))
    disk = SimulatedDisk(has_direct=num_bounces == 0)
    store, data = object_on(disk, 4 * MIB)
    into = empty_at(4 * MIB, 16).data
    store.read_into("k", 0, into)
    assert into == data


def test_the_kernel_is_asked_what_is_cached(tmp_path: Path) -> None:
    disk = SystemDisk()
    path = tmp_path / "k"
    path.write_bytes(bytes(2 * MIB))
    file = os.open(path, os.O_RDONLY)
    try:
        assert disk.is_cached(file, 1000, MIB)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.pread(file, 1, 0)  # reads a few pages ahead at most
        mount = mount_of(str(tmp_path))
        lives_in_memory = mount is not None and mount.durability is Durability.MEMORY
        assert disk.is_cached(file, MIB + 5, MIB - 5) == lives_in_memory
        assert disk.is_cached(file, 10 * MIB, 5) is False  # nothing there, and nothing that could kill us
    finally:
        os.close(file)


def test_reading_around_the_page_cache_leaves_nothing_open(tmp_path: Path) -> None:
    data = bytes(random_at(0, 3 * MIB + 5))
    store = LocalStore(str(tmp_path))
    writer = store.create("k", len(data))
    writer.write(0, data)
    writer.finish()
    before = num_open(tmp_path)
    into = empty_at(len(data), 16).data
    store.read_into("k", 0, into)
    assert into == data
    with pytest.raises(CorruptionError):
        store.read_into("k", 9, into)
    assert num_open(tmp_path) == before


def test_more_memories_than_one_call_takes_are_filled(tmp_path: Path) -> None:
    data = bytes(random_at(0, 5000 * 37))
    (tmp_path / "k").write_bytes(data)
    into = [bytearray(37) for _ in range(4999)]
    LocalStore(str(tmp_path)).read_into("k", 37, *map(memoryview, into), memoryview(bytearray()))
    assert b"".join(into) == data[37:]
