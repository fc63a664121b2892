"""What hosts have in memory, as messages."""

from __future__ import annotations

import pytest

from ckptd.engine.hosts.memories import MOST_SAVES, MOST_SHARDS, InMemory, Where
from ckptd.errors import InvalidRequestError
from ckptd.wire import memories
from ckptd.wire.v1 import agent_pb2

SAVES = [InMemory("runs/r", "s1", {0: 1 << 40, 7: 5}), InMemory("runs/r", "s2", {0: 3})]


def test_it_comes_through():
    assert memories.saves_from_wire(memories.saves_to_wire(SAVES)) == SAVES
    where = Where("s2", {"a": {0: 3}, "b": {1: 9}})
    assert memories.where_from_wire(memories.where_to_wire(where)) == where
    assert memories.where_from_wire(agent_pb2.WhereReply()) == Where("", {})


def test_it_is_bounded():
    many = [InMemory("r", f"s{number}", dict.fromkeys(range(2 * MOST_SHARDS), 1)) for number in range(200)]
    told = memories.saves_to_wire(many)
    assert len(told) == MOST_SAVES
    assert told[-1].save == "s199"
    assert all(len(each.shards) == MOST_SHARDS for each in told)
    longer = agent_pb2.HeldSave(run="r", save="s", shards=[agent_pb2.HeldShard(shard=n) for n in range(2000)])
    found = memories.saves_from_wire([longer] * 100)
    assert len(found) == MOST_SAVES
    assert len(found[0].shards) == MOST_SHARDS


def test_what_is_no_run_is_refused():
    with pytest.raises(InvalidRequestError):
        memories.saves_from_wire([agent_pb2.HeldSave(run="../r", save="s")])
