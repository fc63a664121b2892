"""Why a save cannot go on without a host whose agent is gone: by name, with its ranks and what they owe."""

from __future__ import annotations

import pytest

from ckptd.engine.hosts.messages import AgentLife, Receipt
from ckptd.engine.lanes.elsewhere import RemoteShard
from ckptd.engine.lanes.plan import plan
from ckptd.engine.manifest import Manifest, Part
from ckptd.engine.saves import session as machine
from ckptd.engine.saves.claim import Claim
from ckptd.engine.saves.gone_hosts import why_gone
from ckptd.engine.saves.session import Session
from ckptd.format.slices import Box
from ckptd.storage.base import Durability

HOSTS = ("a", "a", "b", "b")
MANIFESTS = [Manifest.of([Part(f"t{rank}", 4, (1000,), Box((0,), (1000,)), 1000)]) for rank in range(4)]


def claims(*ranks):
    return {rank: Claim(f"q{rank}", f"i{rank}", b"", MANIFESTS[rank], None, host=HOSTS[rank]) for rank in ranks}


def declared(*ranks):
    session = Session(4)
    for rank in ranks:
        session, _ = machine.step(session, machine.Declared(rank))
    return session


def filling():
    """All have declared, and each host writes a shard."""
    layout = plan(MANIFESTS, 1, hosts=HOSTS)
    shards = [
        RemoteShard(layout, shard, f"k{shard}", "s", durability=Durability.LOCAL_DISK, now=lambda: 0.0)
        for shard in range(2)
    ]
    planned = machine.Planned(2, frozenset(layout.lane_segments))
    return machine.step(declared(*range(4)), planned)[0], shards


def agent_of(rank):
    return HOSTS[rank]


@pytest.mark.parametrize("gone", [{}, {"c": 9.0}])
def test_a_host_that_is_there_or_has_no_part_ends_nothing(gone):
    session, shards = filling()
    assert why_gone(session, claims(*range(4)), shards, gone, agent_of) is None
    assert why_gone(declared(0), claims(0), [], gone, agent_of) is None


def test_before_the_plan_both_are_told_what_was_declared_and_what_was_not():
    assert why_gone(declared(0, 2), claims(0, 2), [], {"b": 16.0}, agent_of) == (
        "the agent on b is gone 16 s; rank 2 owed 1.0 kB; rank 3 had not declared"
    )
    assert why_gone(declared(0), claims(0), [], {"b": 16.0}, agent_of) == (
        "the agent on b is gone 16 s; ranks 2-3 had not declared"
    )


def test_after_the_plan_it_is_what_the_hosts_shard_lacks():
    session, shards = filling()
    shards[1].note_progress({2: 0, 3: 500})
    assert why_gone(session, claims(*range(4)), shards, {"b": 16.0}, agent_of) == (
        "the agent on b is gone 16 s; ranks 2-3 owed 500 B"
    )
    both = why_gone(session, claims(*range(4)), shards, {"b": 16.0, "a": 20.0}, agent_of)
    assert (
        both == "the agent on a is gone 20 s; ranks 0-1 owed 2.0 kB; the agent on b is gone 16 s; ranks 2-3 owed 500 B"
    )


def test_all_bytes_without_a_receipt_are_not_enough_and_with_one_the_host_may_go():
    session, shards = filling()
    shards[1].note_progress({2: 0, 3: 0})
    assert why_gone(session, claims(*range(4)), shards, {"b": 16.0}, agent_of) == (
        "the agent on b is gone 16 s; ranks 2-3 owed 0 B"
    )
    sums = bytes(4 * (shards[1].rows.stop - shards[1].rows.start))
    receipt = Receipt("s", AgentLife("b", "b-1"), 1, "k1", 2000, "v", Durability.LOCAL_DISK, sums)
    assert shards[1].take(receipt)
    for rank in (2, 3):
        session, _ = machine.step(session, machine.LaneEnded(rank, 1))
    assert why_gone(session, claims(*range(4)), shards, {"b": 16.0}, agent_of) is None
