"""Power fails at every operation of saves, retention and recovery, in every way a file system may lose what was not
synced; afterwards every promise holds. And the sweep can fail: with a sync or the order of two steps taken out it does.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from ckptd.engine.catalog import records
from ckptd.engine.catalog.catalog import Catalog
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.retention import RetentionPolicy
from ckptd.format.state_file import CheckpointState
from ckptd.storage.base import ObjectStat, Store
from ckptd.storage.local.local_store import LocalStore
from tests.fakes.disk import PowerCut, SimulatedDisk
from tests.fakes.disk_nodes import Crash
from tests.faults.history import (
    MAX_TO_KEEP,
    RUN,
    STORIES,
    BrokenPromiseError,
    History,
    Trainer,
    a_deletion_undone,
    an_overwrite,
    disk_with_foreign_files,
    saves_with_retention,
)

Story = Callable[[Trainer], None]
Steps = Iterator[tuple[int, SimulatedDisk, History]]


def deaths(story: Story, max_to_keep: int, disk_faults: dict[str, Any], trainer_faults: dict[str, Any]) -> Steps:
    """Yield the disk and what the world knows, for power failing at operation 1, 2, 3 … of a story."""
    for number in itertools.count(1):
        disk = disk_with_foreign_files(dies_at=number, **disk_faults)
        history = History(max_to_keep)
        try:
            story(Trainer(disk, history, **trainer_faults))
        except PowerCut:
            yield number, disk, history
        else:
            yield number, disk, history
            return


def recover_and_go_on(disk: SimulatedDisk, history: History, trainer_faults: dict[str, Any]) -> None:
    """Check what a crash left, recover, check that nothing is left over, save once more, check again."""
    history.check(disk.content())
    trainer = Trainer(disk, history, **trainer_faults)
    history.check(disk.content())
    history.check_nothing_left_over(disk.content())
    again = Trainer(disk, history, **trainer_faults)
    assert again.catalog.contents.checkpoints() == trainer.catalog.contents.checkpoints()
    known = copy.deepcopy(history)
    again.save(99)
    if history.failures:
        raise BrokenPromiseError(f"the next save failed: {history.failures[-1]}")
    history.acknowledged, history.under_way = known.acknowledged, known.under_way


def sweep(
    story: Story,
    *,
    twice_every: int = 0,
    max_to_keep: int = MAX_TO_KEEP,
    disk_faults: dict[str, Any] | None = None,
    trainer_faults: dict[str, Any] | None = None,
) -> int:
    """Run a story to death at every operation; return how many different states were checked.

    Args:
        story: what to do.
        twice_every: in one of so many states, power fails a second time, at each operation of the recovery.
        max_to_keep: the run's retention.
        disk_faults: a mutant's disk.
        trainer_faults: a mutant's way of saving.
    """
    seen: set[int] = set()
    for number, disk, history in deaths(story, max_to_keep, disk_faults or {}, trainer_faults or {}):
        for crash in disk.crashes(seed=number):
            after = disk.reboot(crash)
            state = hash((tuple(after.content().items()), history.facts()))
            if state in seen:
                continue
            seen.add(state)
            try:
                if twice_every and len(seen) % twice_every == 0:
                    crash_again(disk, crash, history, trainer_faults or {})
                recover_and_go_on(after, history, trainer_faults or {})
            except BrokenPromiseError as error:
                raise BrokenPromiseError(
                    f"{error}, after operation {number}, {disk.operations[-1]}, {crash}"
                ) from error
    return len(seen)


def crash_again(disk: SimulatedDisk, crash: Crash, history: History, trainer_faults: dict[str, Any]) -> None:
    for number in itertools.count(1):
        recovering = disk.reboot(crash)
        recovering.dies_at = number
        try:
            Trainer(recovering, history, **trainer_faults)
        except PowerCut:
            for second in itertools.islice(recovering.crashes(seed=number), 3):
                recover_and_go_on(recovering.reboot(second), history, trainer_faults)
        else:
            return


@pytest.mark.parametrize("story", STORIES)
def test_power_may_fail_at_any_operation(story: Story) -> None:
    assert sweep(story, twice_every=25) > 50


def test_power_may_fail_at_any_operation_and_with_no_limit_nothing_is_ever_deleted() -> None:
    assert sweep(saves_with_retention, max_to_keep=0, twice_every=25) > 50


@pytest.mark.campaign
@pytest.mark.parametrize("story", STORIES)
def test_power_may_fail_at_any_operation_of_any_recovery_too(story: Story) -> None:
    assert sweep(story, twice_every=1) > 50


# Mutants: what the sweep is worth. Most are stores that leave out or reorder what the engine does in the right order.

STATE, RECORDS = f"{RUN}/checkpoint", f"{RUN}/.ckptd/"


class WithoutRecords(LocalStore):
    """No record before the first byte: after a crash nobody knows whose the shards are."""

    def put(self, key: str, data: bytes) -> ObjectStat:
        is_record = key.startswith(RECORDS) and key.endswith(".json")
        return ObjectStat(key, len(data), 0.0, "") if is_record else super().put(key, data)


class IndexAfterStateFile(LocalStore):
    """The state file names a checkpoint that is committed only then."""

    def __init__(self, root: str, **options: Any) -> None:
        super().__init__(root, **options)
        self.put_off: dict[str, bytes] = {}

    def is_put_off(self, key: str) -> bool:
        return key.endswith(".index")

    def put(self, key: str, data: bytes) -> ObjectStat | None:  # type: ignore[override]
        if self.is_put_off(key):
            self.put_off[key] = data
            return None
        stat = super().put(key, data)
        self.stated(key)
        return stat

    def replace(self, key: str, data: bytes, *, if_version: str | None = None) -> ObjectStat:
        stat = super().replace(key, data, if_version=if_version)
        self.stated(key)
        return stat

    def stated(self, key: str) -> None:
        while key == STATE and self.put_off:
            super().put(*self.put_off.popitem())

    def get(self, key: str, **limits: Any) -> bytes:
        return self.put_off[key] if key in self.put_off else super().get(key, **limits)


class IndexBackAfterStateFile(IndexAfterStateFile):
    """A deletion that is undone is listed before its index is back."""

    def is_put_off(self, key: str) -> bool:
        aside = f"{RECORDS}trash/{key.removeprefix(RUN + '/').removesuffix('.index')}."
        return key.endswith(".index") and any(each.startswith(aside) for each in self.keys(f"{RUN}/.ckptd/trash"))


class DeletesBeforePublishing(LocalStore):
    """What the new list no longer names goes before the list is there."""

    def replace(self, key: str, data: bytes, *, if_version: str | None = None) -> ObjectStat:
        if key == STATE:
            for name in set(listed(self.get(key))) - set(listed(data)):
                shards = [each for each in self.keys(RUN) if each.startswith(f"{name}.data-")]
                self.delete([f"{RUN}/{each}" for each in (f"{name}.index", *shards)])
        return super().replace(key, data, if_version=if_version)


class NotesAtOnce(LocalStore):
    """A save is noted as published with the list that names it: before what has left the list is deleted."""

    def replace(self, key: str, data: bytes, *, if_version: str | None = None) -> ObjectStat:
        stat = super().replace(key, data, if_version=if_version)
        if key == STATE:
            for record in records.of_prefix(self, RUN, listed(data)[-1]):
                records.change(self, record, published=True)
        return stat


class RecordBeforeShards(LocalStore):
    """The record goes before the shards that it names."""

    def delete(self, keys: Sequence[str], *, if_version: str | None = None) -> None:
        for prefix in {key.partition(".data-")[0] for key in keys if ".data-" in key}:
            of_prefix = records.of_prefix(self, RUN, prefix.removeprefix(f"{RUN}/"))
            super().delete([record.key for record in of_prefix if set(record.shard_keys) & set(keys)])
        super().delete(keys, if_version=if_version)


class InPlace(Catalog):
    """An overwrite deletes the shards of before, and takes their keys."""

    def __init__(self, store: Store, run: str, **options: Any) -> None:
        super().__init__(store, run, **options)
        self.beneath = store

    def choose_num_shards(self, name: str, step: int | None, wanted: int) -> int:
        return wanted

    def begin(self, record: Record) -> None:
        self.beneath.delete(record.shard_keys)
        super().begin(record)


class ForgetsNoLimit(RetentionPolicy):
    """A recovery that does not know that there was no limit."""

    def sure_to_go(self, next_keep_at: float) -> float:
        return next_keep_at


def listed(state: bytes) -> list[str]:
    return CheckpointState.decode(state).all_model_checkpoint_paths


MUTANTS: list[tuple[str, Story, dict[str, Any], dict[str, Any]]] = [
    ("no file is synced", saves_with_retention, {"syncs_files": False}, {}),
    ("no directory is synced", saves_with_retention, {"syncs_directories": False}, {}),
    ("shards after the index", saves_with_retention, {}, {"shards_after_index": True}),
    ("shards after the index of an overwrite", an_overwrite, {}, {"shards_after_index": True}),
    ("no record", saves_with_retention, {}, {"store": WithoutRecords}),
    ("publishing before the commit", saves_with_retention, {}, {"store": IndexAfterStateFile}),
    ("retention before publishing", saves_with_retention, {}, {"store": DeletesBeforePublishing}),
    ("noted as published before what leaves is deleted", saves_with_retention, {}, {"store": NotesAtOnce}),
    ("a record deleted before its shards", saves_with_retention, {}, {"store": RecordBeforeShards}),
    ("an overwrite in place", an_overwrite, {}, {"catalog": InPlace}),
    ("an undoing that lists before the index is back", a_deletion_undone, {}, {"store": IndexBackAfterStateFile}),
]


@pytest.mark.parametrize(("name", "story", "disk_faults", "trainer_faults"), MUTANTS, ids=[each[0] for each in MUTANTS])
def test_the_sweep_finds_what_is_taken_out(
    name: str, story: Story, disk_faults: dict[str, Any], trainer_faults: dict[str, Any]
) -> None:
    with pytest.raises(BrokenPromiseError):
        sweep(story, disk_faults=disk_faults, trainer_faults=trainer_faults)


def test_the_sweep_finds_a_recovery_that_forgets_that_there_was_no_limit() -> None:
    with pytest.raises(BrokenPromiseError):
        sweep(saves_with_retention, max_to_keep=0, trainer_faults={"policy": ForgetsNoLimit})
