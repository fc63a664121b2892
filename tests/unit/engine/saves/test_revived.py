"""A coordinator dies while agents write a save: its next life goes on, and nothing that is sealed is written again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from ckptd.engine.catalog import records
from ckptd.engine.catalog.elsewhere import WAIT_S
from ckptd.engine.layout import Assignment
from ckptd.engine.reading.bundle import Bundle
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.errors import CkptdError, ConflictError
from tests.fakes.agents import RUN, HostJob, SharedBucket
from tests.fakes.agents import WAIT_S as MOST_S
from tests.fakes.clock import HandClock
from tests.fakes.ranks import six_on_three_hosts


class Lives:
    """Coordinators over one bucket, one after another. A former one stays about, and wakes up at the end."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.store = SharedBucket(self.clock.wall_s)
        self.coordinators: list[Coordinator] = []

    def next(self) -> HostJob:
        coordinator = Coordinator(self.store, clock=self.clock)
        coordinator.open()
        self.coordinators.append(coordinator)
        return HostJob(coordinator, *six_on_three_hosts())

    def data(self) -> dict[str, str]:
        return {stat.key: stat.version for stat in self.store.list(RUN) if "model.ckpt-5.data-" in stat.key}


@pytest.fixture
def lives() -> Iterator[Lives]:
    lives = Lives()
    yield lives
    for coordinator in lives.coordinators:
        coordinator.close()


def save(job: HostJob, step: int) -> None:
    planned = job.planned(step)
    for host in dict.fromkeys(job.hosts):
        job.coordinator.agents.take(planned.save, job.write(planned, host))
    assert job.coordinator.outcome(planned.save).result(MOST_S).step == step


def begun(lives: Lives) -> tuple[HostJob, Assignment]:
    """Return a job whose first life saves step 5, after one that left a state file, which keeps others out."""
    job = lives.next()
    save(job, 4)
    return job, job.planned(5)


def test_the_next_life_goes_on_with_what_is_declared_again_and_nothing_sealed_is_written_again(lives):
    job, planned = begun(lives)
    given, sealed = job.write(planned, "a"), job.write(planned, "b")
    job.coordinator.agents.take(planned.save, given)
    before = lives.data()

    later = lives.next()
    again = later.planned(5)
    assert again.save.save_id == planned.save.save_id
    assert (again.key, again.num_shards) == (planned.key, planned.num_shards)
    for receipt in (given, sealed):
        later.coordinator.agents.take(again.save, receipt)
    last = later.write(again, "c")
    later.coordinator.agents.take(again.save, last)
    checkpoint = later.coordinator.outcome(again.save).result(MOST_S)
    assert checkpoint.save_id == planned.save.save_id
    assert before.items() <= lives.data().items()
    bundle = Bundle.open(lives.store, f"{RUN}/model.ckpt-5")
    for name, array in job.ranks.arrays.items():
        assert np.array_equal(bundle.read(name), array), name

    for receipt in (sealed, last):  # the former life wakes up, and may not commit it
        job.coordinator.agents.take(planned.save, receipt)
    with pytest.raises(CkptdError):
        job.coordinator.outcome(planned.save).result(MOST_S)
    assert later.coordinator.latest(RUN) == checkpoint


def test_what_a_former_coordinator_may_have_published_does_not_begin_once_a_later_step_is(lives):
    """It may have been published, and deleted by retention since: to save it again would take the state back."""
    begun(lives)
    later = lives.next()
    planned = later.declare(5, is_repeated=True)[0].result(MOST_S)  # it waits for its writers: it is not published
    for host in "abc":
        later.coordinator.agents.take(planned.save, later.write(planned, host))
    assert later.coordinator.outcome(planned.save).result(MOST_S).step == 5

    last = lives.next()
    for declared in last.declare(3, is_repeated=True):
        with pytest.raises(ConflictError, match="whether step 3 is saved is not known: step 5 is, by now"):
            declared.result(MOST_S)
    assert last.planned(3).save.step == 3  # ranks that go back to it begin it anew


def test_ranks_that_have_begun_the_step_anew_get_a_save_of_their_own(lives):
    job, planned = begun(lives)
    given = job.write(planned, "a")
    later = lives.next()
    [declared, *_] = later.declare(5, attempt=2)
    anew = declared.result(MOST_S)
    assert isinstance(anew, Assignment)
    assert anew.save.save_id != planned.save.save_id
    assert anew.num_shards == planned.num_shards + 1
    with pytest.raises(ConflictError, match="something else than it was told to write"):
        later.coordinator.agents.take(anew.save, given)
    for host in "abc":
        later.coordinator.agents.take(anew.save, later.write(anew, host))
    assert later.coordinator.outcome(anew.save).result(MOST_S).num_shards == anew.num_shards
    lives.clock.advance(WAIT_S)
    later.coordinator.tick()
    assert later.coordinator.settle(MOST_S)
    assert [each.aborted_at is not None for each in records.load(lives.store, RUN).found] == [False, True, False]
    assert not any(key.endswith("-of-00003") for key in lives.data())


def test_a_save_whose_coordinator_wrote_a_part_itself_begins_anew_and_nothing_is_deleted(lives):
    job = lives.next()
    save(job, 4)
    job.hosts[4:] = ["", ""]
    for rank in (4, 5):
        job.members[rank] = replace(job.members[rank], host="")
    planned = job.planned(5)
    given = job.write(planned, "a")
    key = f"{planned.key}.data-00002-of-00003"
    lives.store.put(key, b"what the former coordinator had finished")
    later = lives.next()
    later.hosts, later.members = job.hosts, job.members
    again = later.planned(5)
    assert again.save.save_id != planned.save.save_id
    assert again.num_shards == planned.num_shards + 1
    with pytest.raises(ConflictError):
        later.coordinator.agents.take(again.save, given)
    for host in "ab":
        later.coordinator.agents.take(again.save, later.write(again, host))
    later.send(again, 2)
    assert later.coordinator.outcome(again.save).result(MOST_S).save_id == again.save.save_id
    assert lives.store.get(key)  # a deletion that hangs could meet a later life's


def test_what_is_planned_otherwise_by_the_next_release_begins_anew(lives):
    _, planned = begun(lives)
    [record] = [each for each in records.load(lives.store, RUN).found if each.save_id == planned.save.save_id]
    records.change(lives.store, record, layout_digest="0" * 64)
    again = lives.next().planned(5)
    assert again.save.save_id != planned.save.save_id
    assert again.num_shards == planned.num_shards + 1
    third = lives.next().planned(5)
    assert third.save.save_id == again.save.save_id, "the newest that is planned alike"
