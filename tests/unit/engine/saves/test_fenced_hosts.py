"""Two coordinators during an update: agents hear from the older one that there is another, and nothing of their saves.

It is tried without the look at the term as well, and then the older one tells its agents what it may not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from ckptd.engine.catalog.term import Term
from ckptd.engine.hosts.messages import (
    AgentLife,
    Attached,
    Beat,
    DeclareHost,
    Fenced,
    FromCoordinator,
    Hello,
    HostDeclaration,
    RankPart,
    SaveEnded,
)
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.refusals import NotNowError
from ckptd.engine.saves.attended import AttendedHosts
from ckptd.engine.saves.coordinator import Coordinator
from tests.fakes.agents import RUN, WAIT_S, SharedBucket
from tests.fakes.clock import HandClock
from tests.fakes.ranks import six_on_three_hosts
from tests.fakes.waiting import eventually

LIFE = AgentLife("a", "a-1")
LEASE_S = 1000.0


class LooksAway(Term):
    """The term of a coordinator that does not look whether it still has it."""

    def confirm(self, max_age_s: float = 0.0) -> None:
        return


class Life:
    """A coordinator, and what it tells the agent of host a."""

    def __init__(self, store: SharedBucket, clock: HandClock, term: type[Term] = Term) -> None:
        self.coordinator = Coordinator(store, clock=clock)
        self.coordinator.open()
        self.term = term(store, clock, holder="a coordinator")
        self.term.take()
        self.hosts = AttendedHosts(self.coordinator, term=self.term, lease_s=LEASE_S)
        self.told: list[FromCoordinator] = []
        self.is_closed = False

    def attend(self, highest_term: int = 0) -> FromCoordinator:
        hello = Hello(LIFE, self.coordinator.root.id, highest_term)
        return self.hosts.attend(hello, lambda message, run: self.told.append(message), lambda said: said)

    def declare(self, step: int) -> None:
        """Declare for the ranks of host a, of a job whose other ranks are late."""
        ranks, hosts = six_on_three_hosts()
        parts = []
        for rank in (0, 1):
            member, manifest = Member(rank, len(hosts), f"r{rank}", "a"), ranks.manifests[rank]
            self.coordinator.manifests.add(manifest)
            ref = SaveRef(RUN, 0, step, rank=rank, incarnation=member.incarnation)
            declaration = Declaration(ref, f"q{step}.{rank}", len(hosts), manifest.digest, host="a")
            parts.append(RankPart(member, RunOptions(), declaration))
        said = HostDeclaration(f"a.{step}", RUN, step, (0, 1), len(hosts), b"", 0, parts=tuple(parts))
        self.hosts.hear(DeclareHost(LIFE, self.term.number, said), lambda declaration: declaration)

    def await_save(self) -> None:
        eventually(lambda: any(view.saves for view in self.coordinator.runs()), "the save", within_s=WAIT_S)

    def ended(self) -> list[FromCoordinator]:
        return [message for message in self.told if isinstance(message, SaveEnded)]

    def close(self) -> None:
        """End what is under way."""
        if not self.is_closed:
            self.is_closed = True
            self.coordinator.close()
            self.hosts.close()


@pytest.fixture
def lives() -> Iterator[list[Life]]:
    lives: list[Life] = []
    yield lives
    for life in lives:
        life.close()


def test_the_older_tells_its_agents_that_it_is_fenced_off_and_no_end_of_a_save(lives: list[Life]) -> None:
    clock = HandClock()
    store = SharedBucket(clock.wall_s)
    lives.append(older := Life(store, clock))
    assert isinstance(older.attend(), Attached)
    older.declare(5)
    older.await_save()
    lives.append(later := Life(store, clock))

    def is_fenced() -> bool:
        clock.advance(2.0)
        older.hosts.tick()
        return older.hosts.is_fenced

    eventually(is_fenced, "it looks at its term", within_s=WAIT_S)
    older.hosts.tick()
    fenced = Fenced(older.term.number, "a coordinator")
    assert older.told == [fenced]
    older.hosts.tick()
    assert older.hosts.hear(Beat(LIFE, older.term.number), lambda said: said) == fenced
    assert older.attend() == fenced
    with pytest.raises(NotNowError, match="the root has another coordinator"):
        older.hosts.place("a", RUN, Member(0, 6, "r0", "a"), RunOptions())
    older.close()
    assert older.told == [fenced]
    assert isinstance(later.attend(older.term.number), Attached)
    assert not later.hosts.is_fenced


def test_without_the_look_it_would_tell_them_that_the_save_is_lost(lives: list[Life]) -> None:
    clock = HandClock()
    store = SharedBucket(clock.wall_s)
    lives.append(older := Life(store, clock, term=LooksAway))
    older.attend()
    older.declare(5)
    older.await_save()
    lives.append(Life(store, clock))
    clock.advance(2.0)
    older.hosts.tick()
    older.close()
    assert eventually(older.ended, "the end of the save", within_s=WAIT_S)


def test_an_agent_that_has_heard_of_a_higher_term_fences_the_older_one_off(lives: list[Life]) -> None:
    clock = HandClock()
    lives.append(older := Life(SharedBucket(clock.wall_s), clock))
    assert isinstance(older.attend(), Attached)
    higher = older.term.number + 1
    answer = older.attend(higher)
    assert answer == replace(Fenced(higher, ""), holder=f"a coordinator of term {higher}")
    assert older.hosts.is_fenced


def test_one_that_has_not_looked_since_tells_no_end_of_a_save_that_it_had_not_even_planned(lives: list[Life]) -> None:
    clock = HandClock()
    store = SharedBucket(clock.wall_s)
    lives.append(older := Life(store, clock))
    older.attend()
    older.declare(5)
    older.await_save()
    lives.append(Life(store, clock))
    older.close()  # which ends what is under way; the other may have published it, as another life of an agent told it
    assert older.ended() == []
    assert older.hosts.is_fenced
