"""The hosts that attend a coordinator: which are told, and which are gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ckptd.engine.catalog.term import Term
from ckptd.engine.hosts.memories import InMemory
from ckptd.engine.hosts.messages import AgentLife, Attached, Beat, Fenced, FromCoordinator, Hello
from ckptd.engine.identity import Member, RunOptions
from ckptd.engine.saves.attended import AttendedHosts
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.errors import ConflictError
from ckptd.storage.base import Durability
from ckptd.storage.pace import NO_LIMITS, limits_of_each
from tests.fakes.agents import SharedBucket
from tests.fakes.clock import HandClock
from tests.fakes.waiting import eventually

LIFE, NEXT_LIFE = AgentLife("a", "a-1"), AgentLife("a", "a-2", 1.0)
LEASE_S = 10.0


class RemoteBucket(SharedBucket):
    """What many hosts write to at once takes only so many requests a second."""

    durability = Durability.OBJECT_STORE


class Life:
    """A coordinator with the agent of host a."""

    def __init__(self, kind: type[SharedBucket] = SharedBucket) -> None:
        self.clock = HandClock()
        store = kind(self.clock.wall_s)
        self.coordinator = Coordinator(store, clock=self.clock)
        self.coordinator.open()
        term = Term(store, self.clock, holder="a coordinator")
        term.take()
        self.hosts = AttendedHosts(self.coordinator, term=term, lease_s=LEASE_S)
        self.term = term.number

    def attend(self, send: object) -> None:
        answer = self.hosts.attend(Hello(LIFE, self.coordinator.root.id, 0), send, lambda said: said)  # type: ignore[arg-type]
        assert isinstance(answer, Attached)

    def beat(self) -> FromCoordinator:
        return self.hosts.hear(Beat(LIFE, self.term), lambda said: said)

    def beats(self, agent: AgentLife, for_s: float) -> None:
        """Let an agent be heard, and time pass."""
        for _ in range(int(for_s)):
            self.clock.advance(1.0)
            assert isinstance(self.hosts.hear(Beat(agent, self.term), lambda said: said), Attached)
            self.hosts.tick()

    def takes(self, member: Member) -> bool:
        """Whether a rank of host a gets its place."""
        try:
            self.hosts.place("a", "r", member, RunOptions())
        except ConflictError:
            return False
        return True

    def is_lost(self) -> bool:
        (host,) = self.hosts.view().hosts
        return host.is_lost


@pytest.fixture
def life() -> Iterator[Life]:
    made = Life()
    yield made
    made.coordinator.close()
    made.hosts.close()


def test_an_agent_that_is_told_nothing_attends_again(life: Life) -> None:
    def lasts(message: FromCoordinator, run: str) -> None: ...

    def given_up(message: FromCoordinator, run: str) -> None: ...

    life.attend(lasts)
    assert isinstance(life.beat(), Attached)
    life.attend(given_up)  # it came first, and was taken last
    life.hosts.parted("a", given_up)
    assert isinstance(life.beat(), Fenced)
    life.attend(lasts)
    assert isinstance(life.beat(), Attached)


def test_an_agent_is_not_gone_because_its_coordinator_stood_still(life: Life) -> None:
    life.attend(lambda message, run: None)
    life.hosts.tick()
    life.clock.advance(3 * LEASE_S)
    life.hosts.tick()
    assert not life.is_lost()
    for _ in range(3):
        life.clock.advance(LEASE_S / 2)
        life.hosts.tick()
    assert life.is_lost()


@pytest.mark.parametrize("kind", [SharedBucket, RemoteBucket])
def test_hosts_that_are_there_share_what_a_bucket_takes(kind: type[SharedBucket]) -> None:
    life = Life(kind)
    limits, is_shared = life.coordinator.agents.limits, kind is RemoteBucket
    try:
        for number in range(3):
            hello = Hello(AgentLife(f"h{number}", f"h{number}-1"), life.coordinator.root.id, 0)
            life.hosts.attend(hello, lambda message, run: None, lambda said: said)
            assert limits() == (limits_of_each(number + 1) if is_shared else NO_LIMITS)
        life.hosts.tick()
        life.beats(AgentLife("h1", "h1-1"), LEASE_S + 1.0)
        assert limits() == (limits_of_each(1) if is_shared else NO_LIMITS)
    finally:
        life.coordinator.close()
        life.hosts.close()


def test_a_rank_of_a_host_that_was_replaced_waits_for_one_lease_and_not_for_two(life: Life) -> None:
    life.attend(lambda message, run: None)
    assert life.takes(Member(0, 1, "before", agent="a"))
    hello = Hello(NEXT_LIFE, life.coordinator.root.id, 0)
    assert isinstance(life.hosts.attend(hello, lambda message, run: None, lambda said: said), Attached)
    life.beats(NEXT_LIFE, LEASE_S)
    assert not life.takes(Member(0, 1, "after", agent="a"))  # the former one may still come back
    life.beats(NEXT_LIFE, 1.0)
    eventually(lambda: life.takes(Member(0, 1, "after", agent="a")), "its place", within_s=40.0)


def test_what_a_host_has_in_memory_of_saves_that_are_no_checkpoints_it_is_told(life: Life) -> None:
    life.attend(lambda message, run: None)
    assert life.hosts.offer(LIFE, [InMemory("r", "s1", {0: 10})]) == ["s1"]
    assert life.hosts.where("r/model.ckpt-1").holders == {}
    with pytest.raises(ConflictError, match="former life"):
        life.hosts.offer(NEXT_LIFE, [])
