"""A former owner's note of a save that comes after its successor has read the run: nothing of it stays."""

from __future__ import annotations

import pytest

from ckptd.engine.catalog import records
from ckptd.engine.catalog.elsewhere import TAKEN_S
from ckptd.engine.catalog.late_notes import FIRST_LOOK_S
from ckptd.errors import ConflictError, UnavailableError
from ckptd.storage.memory import MemoryStore
from tests.fakes.catalog_run import Run, again
from tests.fakes.clock import HandClock

HOSTS = ("h1", "h2")


class HangingStore(MemoryStore):
    """A request that notes a save hangs, if it is to, until it arrives."""

    def __init__(self, *, has_locks: bool = False) -> None:
        super().__init__(has_locks=has_locks)
        self.hangs, self.num_listings = False, 0
        self.hung: list[tuple[str, bytes]] = []

    def put(self, key: str, data: bytes):
        if self.hangs and "/.ckptd/m-" in key:
            self.hung.append((key, data))
            raise UnavailableError("its owner stands still")
        return super().put(key, data)

    def arrive(self) -> None:
        for key, data in self.hung:
            super().put(key, data)

    def keys(self, directory: str, starts_with: str = ""):
        self.num_listings += 1
        return super().keys(directory, starts_with)


def taken_over(*, writers: tuple[str, ...] = (), shards: int = 2) -> tuple[HangingStore, Run, records.Record]:
    """Let an owner hang in the request that notes a save of step 2; return the next one, which has saved step 1."""
    store = HangingStore()
    former = Run(store, HandClock())
    former.save(1)
    store.hangs = True
    with pytest.raises(UnavailableError):
        former.begin(2, writers=writers, shards=shards)
    store.hangs = False
    [(key, data)] = store.hung
    return store, again(former), records.Record.decode(data, key)


def look(run: Run) -> bool:
    run.clock.advance(FIRST_LOOK_S)
    return run.catalog.upkeep.take_in_late(())


def left_of(run: Run, record: records.Record) -> set[str]:
    return run.files().keys() & {record.key, *record.shard_keys}


def test_it_is_swept_with_what_was_written_under_it():
    store, run, late = taken_over()
    store.arrive()
    for key in late.shard_keys:
        store.put(key, b"of the former owner, which goes on writing")
    assert not run.catalog.upkeep.take_in_late(())  # it is not time yet
    assert left_of(run, late) == {late.key, *late.shard_keys}
    assert look(run)
    assert left_of(run, late) == set()
    assert run.steps() == [1]
    assert not look(run)


def test_where_agents_write_its_record_stays_for_a_day_as_that_of_any_former_owner():
    store, run, late = taken_over(writers=HOSTS)
    store.arrive()
    store.put(late.shard_keys[1], b"of an agent that obeyed the former coordinator")
    assert look(run)
    assert left_of(run, late) == {late.key}
    for host in HOSTS:
        run.catalog.writers.heard_end(late.save_id, host)
    assert left_of(run, late) == {late.key}  # the former owner may have more requests on their way
    store.put(late.shard_keys[0], b"later still")
    run.clock.advance(TAKEN_S)
    run.catalog.retire()
    assert left_of(run, late) == set()


@pytest.mark.parametrize("is_published", [True, False], ids=["published", "under way"])
def test_if_a_save_of_the_next_owner_has_its_keys_only_the_record_goes(is_published):
    store, run, late = taken_over()
    ours = run.begin(2, 1)
    assert ours.shard_keys == late.shard_keys
    if is_published:
        run.commit(ours, 1)
    store.arrive()
    assert look(run)
    assert left_of(run, late) == set(ours.shard_keys)
    if not is_published:
        run.commit(ours, 1)
    assert again(run).steps() == [1, 2]


def test_it_waits_until_a_state_file_keeps_the_former_owner_out():
    store = HangingStore()
    former = Run(store, HandClock())
    store.hangs = True
    with pytest.raises(UnavailableError):
        former.begin(2)
    store.hangs = False
    run = again(former)
    store.arrive()
    assert look(run)
    assert len(records.load(store, "run").found) == 1, "the former owner could be the first to publish"
    run.save(3)
    assert [each.step for each in records.load(store, "run").found] == [3]


def test_one_that_has_been_taken_over_itself_sweeps_nothing():
    store, run, late = taken_over()
    later = again(run)
    theirs = later.begin(5)
    store.arrive()
    with pytest.raises(ConflictError):
        look(run)
    assert left_of(run, late) == {late.key}
    later.commit(theirs)
    assert later.steps() == [1, 5]


def test_what_cannot_be_read_is_not_read_again_and_again():
    store, run, late = taken_over()
    store.put(late.key, b"no record")
    assert look(run)
    assert not look(run)
    assert run.steps() == [1]


def test_it_looks_less_and_less_often_and_never_where_locks_keep_others_out():
    for has_locks, most in [(False, 13), (True, 0)]:
        store = HangingStore(has_locks=has_locks)
        run = Run(store, HandClock())
        run.save(1)
        before = store.num_listings
        for _ in range(int(24 * 3600 / FIRST_LOOK_S)):
            assert not look(run)
        assert store.num_listings - before == most
