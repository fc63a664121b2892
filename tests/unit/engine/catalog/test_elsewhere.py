"""Saves that other hosts write: recovery waits for them for a while, and the number of an aborted one stays taken."""

from __future__ import annotations

import pytest

from ckptd.engine.catalog.elsewhere import TAKEN_S, WAIT_S
from ckptd.engine.catalog.recovery import Fate
from ckptd.errors import ConflictError
from ckptd.storage.memory import MemoryStore
from tests.fakes.catalog_run import Run, again
from tests.fakes.clock import HandClock
from tests.fakes.small_checkpoint import index_bytes

HOSTS = ("h1", "h2")


class PowerCutError(Exception):
    """The coordinator dies here."""


class Sweeps(MemoryStore):
    """Notes which uploads may be swept, and which not."""

    def __init__(self) -> None:
        super().__init__()
        self.given_up: set[str] = set()
        self.spared: set[str] = set()

    def sweep_unfinished(self, directory, *, given_up=(), spare=(), only=None):
        if directory == "run":
            self.given_up, self.spared = set(given_up), set(spare)
        return []


@pytest.fixture(params=[True, False], ids=["with locks", "a bucket"])
def run(request: pytest.FixtureRequest) -> Run:
    run = Run(MemoryStore(has_locks=request.param), HandClock())
    run.save(1)
    return run


def shards(run: Run) -> list[str]:
    return [key for key in run.files() if key.startswith("run/m-2.data")]


def fates(run: Run) -> list[Fate]:
    return [outcome.fate for outcome in run.recovery.outcomes]


def test_the_next_life_waits_for_the_hosts_of_a_save_and_sweeps_it_when_they_do_not_come(run):
    record = run.begin(2, writers=HOSTS)
    later = again(run)
    assert fates(later) == [Fate.WAIT]
    assert "the agents on h1, h2" in later.recovery.outcomes[0].reason
    assert shards(later) == record.shard_keys
    later.clock.advance(WAIT_S - 1)
    later.catalog.retire()
    assert shards(later) == record.shard_keys
    assert later.catalog.choose_num_shards("m", 2, 2) == 3
    later.clock.advance(1)
    later.catalog.retire()
    assert shards(later) == []
    assert record.key in later.files()


def test_what_waited_is_not_published_after_a_later_step(run):
    run.begin(2, writers=HOSTS)
    later = again(run)
    [waiting] = later.catalog.writers.waiting("m", 2, "")
    later.catalog.writers.revive(waiting, [])
    later.save(3)
    with pytest.raises(ConflictError, match="a later save, of step 3, was published"):
        later.commit(waiting)
    later.catalog.abandon(waiting)
    assert later.steps() == [1, 3]


def test_uploads_of_a_save_that_may_go_on_are_spared_and_swept_afterwards():
    store = Sweeps()
    run = Run(store, HandClock())
    record = run.begin(2, writers=HOSTS)
    later = again(run)
    assert (store.given_up, store.spared) == (set(), set(record.shard_keys))
    other = later.begin(3)
    later.catalog.abandon(other)
    assert (store.given_up, store.spared) == (set(other.shard_keys), set(record.shard_keys))
    later.clock.advance(WAIT_S)
    later.catalog.retire()
    assert (store.given_up, store.spared) == (set(record.shard_keys), set())


def test_a_wait_that_ends_names_the_hosts(run, caplog):
    run.begin(2, writers=HOSTS)
    later = again(run)
    later.clock.advance(WAIT_S)
    for _ in range(2):
        later.catalog.retire()
    [text] = [record.getMessage() for record in caplog.records if "within 60 s" in record.getMessage()]
    assert "m-2 waits no longer for the agents on h1, h2" in text


def test_a_save_that_has_its_index_is_adopted_and_no_longer_waited_for(run, caplog):
    record = run.begin(2, writers=HOSTS)
    run.store.put(record.index_key, index_bytes(2, record.num_shards))
    later = again(run)
    assert fates(later) == [Fate.ADOPT]
    assert later.catalog.writers.waiting("m", 2, record.calls) == []
    later.clock.advance(WAIT_S)
    later.catalog.retire()
    assert later.steps() == [1, 2]
    assert "waits no longer" not in caplog.text


def test_a_save_that_its_owner_wrote_alone_is_swept_at_once(run):
    record = run.begin(2)
    later = again(run)
    assert fates(later) == [Fate.SWEEP]
    assert record.key not in later.files()


def test_the_number_of_an_aborted_attempt_stays_taken_until_all_its_writers_know(run):
    record = run.begin(2, writers=HOSTS)
    run.catalog.abandon(record)
    assert shards(run) == []
    zombie = record.shard_keys[0]
    run.store.put(zombie, b"what an agent was cut off with")
    run.store.delete([zombie])
    assert run.catalog.choose_num_shards("m", 2, 2) == 3
    run.catalog.writers.heard_end(record.save_id, "h1")
    run.catalog.writers.heard_end(record.save_id, "h1")
    assert run.catalog.choose_num_shards("m", 2, 2) == 3
    run.catalog.writers.heard_end(record.save_id, "h2")
    assert record.key not in run.files()
    assert run.catalog.choose_num_shards("m", 2, 2) == 2


def test_a_tombstone_outlives_its_coordinator_and_lasts_a_day(run):
    record = run.begin(2, writers=HOSTS)
    run.catalog.abandon(record)
    run.clock.advance(TAKEN_S / 2)
    later = again(run)
    assert fates(later) == [Fate.SWEEP]
    assert later.catalog.choose_num_shards("m", 2, 2) == 3
    run.store.put(record.shard_keys[0], b"late")
    at = later.catalog.next_sweep_at()
    assert at is not None
    later.clock.advance(at - later.clock.wall_s())
    later.catalog.retire()
    assert record.key not in later.files()
    assert shards(later) == []
    # In a bucket a request of the owner that was taken over from may still be on its way.
    assert later.catalog.choose_num_shards("m", 2, 2) == (2 if run.store.has_locks else 3)


def test_the_step_is_saved_anew_beside_the_tombstone(run):
    run.catalog.abandon(run.begin(2, writers=HOSTS))
    anew = run.begin(2)
    assert anew.num_shards == 3
    assert run.commit(anew).step == 2
    assert again(run).steps() == [1, 2]


def test_a_writer_that_hears_of_a_save_which_waits_or_was_published_changes_nothing(run):
    run.begin(2, writers=HOSTS)
    later = again(run)
    for host in HOSTS:
        later.catalog.writers.heard_end("2-0-2", host)
    assert len(shards(later)) == 2
    done = later.begin(3, writers=HOSTS)
    later.commit(done)
    for host in HOSTS:
        later.catalog.writers.heard_end(done.save_id, host)
    assert later.steps() == [1, 3]


@pytest.mark.parametrize("dies_at", ["sweep.aborted", "sweep.shards"])
def test_a_crash_while_an_attempt_is_aborted_leaves_it_to_the_next_life(dies_at):
    def die(step: str) -> None:
        if step == dies_at:
            raise PowerCutError

    run = Run(MemoryStore(), HandClock(), on_step=die)
    record = run.begin(2, writers=HOSTS)
    with pytest.raises(PowerCutError):
        run.catalog.abandon(record)
    later = again(run)
    was_noted = dies_at == "sweep.shards"
    assert fates(later) == [Fate.SWEEP if was_noted else Fate.WAIT]
    assert (shards(later) == []) is was_noted
    later.clock.advance(WAIT_S)
    later.catalog.retire()
    assert shards(later) == []
    assert later.catalog.choose_num_shards("m", 2, 2) == 3
