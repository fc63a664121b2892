"""A rank that comes too late for a save is told so once; what it saves later is judged by itself."""

from __future__ import annotations

import pytest

from ckptd.engine.coordinator import Coordinator
from ckptd.engine.settings import Settings
from ckptd.errors import SessionAbortedError
from ckptd.storage.memory import MemoryStore
from tests.fakes.clock import HandClock
from tests.fakes.job import WAIT_S, Rank, save_all


@pytest.fixture
def job():
    clock = HandClock()
    coordinator = Coordinator(MemoryStore(), settings=Settings(declare_timeout_s=30.0), clock=clock)
    coordinator.open()
    ranks = [Rank(coordinator, rank, 2).join() for rank in range(2)]
    yield coordinator, clock, ranks
    coordinator.close()


def abort_for_want_of_rank_1(job, step):
    coordinator, clock, ranks = job
    waiting = ranks[0].declare(step)
    clock.advance(31.0)
    coordinator.tick()
    assert isinstance(waiting.exception(WAIT_S), SessionAbortedError)


def test_a_rank_that_comes_too_late_is_told_why_it_waits_for_nobody(job):
    abort_for_want_of_rank_1(job, 5)
    failure = job[2][1].declare(5).exception(WAIT_S)
    assert "rank 1 of 2" in str(failure)


def test_a_new_save_is_never_answered_with_the_end_of_an_older_attempt(job):
    coordinator, _, ranks = job
    abort_for_want_of_rank_1(job, 5)
    save_all(ranks, 5)  # rank 0 comes first, so that rank 1 never hears of the first attempt
    save_all(ranks, 6)
    late = ranks[1].declare(5, overwrite=True)  # and this time rank 1 does
    assert not late.done()
    ranks[0].declare(5, overwrite=True)
    for rank in ranks:
        rank.send(5)
    assert ranks[1].outcome(5).step == 5
    assert coordinator.settle(WAIT_S)


def test_a_rank_that_went_on_to_another_step_is_not_late_for_the_one_it_left_out(job):
    abort_for_want_of_rank_1(job, 5)
    save_all(job[2], 6)
    assert not job[2][1].declare(5).done()


def test_nobody_is_late_for_a_save_whose_own_time_is_long_over(job):
    abort_for_want_of_rank_1(job, 5)
    job[1].advance(3600.0)
    assert not job[2][1].declare(5).done()
