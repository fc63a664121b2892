"""Agents and owners that hung, and wake up: the record of a save stays until nothing of it can come any more.

Each rule is also taken out, and then something goes wrong: so it is the rule that holds it.
"""

from __future__ import annotations

import pytest

from ckptd.engine.catalog import records
from ckptd.engine.catalog.elsewhere import TAKEN_S, WAIT_S
from ckptd.engine.catalog.recovery import Fate
from ckptd.errors import UnavailableError
from ckptd.storage.memory import MemoryStore
from tests import seams
from tests.fakes.catalog_run import Run, again
from tests.fakes.clock import HandClock
from tests.fakes.hooked_store import HookedStore
from tests.fakes.small_checkpoint import index_bytes

HOSTS = ("h1", "h2")


class Sweeps(MemoryStore):
    """Notes which uploads are given up."""

    def __init__(self) -> None:
        super().__init__()
        self.given_up: set[str] = set()

    def sweep_unfinished(self, directory, *, given_up=(), spare=(), only=None):
        self.given_up |= set(given_up)
        return []


def shards(run: Run, step: int = 2) -> list[str]:
    return [key for key in run.files() if key.startswith(f"run/m-{step}.data")]


def abort_after_a_later_owner_went_on() -> tuple[Run, Fate, list[str]]:
    """Let a save be aborted by an owner that looked at it before the next one went on with it."""
    run = Run(MemoryStore(), HandClock())  # its locks are host-local: they keep nobody out
    run.save(1)
    record = run.begin(2, writers=HOSTS)
    later = again(run)
    [waiting] = later.catalog.writers.waiting("m", 2, "")
    assert later.catalog.writers.revive(waiting, [], term=7) == frozenset()
    return later, run.catalog.abandon(record).fate, record.shard_keys


def test_an_owner_that_wakes_up_deletes_nothing_of_a_save_that_the_next_goes_on_with(monkeypatch):
    later, fate, keys = abort_after_a_later_owner_went_on()
    assert fate is Fate.LEAVE
    assert shards(later) == keys
    [record] = [each for each in records.load(later.store, "run").found if each.step == 2]
    assert (record.term, record.aborted_at) == (7, None)
    later.commit(record)
    assert again(later).steps() == [1, 2]

    seams.DECIDE_FIRST.put(monkeypatch, records.change)
    later, fate, _ = abort_after_a_later_owner_went_on()
    assert (fate, shards(later)) == (Fate.SWEEP, [])


def test_a_save_that_a_former_owner_has_just_aborted_does_not_go_on():
    run = Run(MemoryStore(), HandClock())
    record = run.begin(2, writers=HOSTS)
    later = again(run)
    [waiting] = later.catalog.writers.waiting("m", 2, "")
    run.catalog.abandon(record)
    assert later.catalog.writers.revive(waiting, [], term=7) is None
    assert later.begin(2, writers=HOSTS).num_shards == 3


def test_an_answer_that_was_lost_when_a_save_went_on_is_no_conflict():
    store = MemoryStore()
    run = Run(store, HandClock())
    run.begin(2, writers=HOSTS)
    lost = []

    def lose(number: int, what: str) -> None:
        if what.startswith("replace run/.ckptd/m-2") and not lost:
            lost.append(what)
            raise UnavailableError("the connection broke before the answer")

    later = Run(HookedStore(store, after=lose), run.clock)  # type: ignore[arg-type]
    [waiting] = later.catalog.writers.waiting("m", 2, "")
    with pytest.raises(UnavailableError):
        later.catalog.writers.revive(waiting, [], term=7)
    assert later.catalog.writers.revive(waiting, [], term=7) == frozenset()
    later.commit(waiting)
    assert later.steps() == [2]


def drop_what_a_hung_agent_writes_again(heard: tuple[str, ...]) -> tuple[Run, str]:
    """Let retention delete what agents wrote, of which only some have heard; a former life of one then wakes up."""
    run = Run(Sweeps(), HandClock(), max_to_keep=1)
    record = run.begin(2, writers=HOSTS)
    run.commit(record)
    for host in heard:
        run.catalog.writers.heard_end(record.save_id, host)
    run.save(3)
    assert run.steps() == [3]
    assert shards(run) == []
    run.store.put(record.shard_keys[1], b"of a process that was paused before its last request")
    run.clock.advance(WAIT_S)
    run.catalog.retire()
    return run, record.key


