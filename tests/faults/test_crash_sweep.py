"""Power fails at every operation of saves, retention and recovery, in every way a file system may lose what was not
synced; afterwards every promise holds. And the sweep can fail: with a sync or the order of two steps taken out it does.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from ckptd.engine.catalog import commit as durable
from ckptd.engine.catalog import deleting, records
from ckptd.engine.catalog.catalog import Catalog
from ckptd.engine.catalog.listing import Listing
from ckptd.engine.catalog.publishing import Publishing
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.retention import Action, RetentionPolicy
from ckptd.engine.catalog.undo import Undo
from tests.fakes.disk import PowerCut, SimulatedDisk
from tests.fakes.disk_nodes import Crash
from tests.faults.history import (
    MAX_TO_KEEP,
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


# Mutants: what the sweep is worth


class ForgetsToNote(Catalog):
    """No record before the first byte: after a crash nobody knows whose the shards are."""

    def begin(self, record: Record) -> None:
        put, self._store.put = self._store.put, lambda key, data: None  # type: ignore[method-assign, assignment, return-value]
        try:
            super().begin(record)
        finally:
            self._store.put = put  # type: ignore[method-assign]


MUTANTS: list[tuple[str, Story, dict[str, Any], dict[str, Any]]] = [
    ("no file is synced", saves_with_retention, {"syncs_files": False}, {}),
    ("no directory is synced", saves_with_retention, {"syncs_directories": False}, {}),
    ("shards after the index", saves_with_retention, {}, {"shards_after_index": True}),
    ("shards after the index of an overwrite", an_overwrite, {}, {"shards_after_index": True}),
    ("no record", saves_with_retention, {}, {"catalog": ForgetsToNote}),
]


@pytest.mark.parametrize(("name", "story", "disk_faults", "trainer_faults"), MUTANTS, ids=[each[0] for each in MUTANTS])
def test_the_sweep_finds_what_is_taken_out(
    name: str, story: Story, disk_faults: dict[str, Any], trainer_faults: dict[str, Any]
) -> None:
    with pytest.raises(BrokenPromiseError):
        sweep(story, disk_faults=disk_faults, trainer_faults=trainer_faults)


def test_the_sweep_finds_publishing_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    commit, publish = durable.commit, durable.publish
    put_off: list[tuple[Any, ...]] = []

    def publish_first(*arguments: Any) -> Any:
        seen = publish(*arguments)
        if put_off and put_off[-1][0] is arguments[0]:  # of this life, not of one that ended in a power cut
            commit(*put_off.pop())
        return seen

    monkeypatch.setattr(durable, "commit", lambda *arguments, **_: put_off.append(arguments))
    monkeypatch.setattr(durable, "publish", publish_first)
    with pytest.raises(BrokenPromiseError):
        sweep(saves_with_retention)


def test_the_sweep_finds_retention_before_publishing(monkeypatch: pytest.MonkeyPatch) -> None:
    publish = Publishing.publish

    def delete_first(self: Publishing, record: Record, listing: Listing, policy: Any, *rest: Any) -> Any:
        _, decision = listing.reduced(policy, float("inf"))
        for prefix in decision.prefixes(Action.DROP):
            mine = self._ledger.published_at(prefix)
            if mine is not None:
                deleting.drop(self._ledger.store, mine)
        return publish(self, record, listing, policy, *rest)

    monkeypatch.setattr(Publishing, "publish", delete_first)
    with pytest.raises(BrokenPromiseError):
        sweep(saves_with_retention)


def test_the_sweep_finds_a_save_noted_as_published_before_who_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    settle = Publishing.settle

    def too_early(self: Publishing, in_use: Any) -> Any:
        for record in self.pending:
            records.change(self._ledger.store, record)
        return settle(self, in_use)

    monkeypatch.setattr(Publishing, "settle", too_early)
    with pytest.raises(BrokenPromiseError):
        sweep(saves_with_retention)


def test_the_sweep_finds_a_recovery_that_forgets_that_there_was_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RetentionPolicy, "sure_to_go", lambda self, next_keep_at: next_keep_at)
    with pytest.raises(BrokenPromiseError):
        sweep(saves_with_retention, max_to_keep=0)


def test_the_sweep_finds_a_record_deleted_before_its_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    delete_rest = deleting._delete_rest

    def record_first(store: Any, record: Record, **options: Any) -> None:
        store.delete([record.key])
        delete_rest(store, record, **options)

    monkeypatch.setattr(deleting, "_delete_rest", record_first)
    with pytest.raises(BrokenPromiseError):
        sweep(saves_with_retention)


def test_the_sweep_finds_an_overwrite_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_place(self: Catalog, name: str, step: int, wanted: int) -> int:
        return wanted

    def begin_in_place(self: Catalog, record: Record) -> None:
        self._store.delete(record.shard_keys)
        begin(self, record)

    begin = Catalog.begin
    monkeypatch.setattr(Catalog, "choose_num_shards", in_place)
    monkeypatch.setattr(Catalog, "begin", begin_in_place)
    with pytest.raises(BrokenPromiseError):
        sweep(an_overwrite)


def test_the_sweep_finds_an_undoing_that_lists_before_the_index_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    bring_back = deleting.bring_back

    def list_first(self: Undo, record: Record, policy: Any) -> Record:
        ledger, back = self._ledger, replace(record, dropped=False, deleted_at=None)
        ledger.write_state(ledger.listing.with_adopted(ledger.entry(back)), ledger.style)
        bring_back(ledger.store, record, on_step=ledger.on_step)
        ledger.remember(records.change(ledger.store, back))
        self.drop_copy(record)
        return back

    monkeypatch.setattr(Undo, "bring_back", list_first)
    with pytest.raises(BrokenPromiseError):
        sweep(a_deletion_undone)
