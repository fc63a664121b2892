"""Only what ranks of several hosts declare by one call of `save` is one save; an agent that hung may say an old one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ckptd.engine.identity import SaveRef
from ckptd.engine.layout import Assignment
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.errors import ConflictError, SessionAbortedError
from ckptd.storage.memory import MemoryStore
from tests.fakes.agents import RUN, WAIT_S, HostJob
from tests.fakes.clock import HandClock
from tests.fakes.ranks import six_on_three_hosts

LATE, OTHERS = (2, 3), (0, 1, 4, 5)


@pytest.fixture
def job() -> Iterator[HostJob]:
    coordinator = Coordinator(MemoryStore(), clock=HandClock())
    coordinator.open()
    yield HostJob(coordinator, *six_on_three_hosts())
    coordinator.close()


def test_an_earlier_call_of_some_ranks_is_no_part_of_a_later_one_of_the_others(job: HostJob) -> None:
    waiting = job.declare(5, attempt=2, call=2, ranks=OTHERS)
    for answer in job.declare(5, attempt=1, call=1, ranks=LATE):
        with pytest.raises(ConflictError, match=r"rank . has called `save` for step 5 of .* again since"):
            answer.result(WAIT_S)
    assert not any(each.done() for each in waiting)
    job.declare(5, attempt=2, call=2, ranks=LATE)
    assert all(isinstance(each.result(WAIT_S), Assignment) for each in waiting)


def test_a_later_call_ends_the_earlier_one_and_begins_anew(job: HostJob) -> None:
    for answer in job.declare(5, attempt=1, call=1, ranks=LATE):
        assert not answer.done()
    waiting = job.declare(5, attempt=2, call=2, ranks=OTHERS)
    for answer in job.declare(5, attempt=1, call=1, ranks=LATE[:1]):
        with pytest.raises((ConflictError, SessionAbortedError), match="has called `save` for .*again"):
            answer.result(WAIT_S)
    job.declare(5, attempt=2, call=2, ranks=LATE)
    assert all(isinstance(each.result(WAIT_S), Assignment) for each in waiting)


def test_what_a_rank_gave_up_before_the_others_had_called_is_no_call_of_theirs(job: HostJob) -> None:
    job.declare(5, attempt=1, call=1, ranks=(0,))
    rank = job.members[0]
    gave_up = SaveRef(RUN, job.epoch, 5, rank=0, incarnation=rank.incarnation)
    job.coordinator.withdraw(gave_up, "q5.1.0", "an array is missing", "model.ckpt")
    waiting = job.declare(5, attempt=2, call=1, ranks=(1, 2, 3, 4, 5))
    waiting += job.declare(5, attempt=2, call=2, ranks=(0,))
    assert all(isinstance(each.result(WAIT_S), Assignment) for each in waiting)


def test_ranks_that_do_not_say_which_call_it_is_meet_as_ever(job: HostJob) -> None:
    waiting = job.declare(5, call=2, ranks=OTHERS)
    waiting += job.declare(5, call=0, ranks=LATE)
    assert all(isinstance(each.result(WAIT_S), Assignment) for each in waiting)
