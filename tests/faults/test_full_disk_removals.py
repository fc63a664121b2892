"""A full disk, and power that fails in a removal that makes room: every promise holds, and the room is made."""

from __future__ import annotations

import copy
import itertools

import pytest

from ckptd.engine.catalog import reserve
from ckptd.engine.catalog.catalog import Catalog
from ckptd.errors import StorageFullError
from ckptd.storage.local.local_store import LocalStore
from tests.fakes.clock import HandClock
from tests.fakes.disk import PowerCut, SimulatedDisk
from tests.faults.history import HERE, ROOT, RUN, UNDO_S, History, Trainer, disk_with_foreign_files

RESERVE = [f"{HERE}/{key}" for key in reserve.KEYS]


def three_saves(disk: SimulatedDisk) -> tuple[Trainer, History]:
    history = History(max_to_keep=5)
    trainer = Trainer(disk, history)
    for step in (1, 2, 3):
        trainer.save(step, meta=b"graph" if step == 2 else None)
    assert not history.failures
    return trainer, history


def parts_in(disk: SimulatedDisk) -> int:
    return sum(len(disk.content().get(path, b"")) == reserve.PART_BYTES for path in RESERVE)


def full(disk: SimulatedDisk) -> SimulatedDisk:
    disk.full_from = 1
    return disk


@pytest.mark.parametrize("for_good", [True, False])
def test_power_may_fail_at_any_operation_of_a_removal_on_a_full_disk(for_good: bool) -> None:
    for number in itertools.count(1):
        disk = disk_with_foreign_files()
        trainer, history = three_saves(disk)
        full(disk).dies_at = len(disk.operations) + number
        try:
            trainer.delete(2, for_good=for_good)
        except PowerCut:
            pass
        else:
            assert not history.failures
            assert f"{HERE}/m-2.index" not in disk.content()
            break
        known = history
        for crash in disk.crashes(seed=number):
            after, history = disk.reboot(crash), copy.deepcopy(known)
            history.check(after.content())
            again = Trainer(full(after), history)  # opens though nothing can be noted
            assert [found.step for found in again.catalog.contents.checkpoints()] in ([1, 2, 3], [1, 3])
            history.check(after.content())
            after.full_from = None
            later = Trainer(after, history)
            later.clock.advance(2 * UNDO_S)
            later.save(9)
            assert not history.failures, history.failures
            history.check(after.content())
            history.check_nothing_left_over({k: v for k, v in after.content().items() if k not in RESERVE})
    assert number > 10


def test_removals_on_a_full_disk_leave_room_for_the_next_note_if_they_free_some() -> None:
    disk = disk_with_foreign_files()
    trainer, history = three_saves(disk)
    assert parts_in(disk) == len(RESERVE)
    full(disk)
    trainer.delete(1)
    assert parts_in(disk) == len(RESERVE) - 2  # for the record and the state file, and this disk stays full
    disk.full_from = None
    trainer.delete(2)
    assert parts_in(disk) == len(RESERVE)
    assert not history.failures


def test_a_run_that_a_crash_interrupted_opens_on_a_full_disk_without_a_reserve_and_takes_no_save() -> None:
    disk = disk_with_foreign_files()
    trainer, _ = three_saves(disk)
    dying = Trainer(disk, trainer.history, on_step=die_before_publishing)
    with pytest.raises(PowerCut):
        dying.save(4)
    store = LocalStore(ROOT, disk=disk)
    store.delete([f"{RUN}/{key}" for key in reserve.KEYS])
    full(disk)
    catalog = Catalog(store, RUN, clock=HandClock(2e9), undo_s=0.0)
    outcomes = catalog.upkeep.recover().outcomes
    assert any("once there is room" in outcome.reason for outcome in outcomes)
    assert catalog.contents.latest().step == 3
    draft = catalog.draft("m", 7, save_id="x", shard_sizes=[1])
    with pytest.raises(StorageFullError):
        catalog.begin(draft)
    disk.full_from = None
    catalog.begin(draft)
    assert catalog.contents.latest().step == 4


def die_before_publishing(step: str) -> None:
    if step == "publish.state":
        raise PowerCut


def test_what_a_crash_left_of_a_reserve_that_was_being_made_is_swept() -> None:
    disk = disk_with_foreign_files()
    three_saves(disk)
    unfinished = f"{HERE}/.ckptd/trash/.reserve-2.{'0' * 32}.ckptd-tmp"
    disk.add_file(unfinished, b"")
    Trainer(disk, History(max_to_keep=5))
    assert unfinished not in disk.content()


def test_a_reserve_that_shares_its_file_with_another_name_is_not_written_into() -> None:
    disk = disk_with_foreign_files()
    _, history = three_saves(disk)
    store = LocalStore(ROOT, disk=disk)
    for number, key in enumerate(reserve.KEYS):
        store.link(f"{RUN}/{key}", f"backup-by-hard-links-{number}")
    full(disk)
    with pytest.raises(StorageFullError):
        reserve.replace(store, RUN, f"{RUN}/checkpoint", b"new")
    assert disk.content()[f"{ROOT}/backup-by-hard-links-0"] == bytes(reserve.PART_BYTES)
    history.check(disk.content())


def test_a_file_system_without_locks_leaks_neither_temporaries_nor_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimulatedDisk()
    store = LocalStore(ROOT, disk=disk)
    store.put("first", b"1")
    before, open_before = disk.paths(), disk.num_open

    def no_locks(file: int, *, shared: bool) -> bool:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(disk, "try_lock", no_locks)
    for attempt in (lambda: store.put("second", b"2"), lambda: store.lock("lock", holder="me")):
        with pytest.raises(Exception, match="ENOLCK|file system failed|locks"):
            attempt()
    assert [path for path in disk.paths() if not path.endswith("-lock")] == before
    assert disk.num_open == open_before
