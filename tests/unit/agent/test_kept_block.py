"""A block is kept as the messages in which it travels: what is passed on is the very message that came."""

from __future__ import annotations

import numpy as np
import pytest

from ckptd.agent.kept_block import KeptBlock
from ckptd.wire import chunks
from ckptd.wire.chunks import CHUNK_BYTES
from ckptd.wire.v1 import read_pb2

DATA = np.random.default_rng(3).bytes(2 * CHUNK_BYTES + 777)


def block() -> KeptBlock:
    def fill(places: list[memoryview]) -> None:
        at = 0
        for place in places:
            place[:] = DATA[at : at + len(place)]
            at += len(place)

    return KeptBlock.filled(len(DATA), fill)


@pytest.mark.parametrize(
    ("begin", "end"), [(0, len(DATA)), (1, 5), (CHUNK_BYTES - 1, CHUNK_BYTES + 1), (7, 1 << 40), (len(DATA), 1 << 40)]
)
def test_any_part_of_it_is_read(begin, end):
    assert b"".join(block().views(begin, end)) == DATA[begin:end]


def test_a_whole_message_is_passed_on_without_a_copy_and_a_part_of_it_is_encoded():
    kept = block()
    whole = list(kept.views(0, len(DATA)))
    messages = [chunks.message_of(view) for view in whole]
    assert all(message is view.obj for message, view in zip(messages, whole, strict=True))
    assert b"".join(read_pb2.ReadReply.FromString(message).data for message in messages) == DATA
    for part in kept.views(5, CHUNK_BYTES + 9):
        message = chunks.message_of(part)
        assert message is not part.obj
        assert read_pb2.ReadReply.FromString(message).data == part
    again = KeptBlock([chunks.data_of(message) for message in messages])
    assert [view.obj for view in again.views(0, len(DATA))] == messages


def test_a_block_that_came_in_other_pieces_is_read_as_well():
    kept = KeptBlock([memoryview(DATA)[at : at + 1_000_003] for at in range(0, len(DATA), 1_000_003)])
    assert kept.tobytes() == DATA
    assert b"".join(map(chunks.data_of, map(chunks.message_of, kept.views(3, 1 << 40)))) == DATA[3:]


def test_data_that_looks_like_a_message_is_not_taken_for_one():
    message = chunks.message_of(memoryview(b"abc"))
    assert read_pb2.ReadReply.FromString(chunks.message_of(memoryview(message))).data == message
