"""In a store without locks, as a bucket is one: dying at every operation, and waking up when another owner is at work.

What such a store has done is done, so a crash leaves what there was before an operation, or after it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest

from ckptd.engine.catalog.fence import unsigned
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.recovery import Fate
from ckptd.engine.offline.repair import repair
from ckptd.errors import CkptdError, ConflictError, UnavailableError
from ckptd.storage.base import Store
from ckptd.storage.memory import MemoryStore
from tests.fakes.clock import HandClock
from tests.fakes.disk import PowerCut
from tests.fakes.hooked_store import HookedStore
from tests.fakes.small_checkpoint import index_bytes, latest_in, listed_in, seed_of
from tests.faults.history import FOREIGN, HERE, ROOT, STORIES, History, Trainer, an_overwrite, saves_with_retention

Story = Callable[[Trainer], None]


def bucket() -> MemoryStore:
    store = MemoryStore(has_locks=False, verifies_writes=True, wall_s=HandClock().wall_s)
    for path, data in FOREIGN.items():
        store.put(path.removeprefix(ROOT + "/"), data)
    return store


def content(store: MemoryStore) -> dict[str, bytes]:
    return {f"{ROOT}/{stat.key}": store.get(stat.key) for stat in store.list("")}


def check_latest(files: dict[str, bytes], name: str) -> None:
    """Everything that is listed is whole, and this is the latest. Which older ones are left, retention decided."""
    assert latest_in(files, HERE) == f"{HERE}/{name}"
    for prefix in listed_in(files, HERE):
        seed_of(files, prefix)


def num_operations(story: Story) -> int:
    hooked = HookedStore(bucket())
    story(Trainer(hooked, History()))
    return len(hooked.operations)


def stop_at(wanted: int, error: BaseException) -> Callable[[int, str], None]:
    def stop(number: int, what: str) -> None:
        if number == wanted:
            raise error

    return stop


@pytest.mark.parametrize("story", STORIES)
def test_a_process_may_die_before_and_after_any_operation(story: Story) -> None:
    for number in range(1, num_operations(story) + 1):
        for when in ("before", "after"):
            store, history = bucket(), History()
            with pytest.raises(PowerCut):
                story(Trainer(HookedStore(store, **{when: stop_at(number, PowerCut())}), history))
            history.check(content(store))
            trainer = Trainer(store, history)
            history.check(content(store))
            trainer.save(99)
            assert not history.failures, f"the next save failed after operation {number}: {history.failures}"
            check_latest(content(store), "m-99")
            put_off = [each for each in trainer.recovery.outcomes if each.fate is Fate.LEAVE]
            assert all("is swept once" in each.reason for each in put_off), put_off
            again = Trainer(store, history)
            if not any("to replace" in each.reason for each in again.recovery.outcomes):
                history.check_nothing_left_over(content(store))


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_any_operation_may_fail_or_seem_to(story: Story, when: str) -> None:
    for number in range(1, num_operations(story) + 1):
        store, history = bucket(), History()
        error = UnavailableError("the answer was lost")
        try:
            trainer = Trainer(HookedStore(store, **{when: stop_at(number, error)}), history)
            story(trainer)
        except UnavailableError:  # while taking the run over: it is not ours, then
            pass
        history.check(content(store))
        Trainer(store, history).save(99)
        check_latest(content(store), "m-99")


class Sleeper:
    """Lets another owner take the run over, and save, in the middle of an operation of the first."""

    def __init__(self, store: MemoryStore, wakes_at: int, slept_s: float) -> None:
        self.store = store
        self.wakes_at = wakes_at
        self.slept_s = slept_s
        self.sleeper: Trainer | None = None
        self.before: dict[str, bytes] | None = None
        self.after: dict[str, bytes] = {}
        self.history = History(max_to_keep=0)

    def __call__(self, number: int, what: str) -> None:
        if number != self.wakes_at or self.sleeper is None:
            return
        self.before = content(self.store)
        other = Trainer(self.store, self.history)
        other.save(50)
        other.save(51)
        assert not self.history.failures
        self.after = content(self.store)
        self.sleeper.clock.advance(self.slept_s)


def asleep(story: Story, number: int, slept_s: float) -> tuple[MemoryStore, Sleeper, History]:
    store, history = bucket(), History()
    sleeper = Sleeper(store, number, slept_s)
    trainer = Trainer(HookedStore(store, before=sleeper), history)
    sleeper.sleeper = trainer
    story(trainer)
    return store, sleeper, history


@pytest.mark.parametrize("story", [saves_with_retention, an_overwrite])
def test_who_wakes_up_after_being_taken_over_from_publishes_nothing_and_breaks_nothing(story: Story) -> None:
    """The worst case: it slept between making sure that the run was its own and the very next request."""
    num_fenced = 0
    for number in range(1, num_operations(story) + 1):
        store, sleeper, _ = asleep(story, number, 0.0)
        files = content(store)
        if not sleeper.after:
            continue
        if latest_in(sleeper.before or {}, HERE) is None:
            # Nobody had published yet, so there was nothing to take over: the first to publish owns the run.
            assert latest_in(files, HERE) is not None
        else:
            num_fenced += 1
            assert latest_in(files, HERE) == f"{HERE}/m-51"
            assert files[f"{HERE}/checkpoint"] == sleeper.after[f"{HERE}/checkpoint"]
        for prefix in listed_in(files, HERE):
            seed_of(files, prefix)
    assert num_fenced > 10


@pytest.mark.parametrize("story", [saves_with_retention, an_overwrite])
def test_who_slept_for_long_asks_before_it_changes_anything(story: Story) -> None:
    for number in range(1, num_operations(story) + 1):
        store, sleeper, history = asleep(story, number, 60.0)
        if latest_in(sleeper.before or {}, HERE) is None:
            continue
        files, before = content(store), sleeper.after
        changed = {path for path in files.keys() | before.keys() if files.get(path) != before.get(path)}
        assert not any(path.endswith("checkpoint") for path in changed)
        # The request that it was about to make when it fell asleep comes through, and shards that nobody refers to.
        harmful = [path for path in changed if ".data-" not in path and "/.ckptd/" not in path]
        assert len(harmful) <= 1, (number, harmful)
        fenced = [error for error in history.failures if isinstance(error, ConflictError)]
        assert not history.failures or fenced, history.failures


def test_whoever_is_fenced_says_by_whom_and_stays_so() -> None:
    store = bucket()
    first, second = Trainer(store, History()), None
    first.save(1)
    second = Trainer(store, History(max_to_keep=0))
    for attempt in (2, 3):
        with pytest.raises(ConflictError, match="taken over") as caught:
            first.clock.advance(60)
            first.catalog.choose_num_shards("m", attempt, 1)
        assert caught.value.actual == "ckptd"
    assert first.catalog.upkeep.is_fenced
    with pytest.raises(CkptdError):
        first.catalog.edits.pin(1)
    second.save(2)
    assert [checkpoint.step for checkpoint in second.catalog.contents.checkpoints()] == [1, 2]


def test_a_person_who_edits_the_state_file_is_no_owner() -> None:
    store, history = bucket(), History(max_to_keep=0)
    trainer = Trainer(store, history)
    trainer.save(1)
    trainer.save(2)
    store.replace("run/checkpoint", b'model_checkpoint_path: "m-1"\nall_model_checkpoint_paths: "m-1"\n')
    trainer.save(3)
    assert [error.reason for error in history.failures if isinstance(error, ConflictError)] == []
    assert latest_in(content(store), HERE) == f"{HERE}/m-3"


class Noting:
    """A store that notes which requests it is sent."""

    REQUESTS = ("list", "keys", "get", "stat", "read_into", "put", "replace", "delete", "lock")

    def __init__(self, inner: MemoryStore) -> None:
        self._inner = inner
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self.REQUESTS:
            return found

        def noted(*arguments: Any, **named: Any) -> Any:
            self.asked.append(name)
            return found(*arguments, **named)

        return noted


def test_a_commit_is_two_requests_and_nothing_is_listed_or_read() -> None:
    store, history = Noting(bucket()), History()
    trainer = Trainer(cast(Store, store), history)
    trainer.save(1)
    record = trainer.begin(2, 2, False)
    trainer.write_shards(record, 2)
    store.asked.clear()
    trainer.catalog.commit(record, index_bytes(2, record.num_shards))
    assert store.asked == ["put", "replace"]


# What outlives the checkpoints


def sleeping_owner() -> tuple[MemoryStore, Trainer]:
    """An owner that published once, and sleeps from then on."""
    store = bucket()
    trainer = Trainer(store, History(max_to_keep=0))
    trainer.save(1)
    trainer.clock.advance(60)
    return store, trainer


def is_fenced_off(trainer: Trainer) -> bool:
    before = content(trainer.store)  # type: ignore[arg-type]
    with pytest.raises(ConflictError, match="taken over"):
        trainer.catalog.choose_num_shards("m", 90, 1)
    assert content(trainer.store) == before  # type: ignore[arg-type]
    return trainer.catalog.upkeep.is_fenced


def deletes_the_only_one(store: MemoryStore) -> None:
    Trainer(store, History(max_to_keep=0)).catalog.edits.delete("m-1", even_latest=True, for_good=True)


def deletes_the_only_one_and_undoes_that(store: MemoryStore) -> None:
    catalog = Trainer(store, History(max_to_keep=0)).catalog
    catalog.edits.delete("m-1", even_latest=True)
    catalog.edits.undelete("m-1")


def takes_a_run_over_whose_state_file_a_person_deleted(store: MemoryStore) -> None:
    store.delete(["run/checkpoint"])
    Trainer(store, History(max_to_keep=0))


def repairs_a_state_file_that_is_lost(store: MemoryStore) -> None:
    store.delete(["run/checkpoint"])
    repair(store, "run", takes_over=True)


WAYS_TO_TAKE_OVER = [
    deletes_the_only_one,
    deletes_the_only_one_and_undoes_that,
    takes_a_run_over_whose_state_file_a_person_deleted,
    repairs_a_state_file_that_is_lost,
]


@pytest.mark.parametrize("way", WAYS_TO_TAKE_OVER)
def test_whatever_the_new_owner_does_the_former_one_stays_fenced_off(way: Callable[[MemoryStore], None]) -> None:
    store, former = sleeping_owner()
    way(store)
    assert is_fenced_off(former)
    lawful = Trainer(store, History(max_to_keep=0))
    lawful.save(3)
    assert lawful.history.failures == []
    check_latest(content(store), "m-3")


def test_an_owner_that_has_published_nothing_is_fenced_off_too() -> None:
    store = bucket()
    former = Trainer(store, History())
    former.clock.advance(60)
    lawful = Trainer(store, History())
    assert is_fenced_off(former)
    lawful.save(1)
    assert lawful.history.failures == []


def test_of_three_owners_one_after_another_only_the_last_owns_a_run_without_checkpoints() -> None:
    store, first = sleeping_owner()
    second = Trainer(store, History(max_to_keep=0))
    second.catalog.edits.delete("m-1", even_latest=True, for_good=True)
    second.clock.advance(60)
    third = Trainer(store, History())
    assert is_fenced_off(first)
    assert is_fenced_off(second)
    third.save(2)
    third.catalog.edits.delete("m-2", even_latest=True, for_good=True)
    third.save(3)
    assert third.history.failures == []


def test_an_owner_whose_state_file_a_person_deletes_goes_on_whatever_fence_an_earlier_owner_left() -> None:
    store = bucket()
    earlier = Trainer(store, History())
    earlier.save(1)
    earlier.catalog.edits.delete("m-1", even_latest=True, for_good=True)
    earlier.save(2)
    owner = Trainer(store, History(max_to_keep=0))
    store.delete(["run/checkpoint"])
    owner.clock.advance(60)
    owner.save(3)
    assert owner.history.failures == []
    check_latest(content(store), "m-3")


@pytest.mark.parametrize("number", range(1, 12))
def test_a_deletion_of_the_only_checkpoint_may_stop_anywhere(number: int) -> None:
    store, former = sleeping_owner()
    hooked = HookedStore(store, before=stop_at(number, PowerCut()))
    with suppress(PowerCut):
        Trainer(hooked, History(max_to_keep=0)).catalog.edits.delete("m-1", even_latest=True, for_good=True)
    is_taken_over = number > 1  # the first operation is the taking over itself
    if is_taken_over:
        assert is_fenced_off(former)
    last = Trainer(store, History(max_to_keep=0))
    last.save(5)
    assert last.history.failures == []
    check_latest(content(store), "m-5")


def test_a_root_of_an_older_version_is_taken_over_and_stays_readable_to_it() -> None:
    """Its line in the state file has no term, and beside it lies no fence."""
    store, former = sleeping_owner()
    line = b'# ckptd {"holder": "old", "owner": "0f", "save": "s1", "write": 3}\n'
    state = unsigned(store.get("run/checkpoint"))
    store.replace("run/checkpoint", state + line)
    store.delete(["run/.ckptd/checkpoint.fence"])
    new = Trainer(store, History(max_to_keep=0))
    new.save(2)
    assert new.history.failures == []
    assert is_fenced_off(former)
    [signed] = [each for each in store.get("run/checkpoint").splitlines() if each.startswith(b"# ckptd ")]
    told = json.loads(signed.removeprefix(b"# ckptd "))
    assert {"holder", "owner", "save", "write"} <= told.keys()


# What is removed


class Halfway:
    """Lets another owner take the run over, and begin the same step, before the first removal of a former one."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.other: Trainer | None = None
        self.record: Record | None = None

    def begin(self) -> None:
        self.other = Trainer(self.store, History(max_to_keep=0))
        self.record = self.other.begin(2, 2, False)
        self.other.write_shards(self.record, 2)

    def commit(self) -> None:
        assert self.other is not None
        assert self.record is not None
        self.other.catalog.commit(self.record, index_bytes(2, self.record.num_shards))
        check_latest(content(self.store), "m-2")


