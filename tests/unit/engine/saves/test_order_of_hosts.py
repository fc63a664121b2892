"""Saves begin at a new coordinator in the order in which each host carries them, also if the first has to be repeated.

They commit in that order: a later one before an earlier one would wait for ranks that wait for the earlier one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ckptd.engine.hosts.messages import (
    CarriedSave,
    DeclareHost,
    Fenced,
    FromCoordinator,
    Hello,
    HostDeclaration,
    RankPart,
)
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from tests.fakes.agents import RUN, WAIT_S
from tests.fakes.ranks import six_on_three_hosts
from tests.fakes.waiting import eventually
from tests.unit.engine.saves.test_attended import LIFE, Life


class Carrying(Life):
    """A coordinator that does not know yet what the ranks of host a hold, and the agent that carries two saves."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[FromCoordinator] = []
        self.ranks, self.of_hosts = six_on_three_hosts()

    def said(self, step: int) -> HostDeclaration:
        parts = []
        for rank in (0, 1):
            member = Member(rank, len(self.of_hosts), f"r{rank}", "a")
            ref = SaveRef(RUN, 0, step, rank=rank, incarnation=member.incarnation)
            digest = self.ranks.manifests[rank].digest
            declaration = Declaration(ref, f"q{step}.{rank}", len(self.of_hosts), digest, host="a")
            parts.append(RankPart(member, RunOptions(), declaration))
        return HostDeclaration(f"a.{step}", RUN, step, (0, 1), len(self.of_hosts), b"", 0, parts=tuple(parts))

    def hello(self, *steps: int) -> None:
        hello = Hello(LIFE, self.coordinator.root.id, 0, saves=tuple(CarriedSave(self.said(step)) for step in steps))
        self.hosts.attend(hello, lambda message, run: self.told.append(message), lambda said: said)

    def declare(self, step: int) -> None:
        self.hosts.hear(DeclareHost(LIFE, self.term, self.said(step)), lambda said: said)

    def hand_over(self) -> None:
        for rank in (0, 1):
            self.coordinator.manifests.add(self.ranks.manifests[rank])

    def begun(self) -> list[int | None]:
        return [save.save.step for view in self.coordinator.runs() for save in view.saves]


@pytest.fixture
def carrying() -> Iterator[Carrying]:
    made = Carrying()
    yield made
    made.coordinator.close()
    made.hosts.close()


def test_a_later_save_does_not_begin_before_an_earlier_one_that_has_to_be_said_again(carrying: Carrying) -> None:
    carrying.hello(30)
    eventually(lambda: any(isinstance(each, Fenced) for each in carrying.told), "the refusal", within_s=WAIT_S)
    carrying.hand_over()
    carrying.declare(40)
    carrying.declare(30)
    carrying.declare(40)
    eventually(lambda: len(carrying.begun()) == 2, carrying.begun, within_s=WAIT_S)
    assert carrying.begun() == [30, 40]


def test_what_is_not_carried_any_more_holds_nothing_back(carrying: Carrying) -> None:
    carrying.hello(30)
    eventually(lambda: any(isinstance(each, Fenced) for each in carrying.told), "the refusal", within_s=WAIT_S)
    carrying.hand_over()
    carrying.hello(40)  # 30 is over at the agent
    eventually(lambda: carrying.begun() == [40], carrying.begun, within_s=WAIT_S)
