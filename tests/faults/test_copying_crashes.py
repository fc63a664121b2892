"""Power fails at every operation of a copy: at the destination there is the old checkpoint, the new one, or none."""

from __future__ import annotations

import itertools

import pytest

from ckptd.engine.offline.copying import copy_checkpoint
from ckptd.engine.reading.bundle import Bundle
from ckptd.engine.reading.verify import verify
from ckptd.storage.local.local_store import LocalStore
from ckptd.storage.memory import MemoryStore
from tests.fakes.disk import PowerCut, SimulatedDisk
from tests.fakes.small_checkpoint import index_bytes, latest_in, seed_of, shard_bytes

OLD, NEW = 1, 2


def source() -> MemoryStore:
    store = MemoryStore("source")
    for shard in range(2):
        store.put(f"m-7.data-{shard:05d}-of-00002", shard_bytes(NEW, shard))
    store.put("m-7.index", index_bytes(NEW, 2))
    store.put("m-7.meta", b"a graph")
    return store


def destination(holds_old: bool, dies_at: int) -> SimulatedDisk:
    disk = SimulatedDisk(dies_at=dies_at)
    disk.add_file("/r/foreign", b"x")
    if holds_old:
        for shard in range(2):
            disk.add_file(f"/r/m-7.data-{shard:05d}-of-00002", shard_bytes(OLD, shard))
        disk.add_file("/r/m-7.index", index_bytes(OLD, 2))
        disk.add_file("/r/checkpoint", b'model_checkpoint_path: "m-7"\nall_model_checkpoint_paths: "m-7"\n')
    return disk


@pytest.mark.parametrize("holds_old", [False, True])
def test_power_may_fail_at_any_operation_of_a_copy(holds_old: bool) -> None:
    seen = set()
    for number in itertools.count(1):
        disk = destination(holds_old, number)
        try:
            copy_checkpoint(
                source(), "m-7", LocalStore("/r", disk=disk), "m-7", overwrite=holds_old, publish=True, num_shards=2
            )
            survived = True
        except PowerCut:
            survived = False
        for crash in disk.crashes(seed=number):
            after = disk.reboot(crash)
            files = after.content()
            assert files["/r/foreign"] == b"x"
            found = seed_of_resharded(after) if "/r/m-7.index" in files else None
            seen.add(found)
            assert found in ((OLD, NEW) if holds_old else (None, NEW))
            named = latest_in(files, "/r")
            assert named is None or named + ".index" in files
            if survived:
                assert (found, named) == (NEW, "/r/m-7")
        if survived:
            assert seen == ({OLD, NEW} if holds_old else {None, NEW})
            return


def seed_of_resharded(disk: SimulatedDisk) -> int:
    """Return which checkpoint is there, after seeing that every byte of it is right."""
    files = disk.content()
    if files["/r/m-7.index"] == index_bytes(OLD, 2):
        return seed_of(files, "/r/m-7")
    assert verify(LocalStore("/r", disk=disk), "m-7").ok
    bundle = Bundle.open(LocalStore("/r", disk=disk), "m-7")
    return int(bundle.read("seed"))
