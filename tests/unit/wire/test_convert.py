from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.replicas import MOST_PARTS, MOST_REMARKS, Compared, Remark
from ckptd.engine.saves.session import Phase
from ckptd.errors import InvalidRequestError
from ckptd.storage.base import Durability
from ckptd.wire import convert, versions
from ckptd.wire.v1 import common_pb2, save_pb2

SAVES = [
    SaveRef("runs/mnist", 3, 1200, "s-1", 2, "p1", 3, "abc"),
    SaveRef("r", 0, None, incarnation="x"),
    SaveRef("r", 1, 0, incarnation="x"),
    SaveRef("r", 1, (1 << 63) - 1, incarnation="x"),
]


@pytest.mark.parametrize("save", SAVES)
def test_an_identity_and_its_message_are_one_thing(save):
    sent = convert.save_to_wire(save).SerializeToString()
    assert convert.save_from_wire(common_pb2.SaveIdentity.FromString(sent)) == save


@pytest.mark.parametrize(
    "bad",
    [
        {"run": ""},
        {"run": "../x"},
        {"run": "/etc"},
        {"run": "a//b"},
        {"run": "a/.ckptd"},
        {"run": "a\0b"},
        {"run": "x" * 2000},
        {"epoch": -1},
        {"epoch": 1 << 60},
        {"step": -1},
        {"save_id": "a b"},
        {"save_id": "x" * 200},
        {"plan_id": "../p"},
        {"rank": -1},
        {"rank": 1 << 20},
        {"incarnation": ""},
        {"incarnation": "a\nb"},
    ],
)
def test_an_identity_that_makes_no_sense_is_refused(bad):
    message = convert.save_to_wire(SAVES[0])
    for field, value in bad.items():
        setattr(message, field, value)
    with pytest.raises(InvalidRequestError):
        convert.save_from_wire(message)


@pytest.mark.parametrize(
    "options",
    [
        RunOptions(),
        RunOptions("m", None, 0.5, True, "latest"),
        RunOptions(max_to_keep=1),
        RunOptions(keep_checkpoint_every_n_hours=None, retention="manager", save_relative_paths=False),
    ],
)
def test_options_and_their_message_are_one_thing(options):
    assert convert.options_from_wire(convert.options_to_wire(options)) == options


@pytest.mark.parametrize(
    "bad",
    [
        {"name": ""},
        {"name": "a/b"},
        {"name": ".hidden"},
        {"max_to_keep": -1},
        {"max_to_keep": 1 << 40},
        {"keep_checkpoint_every_n_hours": math.nan},
        {"keep_checkpoint_every_n_hours": -1.0},
        {"keep_checkpoint_every_n_hours": math.inf},
        {"latest_filename": "../checkpoint"},
        {"retention": "newest"},
        {"latest_filename": ""},
    ],
)
def test_options_that_make_no_sense_are_refused(bad):
    message = convert.options_to_wire(RunOptions())
    for field, value in bad.items():
        setattr(message, field, value)
    with pytest.raises(InvalidRequestError):
        convert.options_from_wire(message)


def test_a_join_and_its_message_are_one_thing():
    peer = versions.this_peer("inc")
    member = Member(2, 4, "inc", peer.host, peer.pid)
    request = convert.join_to_wire(peer, "runs/a", member, RunOptions(max_to_keep=3))
    assert convert.join_from_wire(request) == ("runs/a", member, RunOptions(max_to_keep=3))
    request.ClearField("options")
    assert convert.join_from_wire(request)[2] == RunOptions()


@pytest.mark.parametrize(("rank", "world_size"), [(-1, 4), (4, 4), (0, 0), (0, -1), (0, (1 << 16) + 1)])
def test_a_rank_outside_of_its_world_is_refused(rank, world_size):
    request = save_pb2.JoinRequest(peer=versions.this_peer("inc"), run="r", rank=rank, world_size=world_size)
    with pytest.raises(InvalidRequestError):
        convert.join_from_wire(request)


def test_leaving_says_who():
    request = save_pb2.LeaveRequest(peer=versions.this_peer("inc"), run="r", rank=3, epoch=7)
    run, member, epoch = convert.leave_from_wire(request)
    assert (run, member.rank, member.incarnation, epoch) == ("r", 3, "inc", 7)


DECLARATION = Declaration(SAVES[0], "req-1", 4, b"d" * 32, b"graph", True, 30.0, "m.ckpt", True)


