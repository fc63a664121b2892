"""A rank that comes too late for a save is told so once; what it saves later is judged by itself."""

from __future__ import annotations

import threading

import pytest

from ckptd.engine.identity import SaveRef
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.saves.withdrawals import GRACE_S
from ckptd.engine.settings import Settings
from ckptd.errors import SessionAbortedError
from ckptd.storage.memory import MemoryStore
from tests import seams
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


def test_an_error_that_is_told_while_its_save_is_dropped_keeps_its_frames(job, monkeypatch):
    # A coroutine of the daemon may be among them, and clearing its frame would end it in the middle of its answer.
    may_drop, submit = threading.Event(), seams.SUBMIT_WORK.value
    coordinator, clock, ranks = job
    waiting = ranks[0].declare(5)
    clock.advance(31.0)
    with monkeypatch.context() as held:
        seams.SUBMIT_WORK.put(held, lambda pool, work: submit(pool, lambda: (may_drop.wait(WAIT_S), work())))
        coordinator.tick()
    told = ranks[1].declare(5).exception(WAIT_S)
    may_drop.set()
    ended = waiting.exception(WAIT_S)
    assert str(told) == str(ended)
    assert told is not ended


def take_back(job, step, number, reason="Ctrl-C"):
    """Let rank 0 give up what it declared by its request of that number, or will have."""
    rank = job[2][0]
    ref = SaveRef(rank.run, rank.epoch, step, rank=0, incarnation=rank.member.incarnation)
    job[0].withdraw(ref, f"{rank.member.incarnation}-{number}", reason, "model.ckpt")


def test_others_do_not_hear_of_what_only_one_rank_had_declared(job):
    waiting = job[2][0].declare(5)
    take_back(job, 5, 1)
    assert "rank 0 gave up: Ctrl-C" in str(waiting.exception(WAIT_S))
    other = job[2][1].declare(5)
    job[1].advance(GRACE_S / 2)
    job[0].tick()
    assert not other.done()
    again = job[2][0].declare(5)
    assert again.result(WAIT_S).save.save_id == other.result(WAIT_S).save.save_id


def test_a_declaration_that_was_taken_back_before_it_came_does_not_count(job):
    take_back(job, 5, 1)
    take_back(job, 5, 1)
    assert "gave step 5 of runs/r up: Ctrl-C" in str(job[2][0].declare(5).exception(WAIT_S))
    save_all(job[2], 5)


def test_others_that_have_declared_hear_of_what_is_taken_back_before_it_comes(job):
    other = job[2][1].declare(5)
    take_back(job, 5, 1)
    assert "rank 0 gave up: Ctrl-C" in str(other.exception(WAIT_S))
    assert job[2][0].declare(5).exception(WAIT_S)
    again = job[2][0].declare(5)  # a new save, which waits for the other
    assert not again.done()


def test_a_rank_that_gave_up_is_waited_for_no_longer_than_a_moment(job):
    job[2][0].declare(5)
    take_back(job, 5, 1)
    job[1].advance(60.0)
    other = job[2][1].declare(5)
    job[1].advance(GRACE_S + 0.1)
    job[0].tick()
    assert "rank 0 gave up: Ctrl-C" in str(other.exception(WAIT_S))
    assert not job[2][0].declare(5).done()


def test_a_rank_that_gave_up_and_went_on_to_another_step_is_not_waited_for(job):
    job[2][0].declare(5)
    take_back(job, 5, 1)
    other = job[2][1].declare(5)
    job[2][0].declare(6)
    job[0].tick()
    assert "rank 0 gave up: Ctrl-C" in str(other.exception(WAIT_S))


def test_ranks_that_all_gave_up_have_all_their_time_once_one_begins_anew(job):
    coordinator, clock, ranks = job
    for rank in ranks:
        member = rank.member
        ref = SaveRef(rank.run, rank.epoch, 5, rank=member.rank, incarnation=member.incarnation)
        coordinator.withdraw(ref, f"of {member}", "MemoryError", "model.ckpt")
    first = ranks[0].declare(5)
    clock.advance(GRACE_S + 1.0)
    coordinator.tick()
    assert not first.done()


def test_a_late_rank_is_told_the_same_when_it_repeats_its_declaration(job):
    abort_for_want_of_rank_1(job, 5)
    told = job[2][1].declare(5).exception(WAIT_S)
    assert str(job[2][1].declare(5, again=True).exception(WAIT_S)) == str(told)


class Gate:
    """A lock that one thread waits for before it takes it."""

    def __init__(self, lock, held):
        self._lock, self._held = lock, held
        self.reached, self.opened = threading.Event(), threading.Event()

    def __enter__(self):
        if threading.current_thread().name == self._held:
            self.reached.set()
            assert self.opened.wait(WAIT_S)
        return self._lock.__enter__()

    def __exit__(self, *given):
        return self._lock.__exit__(*given)


def test_a_rank_that_looks_at_the_store_while_others_see_the_end_is_told_of_it_too():
    coordinator = Coordinator(MemoryStore(), clock=HandClock())
    coordinator.open()
    ranks = [Rank(coordinator, rank, 3).join() for rank in range(3)]
    gate = coordinator.in_catalog("runs/r", lambda stored: Gate(stored.lock, "late"))
    coordinator.in_catalog("runs/r", lambda stored: setattr(stored, "lock", gate))
    told = []
    late = threading.Thread(target=lambda: told.append(ranks[2].declare(5)), name="late")
    late.start()
    assert gate.reached.wait(WAIT_S)
    told.append(ranks[1].declare(5))
    take_back((coordinator, None, ranks), 5, 1)
    gate.opened.set()
    late.join(WAIT_S)
    assert ["rank 0 gave up: Ctrl-C" in str(one.exception(WAIT_S)) for one in told] == [True, True]
    coordinator.close()