def test_what_a_hung_agent_writes_after_a_deletion_has_a_record_and_is_swept(monkeypatch):
    run, key = drop_what_a_hung_agent_writes_again(("h1",))
    assert key in run.files()
    assert run.catalog.choose_num_shards("m", 2, 2) == 3
    for life in (run, again(run, max_to_keep=1)):
        assert life.steps() == [3]
    at = life.catalog.next_sweep_at()
    assert at is not None
    life.clock.advance(at - life.clock.wall_s())
    life.catalog.retire()
    assert shards(life) == []
    assert key not in life.files()
    assert isinstance(life.store, Sweeps)
    assert life.store.given_up >= {f"run/m-2.data-0000{shard}-of-00002" for shard in (0, 1)}

    seams.IS_TAKEN.put(monkeypatch, lambda self, record: False)
    mutant, key = drop_what_a_hung_agent_writes_again(("h1",))
    mutant.clock.advance(TAKEN_S)
    mutant.catalog.retire()
    assert key not in mutant.files()
    assert len(shards(mutant)) == 1, "a shard without a record, which nothing ever finds"


def test_of_what_all_writers_know_to_be_over_nothing_stays():
    run, key = drop_what_a_hung_agent_writes_again(HOSTS)
    assert key not in run.files()


def test_the_last_writer_to_hear_of_a_published_save_that_is_deleted_ends_its_tombstone():
    run, key = drop_what_a_hung_agent_writes_again(())
    for host in HOSTS:
        run.catalog.writers.heard_end("2-0-2", host)
    assert key not in run.files()
    assert shards(run) == []


def test_uploads_that_are_left_of_an_aborted_save_are_swept_once_all_writers_know():
    run = Run(Sweeps(), HandClock())
    record = run.begin(2, writers=HOSTS)
    run.catalog.abandon(record)
    assert isinstance(run.store, Sweeps)
    run.store.given_up.clear()
    for host in HOSTS:
        run.catalog.writers.heard_end(record.save_id, host)
    assert run.store.given_up == set(record.shard_keys)


def test_what_the_store_does_not_let_go_when_the_last_writer_hears_goes_with_the_next_retention():
    failing = []

    def fail(number: int, what: str) -> None:
        if failing and what.startswith("delete "):
            raise UnavailableError("the store does not answer")

    run = Run(HookedStore(MemoryStore(), before=fail), HandClock())  # type: ignore[arg-type]
    record = run.begin(2, writers=HOSTS)
    run.catalog.abandon(record)
    run.store.put(record.shard_keys[1], b"of an agent that hung")
    run.catalog.writers.heard_end(record.save_id, "h1")
    failing.append(True)
    with pytest.raises(UnavailableError):
        run.catalog.writers.heard_end(record.save_id, "h2")
    assert shards(run) == [record.shard_keys[1]]
    failing.clear()
    run.save(3)
    assert shards(run) == []
    assert record.key not in run.files()


def test_a_restart_does_not_shorten_a_tombstone():
    run = Run(MemoryStore(), HandClock())
    record = run.begin(2, writers=HOSTS)
    run.catalog.abandon(record)
    run.catalog.writers.heard_end(record.save_id, "h1")
    later = again(run)
    later.catalog.writers.heard_end(record.save_id, "h2")
    assert record.key in later.files(), "that the first has heard it, nobody knows any more"
    later.clock.advance(TAKEN_S)
    later.catalog.retire()
    assert record.key not in later.files()


def revived_by_a_later_owner() -> tuple[Run, records.Record]:
    """Let a later owner go on with a save, publish it, and delete it, while the former one hangs."""
    run = Run(MemoryStore(), HandClock(), max_to_keep=1)
    record = run.begin(2, writers=HOSTS)
    later = again(run, max_to_keep=1)
    [waiting] = later.catalog.writers.waiting("m", 2, "")
    assert later.catalog.writers.revive(waiting, [], term=7) == frozenset()
    later.commit(waiting)
    for host in HOSTS:
        later.catalog.writers.heard_end(record.save_id, host)
    later.save(3)
    assert later.steps() == [3]
    return later, record


def test_an_index_that_a_hung_owner_puts_after_a_deletion_is_found_by_the_record_and_deleted():
    later, record = revived_by_a_later_owner()
    assert record.key in later.files()
    later.store.put(record.index_key, index_bytes(2, record.num_shards))  # its request arrives
    third = again(later, max_to_keep=1)
    assert third.steps() == [3]
    assert record.index_key not in third.files()
    assert record.key in third.files()
    third.clock.advance(TAKEN_S)
    third.catalog.retire()
    assert record.key not in third.files()


def test_an_index_that_comes_while_a_shard_is_there_is_left_alone():
    later, record = revived_by_a_later_owner()
    later.store.put(record.index_key, index_bytes(2, record.num_shards))
    later.store.put(record.shard_keys[1], b"whose it is nobody knows")
    third = again(later, max_to_keep=1)
    assert Fate.LEAVE in [outcome.fate for outcome in third.recovery.outcomes]
    assert {record.index_key, record.shard_keys[1]} <= set(third.files())
