"""A lane that is passed on to the agent of another host, through a real server: also over broken streams."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from ckptd.agent.other_agents import OtherAgents
from ckptd.agent.passed_lane import WINDOW_BYTES, PassedLane
from ckptd.engine.identity import SaveRef
from ckptd.errors import ConflictError, CorruptionError
from ckptd.format.crc32c import crc32c
from ckptd.service.flow import Limits
from tests.fakes.waiting import eventually
from tests.unit.service.conftest import serving

WAIT_S = 40
SAVE = SaveRef("runs/a", 7, 1, rank=0, incarnation="inc")


class Passing:
    """One lane, and what became of it. It goes to `served`, which a test may change."""

    def __init__(self, served, data: bytes) -> None:
        self.served, self.data = served, data
        self.others = OtherAgents()
        self.passed, self.anew = threading.Event(), threading.Event()
        self.failed: list[Exception] = []
        self.lane = PassedLane(
            "r/shard",
            len(data),
            served.coordinator.plan(SAVE, (len(data),)),
            0,
            "b",
            stubs=lambda: self.others.to("b", self.served.listening),
            peers=self.others,
            now=time.monotonic,
            on_passed=self.passed.set,
            on_anew=self.anew.set,
            on_failure=self.failed.append,
        )

    def write(self, begin: int = 0, end: int | None = None, step: int = 3 << 20) -> None:
        part = self.data[begin:end]
        for at in range(0, len(part), step):
            self.lane.write(99, memoryview(part)[at : at + step])

    def end(self) -> None:
        self.lane.end(np.array([crc32c(self.data)], np.uint32))


@pytest.fixture
def served():
    with serving(limits=Limits(stall_s=20.0)) as running:
        yield running


def test_what_is_written_arrives_with_its_checksums_and_is_counted(served):
    passing = Passing(served, np.random.default_rng(1).bytes(9_000_001))
    passing.write()
    passing.end()
    assert passing.passed.wait(WAIT_S)
    [lane] = served.coordinator.lanes.values()
    assert (bytes(lane.data), lane.crcs) == (passing.data, crc32c(passing.data).to_bytes(4, "little"))
    passing.lane.wait()
    [rate] = passing.others.rates()
    assert (rate.host, rate.address, rate.read_bytes) == ("b", served.listening[0], 0)
    assert rate.sent_bytes <= len(passing.data)


def test_a_lane_without_bytes_ends_too(served):
    passing = Passing(served, b"")
    passing.end()
    assert passing.passed.wait(WAIT_S)


def test_after_a_break_it_goes_on_where_it_stopped():
    data = np.random.default_rng(2).bytes(8 << 20)
    with serving(limits=Limits(stall_s=20.0)) as first:
        passing = Passing(first, data)
        passing.write(0, 5 << 20)
        eventually(lambda: first.coordinator.lanes[0].received >= 4 << 20, "the first chunks", within_s=WAIT_S)
        coordinator = first.coordinator
    with serving(coordinator, limits=Limits(stall_s=20.0)) as passing.served:
        passing.write(5 << 20)
        passing.end()
        assert passing.passed.wait(WAIT_S)
        assert bytes(coordinator.lanes[0].data) == data


def test_an_agent_that_began_anew_wants_what_is_not_kept_any_more():
    data = bytes(WINDOW_BYTES + (8 << 20))
    with serving(limits=Limits(stall_s=20.0)) as first:
        passing = Passing(first, data)
        passing.write()
        eventually(lambda: passing.lane.confirmed > 0, "the other end has confirmed some", within_s=WAIT_S)
    with serving(limits=Limits(stall_s=20.0)) as passing.served:
        passing.served.coordinator.plan(SAVE, (len(data),))
        assert passing.anew.wait(WAIT_S)
    assert not passing.passed.is_set()


def test_closed_it_sends_nothing_and_its_writer_waits_no_longer(served):
    passing = Passing(served, bytes(2 * WINDOW_BYTES))
    served.coordinator.lanes[0].let_write.clear()
    raised: list[Exception] = []

    def write() -> None:
        try:
            passing.write()
        except ConflictError as error:
            raised.append(error)

    writing = threading.Thread(target=write)
    writing.start()
    assert served.coordinator.lanes[0].writing.acquire(timeout=WAIT_S)
    passing.lane.close(ConflictError("the save is over"))
    writing.join(WAIT_S)
    served.coordinator.lanes[0].let_write.set()
    assert [str(error) for error in raised] == ["the save is over"]
    passing.lane.wait()
    assert not passing.passed.is_set()


def test_what_the_other_agent_refuses_for_good_fails_the_save(served):
    passing = Passing(served, b"abc")

    def end(*_: object) -> bool:
        raise CorruptionError("tensor 'w' is not what was captured")

    served.coordinator.lanes[0].end = end
    passing.write()
    passing.end()
    eventually(lambda: passing.failed, "the refusal", within_s=WAIT_S)
    assert "not what was captured" in str(passing.failed[0])
