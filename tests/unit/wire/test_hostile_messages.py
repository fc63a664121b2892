"""Whatever bytes a stranger sends as a message: a value that makes sense, or `InvalidRequestError`."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.errors import InvalidRequestError
from ckptd.wire import convert, lanes, manifests, methods, versions
from ckptd.wire.v1 import save_pb2
from tests.unit.wire.test_manifests import MANIFESTS

SAVE = SaveRef("runs/a", 1, 2, "s", 1, "p", 0, "inc")


def receive_manifest(message):
    parts = manifests.ManifestParts(limit_bytes=1 << 20)
    parts.add(save_pb2.ManifestPart(digest=b"d" * 32, data=message.SerializeToString()))
    parts.finish()


TAKEN = [
    (
        convert.join_to_wire(versions.this_peer("inc"), "runs/a", Member(0, 2, "inc"), RunOptions()),
        convert.join_from_wire,
    ),
    (convert.declaration_to_wire(Declaration(SAVE, "r", 2, bytes(32), b"graph")), convert.declaration_from_wire),
    (convert.save_to_wire(SAVE), convert.save_from_wire),
    (manifests.manifest_to_wire(MANIFESTS[2]), lambda it: manifests.manifest_from_bytes(it.SerializeToString())),
    (manifests.manifest_to_wire(MANIFESTS[3]), receive_manifest),
    (next(lanes.assignment_to_wire(type("A", (), {"save": SAVE, "key": "k", "num_shards": 1, "lanes": ()})())),
     lambda reply: lanes.assignment_from_wire([reply])),
    (save_pb2.DeclareReply(lane=save_pb2.LanePart(shard=1, items=[1], item_offsets=[2], sizes=[3], last=True)),
     lambda reply: lanes.assignment_from_wire(
         [save_pb2.DeclareReply(assignment=save_pb2.Assignment(save=convert.save_to_wire(SAVE), num_lanes=1)), reply])),
]  # fmt: skip


@pytest.mark.parametrize(("message", "take"), TAKEN)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_mutilated_message_is_a_value_or_a_typed_error(message, take, data):
    mutated = bytearray(message.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(mutated) - 1, 0)))
        match data.draw(st.sampled_from(["change", "insert", "cut"])):
            case "change" if mutated:
                mutated[at] = data.draw(st.integers(0, 255))
            case "insert":
                mutated[at:at] = data.draw(st.binary(max_size=12))
            case _:
                del mutated[at:]
    with contextlib.suppress(InvalidRequestError):
        take(methods.decoder(type(message))(bytes(mutated)))


@given(st.text(max_size=60))
def test_no_text_leads_out_of_the_root(text):
    try:
        key = convert.key_from_wire(text)
    except InvalidRequestError:
        return
    parts = key.split("/")
    assert all(part and not part.startswith(".") and "\\" not in part and "\0" not in part for part in parts)


def test_numbers_at_every_edge_are_checked():
    for field in ("epoch", "step", "rank"):
        for value in (-1, -(1 << 31)):
            message = convert.save_to_wire(SAVE)
            setattr(message, field, value)
            with pytest.raises(InvalidRequestError, match=field):
                convert.save_from_wire(message)