def test_who_gives_a_save_up_just_when_it_is_taken_over_from_removes_nothing_of_the_new_owners() -> None:
    """It has confirmed a moment ago that the run is its own, and does not sleep: only a look before removing helps."""
    store = bucket()
    former = Trainer(store, History(max_to_keep=0))
    former.save(1)
    record = former.begin(2, 2, False)
    former.write_shards(record, 2)
    former.catalog.upkeep.confirm(0.0)
    new = Halfway(store)
    new.begin()
    before = content(store)
    with pytest.raises(ConflictError, match="taken over"):
        former.catalog.abandon(record)
    assert content(store) == before
    new.commit()


@pytest.mark.parametrize("number", range(1, 8))
def test_also_a_removal_that_is_on_its_way_hits_nothing_of_the_new_owners(number: int) -> None:
    """It sleeps between making sure that the run is its own and the very next request, which removes something."""
    store, new = bucket(), None

    def take_over(at: int, what: str) -> None:
        nonlocal new
        if at == operations_before + number and new is None:
            new = Halfway(store)
            new.begin()

    hooked = HookedStore(store, before=take_over)
    operations_before = 1 << 30
    former = Trainer(hooked, History(max_to_keep=0))
    former.save(1)
    record = former.begin(2, 2, False)
    former.write_shards(record, 2)
    operations_before = len(hooked.operations)
    with suppress(ConflictError):
        former.catalog.abandon(record)
    if new is not None:
        new.commit()