@pytest.mark.parametrize("declaration", [DECLARATION, Declaration(SAVES[1], "req", 1, bytes(32))])
def test_a_declaration_and_its_message_are_one_thing(declaration):
    assert convert.declaration_from_wire(convert.declaration_to_wire(declaration)) == declaration


def test_remarks_and_their_message_are_one_thing():
    remarks = (Remark("a/b", (1 << 64) - 1, "[1, 2]"), Remark("c", 0, "3", is_outline=False))
    declaration = replace(DECLARATION, remarks=remarks, refuses_differences=True)
    message = convert.declaration_to_wire(declaration)
    assert convert.declaration_from_wire(message) == declaration
    message.remarks.add(name="many")
    assert len(convert.declaration_from_wire(message).remarks) == 3
    message.remarks.extend([message.remarks[0]] * MOST_REMARKS)
    with pytest.raises(InvalidRequestError):
        convert.declaration_from_wire(message)


def test_digests_and_their_message_are_one_thing():
    rows, digests = np.array([0, 2, 9]), np.array([1, (1 << 64) - 1, 0], np.uint64)
    message = convert.declaration_to_wire(replace(DECLARATION, compared=Compared(rows, digests)))
    declared = convert.declaration_from_wire(save_pb2.DeclareRequest.FromString(message.SerializeToString()))
    assert (declared.compared.rows.tolist(), declared.compared.digests.tolist()) == ([0, 2, 9], digests.tolist())


@pytest.mark.parametrize(
    "rows", [[-1, 0], [0, 0], [1, 0], [0, 1 << 40], [0], [0, 1, 2], range(MOST_PARTS + 1)], ids=lambda rows: len(rows)
)
def test_digests_of_what_is_no_row_are_refused(rows):
    message = convert.declaration_to_wire(DECLARATION)
    message.compared_parts = np.array(rows, "<i8").tobytes()
    message.compared_digests = bytes(16 if len(rows) < 4 else 8 * len(rows))
    with pytest.raises(InvalidRequestError):
        convert.declaration_from_wire(message)


@pytest.mark.parametrize(
    "bad",
    [
        {"request_id": ""},
        {"world_size": 0},
        {"world_size": 3},
        {"manifest_digest": b"short"},
        {"timeout_s": 0.0},
        {"timeout_s": math.nan},
        {"timeout_s": -math.inf},
        {"checkpoint_name": "../m"},
        {"meta_graph": bytes(convert.MAX_META_GRAPH_BYTES + 1)},
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(bad):
    message = convert.declaration_to_wire(DECLARATION)
    for field, value in bad.items():
        setattr(message, field, value)
    with pytest.raises(InvalidRequestError):
        convert.declaration_from_wire(message)


def test_a_patient_caller_waits_no_longer_than_a_week():
    message = convert.declaration_to_wire(DECLARATION)
    message.timeout_s = 1e300
    assert convert.declaration_from_wire(message).timeout_s == convert.MAX_TIMEOUT_S


CHECKPOINTS = [
    Checkpoint("/root/runs/a/m-1", 1, 5, 2, 1.5, 0.25, True, "s1", Durability.OBJECT_STORE),
    Checkpoint("/root/runs/a/m", None, 0, 1, 0.0),
    Checkpoint("/root/runs/a/m-0", 0, 0, 1, 0.0, durability=Durability.MEMORY),
]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_a_checkpoint_and_its_message_are_one_thing(checkpoint):
    message = convert.checkpoint_to_wire(checkpoint, "runs/a")
    assert convert.checkpoint_from_wire(message) == checkpoint
    assert checkpoint.prefix.endswith(message.key)


def test_an_unknown_durability_counts_as_the_least():
    assert convert.durability_from_wire(99) is Durability.MEMORY


def test_every_phase_has_a_word():
    words = {convert.phase_to_wire(phase) for phase in (None, *Phase)}
    assert words == set(save_pb2.SavePhase.values()) - {save_pb2.SAVE_PHASE_UNSPECIFIED}


@pytest.mark.parametrize("key", ["runs/a/m-1.index", "runs/a/m-1.data-00000-of-00001", "r/checkpoint"])
def test_objects_of_a_run_may_be_read(key):
    assert convert.key_from_wire(key) == key


@pytest.mark.parametrize(
    "key", ["", ".ckptd/id", "r/.ckptd/x.json", "../etc/passwd", "/etc/passwd", "r/..", "r/\0", "r\\x"]
)
def test_what_is_hidden_or_outside_of_the_root_may_not(key):
    with pytest.raises(InvalidRequestError):
        convert.key_from_wire(key)
