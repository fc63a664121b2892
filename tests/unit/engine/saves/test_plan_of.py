"""What a rank has declared is answered again by its request, without the declaration."""

from __future__ import annotations

import dataclasses

import pytest

from ckptd.engine.identity import SaveRef
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.settings import Settings
from ckptd.errors import ConflictError, NotFoundError, SessionAbortedError
from ckptd.storage.memory import MemoryStore
from tests.fakes.clock import HandClock
from tests.fakes.job import WAIT_S, Rank


@pytest.fixture
def job():
    clock = HandClock()
    coordinator = Coordinator(MemoryStore(), settings=Settings(declare_timeout_s=30.0), clock=clock)
    coordinator.open()
    yield coordinator, clock, [Rank(coordinator, rank, 2).join() for rank in range(2)]
    coordinator.close()


def declared(rank: Rank, step: int) -> SaveRef:
    """What is known of a rank's save before it is planned."""
    return SaveRef(rank.run, rank.epoch, step, rank=rank.member.rank, incarnation=rank.member.incarnation)


def waiting_for(coordinator: Coordinator, save: SaveRef) -> list[str]:
    saves = coordinator.saves_of(save.run)
    assert saves is not None
    return saves.waiting_for_plan(save, "a0-1")


def test_it_is_the_answer_to_the_declaration(job):
    coordinator, _, (zero, one) = job
    first = zero.declare(5)
    plan = coordinator.plan_of(declared(zero, 5), "a0-1")
    assert not plan.done()
    assert waiting_for(coordinator, declared(zero, 5))
    one.declare(5)
    assert plan.result(WAIT_S) is first.result(WAIT_S)


def test_of_a_save_that_is_published_it_is_the_checkpoint(job):
    coordinator, _, ranks = job
    for rank in ranks:
        rank.declare(5)
    for rank in ranks:
        rank.send(5)
    published = ranks[0].outcome(5)
    assert coordinator.plan_of(declared(ranks[0], 5), "a0-1").result(WAIT_S) == published
    assert waiting_for(coordinator, declared(ranks[0], 5)) == []


def test_of_a_save_that_failed_it_is_the_reason(job):
    coordinator, clock, (zero, _) = job
    zero.declare(5)
    clock.advance(31.0)
    coordinator.tick()
    with pytest.raises(SessionAbortedError, match="rank 1 of 2"):
        coordinator.plan_of(declared(zero, 5), "a0-1").result(WAIT_S)


def test_what_was_never_declared_has_none(job):
    coordinator, _, (zero, one) = job
    zero.declare(5)
    elsewhere = dataclasses.replace(declared(zero, 5), run="runs/other")
    for save, request_id in ((declared(zero, 5), "other"), (declared(one, 5), "a0-1"), (elsewhere, "a0-1")):
        with pytest.raises(NotFoundError, match="has not declared"):
            coordinator.plan_of(save, request_id).result(WAIT_S)


def test_a_process_that_is_not_the_rank_is_refused(job):
    coordinator, _, (zero, _) = job
    zero.declare(5)
    other = dataclasses.replace(declared(zero, 5), incarnation="b0")
    with pytest.raises(ConflictError):
        coordinator.plan_of(other, "a0-1").result(WAIT_S)
