"""What agents and their coordinator tell each other comes through the wire as it was said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.hosts.messages import (
    AgentLife,
    Attached,
    Beat,
    CarriedSave,
    DeclareHost,
    Fenced,
    Go,
    HeardEnd,
    Hello,
    HostDeclaration,
    NotYet,
    Owed,
    PartFailed,
    PartSealed,
    RankPart,
    Receipt,
    Replaced,
    SaveEnded,
)
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.lanes.host_share import part_of
from ckptd.engine.lanes.plan import plan
from ckptd.errors import InvalidRequestError, StorageFullError
from ckptd.storage.base import Durability
from ckptd.storage.pace import UploadLimits
from ckptd.wire import agents, shares
from ckptd.wire.v1 import agent_pb2
from tests.fakes.ranks import six_on_three_hosts

LIFE = AgentLife("h1", "i1", 12.5, "boot-3", "`ckptd run` on n1")
EARLIER_LIFE = replace(LIFE, started_by="")  # as earlier versions tell it
MEMBER = Member(2, 6, "r2", "h1", 4711)
SAID = Declaration(SaveRef("runs/r", 3, 5, rank=2, incarnation="r2"), "q2", 6, bytes(32), overwrite=True)
DECLARED = HostDeclaration(
    "q",
    "runs/r",
    5,
    (2, 3),
    6,
    bytes(range(32)),
    1 << 40,
    1,
    7,
    (RankPart(MEMBER, RunOptions(max_to_keep=3), SAID),),
    b"known",
)
RECEIPT = Receipt("s1", LIFE, 1, "runs/r/m-5.data-1", 64, "v", Durability.OBJECT_STORE, b"\x01\0\0\0\xff\xff\xff\xff")
TOLD_BY_AGENT = [
    Hello(LIFE, "root", 7, ("h1:7070", "h1b:7070"), (("zone", "a"),), (2, 3), ()),
    Hello(LIFE, "root", 7, saves=(CarriedSave(DECLARED), CarriedSave(DECLARED, "s1", b"d", (RECEIPT,)))),
    Hello(LIFE, "root", 7, saves=(CarriedSave(replace(DECLARED, step=None), "s1", b"d", ()),)),
    Beat(LIFE, 7, is_last=True),
    Beat(LIFE, 7, (Owed("s1", 1 << 40, ((2, 1 << 39), (5, 1 << 39))),), ("runs/r/m-5",)),
    Beat(LIFE, 7, ends=(HeardEnd("s1", "q"), HeardEnd("s2", "q2"))),
    DeclareHost(LIFE, 7, DECLARED),
    PartSealed(LIFE, 7, "q", "s1", (RECEIPT,)),
    PartSealed(LIFE, 7, "q", "s1", ()),
    PartFailed(LIFE, 7, "q", "", "rank 3 is gone"),
]
PUBLISHED = Checkpoint("/root/runs/r/m-5", 5, 64, 2, 12.0, 1.5, save_id="s1")
TOLD_BY_COORDINATOR = [
    Attached(7, 15.0),
    Attached(7, 15.0, ("s1", "s2")),
    Fenced(8, "another coordinator"),
    Replaced(7, LIFE),
    NotYet(7, "q", "agent has 1 save under way"),
    Go(7, "q", "s1", 3, None, "", 0, b"d", prefix_key="runs/r/m-5", attempt=2),
    Go(7, "q", "s1", 3, None, "", 0, b"d", limits=UploadLimits(64 << 20, 4, 3.0)),
    SaveEnded(7, "q", "s1", "m-5", checkpoint=PUBLISHED),
    SaveEnded(7, "q", "s1", "m-5", checkpoint=PUBLISHED, index_crc32c=0xFFFFFFFF),
    SaveEnded(7, "q", "", "", "rank 3 is gone", is_known=False),
]


@pytest.mark.parametrize("message", TOLD_BY_AGENT, ids=lambda each: type(each).__name__)
def test_what_an_agent_tells_comes_through(message):
    data = agents.from_agent_to_wire(message).SerializeToString()
    told = agents.from_agent_from_wire(agent_pb2.AgentMessage.FromString(data))
    assert told == message
    if isinstance(message, DeclareHost):
        assert isinstance(told, DeclareHost)
        assert told.declaration.parts == message.declaration.parts
        assert told.declaration.since_term == message.declaration.since_term
        assert told.declaration.known_layout == message.declaration.known_layout


@pytest.mark.parametrize(
    ("save", "is_sole", "ends"), [("s1", True, (HeardEnd("s1", "q"),)), ("s1", False, ()), ("", True, ())]
)
def test_what_agents_of_earlier_versions_tell_of_an_end_is_understood(save, is_sole, ends):
    life = agent_pb2.AgentLife(host=LIFE.host, incarnation=LIFE.incarnation, born=LIFE.born, boot=LIFE.boot)
    seen = agent_pb2.EndSeen(agent=life, term=7, save=save, request_id="q", is_sole=is_sole)
    assert agents.from_agent_from_wire(agent_pb2.AgentMessage(end_seen=seen)) == Beat(EARLIER_LIFE, 7, ends=ends)


@pytest.mark.parametrize("message", TOLD_BY_COORDINATOR, ids=lambda each: type(each).__name__)
def test_what_a_coordinator_tells_comes_through(message):
    data = agents.from_coordinator_to_wire(message, "runs/r").SerializeToString()
    told = agents.from_coordinator_from_wire(agent_pb2.CoordinatorMessage.FromString(data))
    assert told == message
    if isinstance(message, Go):
        assert isinstance(told, Go)
        assert told.limits == message.limits
    if isinstance(message, SaveEnded):
        assert isinstance(told, SaveEnded)
        assert (told.checkpoint, told.index_crc32c) == (message.checkpoint, message.index_crc32c)


@pytest.mark.parametrize("limits", [UploadLimits(-1), UploadLimits(2 << 30), UploadLimits(requests_per_s=1e-9)])
def test_a_pace_at_which_nothing_could_be_sent_is_refused(limits):
    go = agents.from_coordinator_to_wire(Go(7, "q", "s1", 3, None, "", 0, b"d", limits=limits))
    with pytest.raises(InvalidRequestError, match="told to send in a way that there is not"):
        agents.from_coordinator_from_wire(go)


def test_what_a_host_is_told_to_write_comes_through():
    ranks, hosts = six_on_three_hosts()
    share = part_of(plan(ranks.manifests, 1, hosts=hosts), "b")
    size = share.layout.shard_sizes[share.shard]
    go = Go(7, "q", "s1", 3, share.shard, "runs/r/m-5.data-1", size, b"d", share.layout, "runs/r/m-5", 1)
    data = agents.from_coordinator_to_wire(go).SerializeToString()
    told = agents.from_coordinator_from_wire(agent_pb2.CoordinatorMessage.FromString(data))
    assert told == go
    assert isinstance(told, Go)
    assert told.share is not None
    for name, value in vars(share.layout).items():
        ours = getattr(told.share, name)
        same = np.array_equal(ours, value) if isinstance(value, np.ndarray) else ours == value
        assert same or name in ("replicas", "shard_sizes"), name
    assert told.share.shard_sizes[share.shard] == size
    assert told.share.rows_of(share.shard) == share.layout.rows_of(share.shard)


def test_a_column_takes_no_more_room_than_its_numbers():
    ranks, hosts = six_on_three_hosts()
    layout = part_of(plan(ranks.manifests, 1, hosts=hosts), "b").layout
    message = shares.share_to_wire(layout)
    assert len(message.segment_is_lengths) == 1 + len(layout.segment_size)
    wide = replace(layout, segment_size=layout.segment_size + (1 << 40))
    assert len(shares.share_to_wire(wide).segment_size) == 1 + 8 * len(layout.segment_size)


def test_a_share_that_does_not_fit_into_its_shard_is_refused():
    ranks, hosts = six_on_three_hosts()
    share = part_of(plan(ranks.manifests, 1, hosts=hosts), "b")
    size = share.layout.shard_sizes[share.shard]
    message = shares.share_to_wire(share.layout)
    with pytest.raises(InvalidRequestError, match="does not fit into its shard"):
        shares.share_from_wire(message, share.shard, 3, size - 1)
    width = message.segment_size[0]
    message.segment_size = message.segment_size[:-width]
    with pytest.raises(InvalidRequestError, match="differ in length"):
        shares.share_from_wire(message, share.shard, 3, size)
    for cut in (b"", b"\x03abc", b"\x04abc"):
        message.segment_size = cut
        with pytest.raises(InvalidRequestError, match="cut off"):
            shares.share_from_wire(message, share.shard, 3, size)


def test_what_is_said_by_nobody_or_of_nothing_is_refused():
    with pytest.raises(InvalidRequestError, match="unknown here"):
        agents.from_agent_from_wire(agent_pb2.AgentMessage())
    with pytest.raises(InvalidRequestError, match="unknown here"):
        agents.from_coordinator_from_wire(agent_pb2.CoordinatorMessage())
    named = agents.from_agent_to_wire(Beat(replace(LIFE, host="h\n1"), 7))
    with pytest.raises(InvalidRequestError, match="a printable name"):
        agents.from_agent_from_wire(named)


def test_how_a_store_refused_a_part_keeps_its_kind():
    failed = PartFailed(LIFE, 7, "q", "s1", "the disk is full", error=StorageFullError("the disk is full", key="r/m-1"))
    heard = agents.from_agent_from_wire(agents.from_agent_to_wire(failed))
    assert isinstance(heard, PartFailed)
    assert isinstance(heard.error, StorageFullError)
    assert (str(heard.error), heard.error.key) == (str(failed.error), "r/m-1")
