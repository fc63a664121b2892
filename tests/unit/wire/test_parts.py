"""What agents and their coordinator tell each other may be longer than a message may be."""

from __future__ import annotations

import pytest

from ckptd.engine.hosts.messages import AgentLife, Fenced, Hello, SaveEnded
from ckptd.errors import InvalidRequestError
from ckptd.wire import agents
from ckptd.wire.parts import MOST_SAID_BYTES, PART_BYTES, Joined, in_parts
from ckptd.wire.v1 import agent_pb2

LIFE = AgentLife("h1", "i1", 12.5, "boot-3")
LONG = "x" * (5 * PART_BYTES // 2)


@pytest.mark.parametrize(
    ("long", "short"),
    [
        (
            agents.from_coordinator_to_wire(SaveEnded(8, "q", "s1", LONG)),
            agents.from_coordinator_to_wire(Fenced(8, "x")),
        ),
        (
            agents.from_agent_to_wire(Hello(LIFE, "root", 7, (LONG,))),
            agents.from_agent_to_wire(Hello(LIFE, "root", 7)),
        ),
    ],
    ids=["told", "said"],
)
def test_what_is_too_long_for_one_message_comes_in_parts(long, short):
    parts = in_parts(long)
    assert len(parts) == 3
    assert max(part.ByteSize() for part in parts) < PART_BYTES + 100
    joined = Joined(type(long), MOST_SAID_BYTES)
    for _ in range(2):
        assert [joined.add(part) for part in parts] == [None, None, long]
    assert in_parts(short) == [short]
    assert joined.add(short) is short


def test_parts_that_are_no_message_or_too_much_are_refused():
    joined = Joined(agent_pb2.AgentMessage, 100)
    for data, why in ((b"\xff", "no AgentMessage"), (bytes(101), "too long")):
        with pytest.raises(InvalidRequestError, match=why):
            joined.add(agent_pb2.AgentMessage(part=agent_pb2.MessagePart(data=data, last=True)))
