"""An agent says what it has to say by the call by which it attends; what is wrong with one message ends no call."""

from __future__ import annotations

import contextlib
import queue
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ckptd.engine.hosts.messages import (
    AgentLife,
    Attached,
    Beat,
    CarriedSave,
    DeclareHost,
    FromAgent,
    FromCoordinator,
    Hello,
    HostDeclaration,
    RankPart,
)
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.wire import agents, methods
from ckptd.wire.chunks import MAX_MESSAGE_BYTES
from ckptd.wire.parts import in_parts
from ckptd.wire.v1 import agent_pb2
from tests.fakes.served_hosts import WAIT_S, ServedHosts, served_hosts

LIFE = AgentLife("a", "one")


@pytest.fixture(scope="module")
def hosts() -> Iterator[ServedHosts]:
    with tempfile.TemporaryDirectory(prefix="ckptd-") as base, served_hosts(Path(base), []) as running:
        yield running


class Attending:
    """One call of `Attend`."""

    def __init__(self, hosts: ServedHosts, life: AgentLife, saves: tuple[CarriedSave, ...] = ()) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.say(Hello(life, hosts.coordinator.engine.root.id, 0, saves=saves))
        stub = hosts.coordinator.stub(methods.AGENT)
        self._call = stub.Attend(iter(self._requests.get, None), timeout=WAIT_S)

    def say(self, message: FromAgent) -> None:
        for part in in_parts(agents.from_agent_to_wire(message)):
            self._requests.put(part)

    def say_something_else(self) -> None:
        self._requests.put(agent_pb2.AgentMessage())

    def hear(self) -> FromCoordinator:
        return agents.from_coordinator_from_wire(next(self._call))

    def end(self) -> None:
        self._call.cancel()
        self._requests.put(None)


@contextlib.contextmanager
def attending(hosts: ServedHosts, life: AgentLife = LIFE, saves: tuple[CarriedSave, ...] = ()) -> Iterator[Attending]:
    call = Attending(hosts, life, saves)
    try:
        yield call
    finally:
        call.end()


def declared(rank: int, step: int, life: AgentLife, meta_graph: bytes | None = None) -> HostDeclaration:
    """What a rank of a world of two declares, with nothing that the coordinator has."""
    request = f"{life.incarnation}-{step}"
    save = SaveRef("r", 0, step, rank=rank, incarnation=request)
    part = Declaration(save, request, 2, bytes(32), meta_graph=meta_graph)
    member = Member(rank, 2, request, life.host, 1)
    return HostDeclaration(request, "r", step, (rank,), 2, bytes(32), 8, parts=(RankPart(member, RunOptions(), part),))


def test_a_beat_is_answered_by_the_same_call(hosts):
    with attending(hosts) as call:
        first = call.hear()
        assert isinstance(first, Attached)
        assert first.hears
        for _ in range(2):
            call.say(Beat(LIFE, first.term))
            assert call.hear() == first


def test_what_is_wrong_with_one_message_ends_neither_the_call_nor_the_next_message(hosts):
    other = AgentLife("b", "two")
    with attending(hosts) as call, attending(hosts, other) as others:
        first = call.hear()
        assert others.hear() == first
        call.say_something_else()
        call.say(Beat(other, first.term))  # in the name of another host
        call.say(Hello(LIFE, "root", 0))
        call.say(Beat(LIFE, first.term))
        assert call.hear() == first
        others.say(Beat(other, first.term))
        assert others.hear() == first


def test_what_does_not_count_is_answered_by_a_refusal(hosts):
    with attending(hosts) as call:
        term = call.hear().term
        call.say(DeclareHost(LIFE, term - 1, declared(0, 1, LIFE)))
        refused = call.hear()
        assert (type(refused).__name__, refused.term) == ("Fenced", term)


def test_a_hello_with_more_saves_than_a_message_holds_is_heard_whole(hosts):
    life = AgentLife("c", "three")
    graph = bytes(MAX_MESSAGE_BYTES // 2)
    saves = tuple(CarriedSave(declared(0, step, life, graph)) for step in (1, 2, 3))
    with attending(hosts, life, saves) as call:
        assert isinstance(call.hear(), Attached)
        # It has none of the manifests: it asks for all of it to be said again, which only one that heard it can do.
        assert type(call.hear()).__name__ == "Fenced"
