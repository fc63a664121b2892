from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.errors import InvalidRequestError
from ckptd.format.crc32c import crc32c
from ckptd.wire import chunks
from ckptd.wire.chunks import Chunk
from ckptd.wire.v1 import common_pb2, read_pb2, save_pb2

CHUNKS = [
    (0, 0, b""),
    (0, 0, b"x"),
    (1, 0, b""),
    (0, 7, b""),
    (127, 1, b"a" * 127),
    (128, 0xFFFFFFFF, b"b" * 128),
    ((1 << 63) - 1, 0x80000000, b"c" * 16384),
]


def as_protobuf(position: int, crc: int, data: bytes) -> bytes:
    return save_pb2.WriteRequest(chunk=save_pb2.Chunk(position=position, crc32c=crc, data=data)).SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize(("position", "crc", "data"), CHUNKS)
def test_a_chunk_and_its_message_are_one_thing(position, crc, data):
    encoded = chunks.encode_write(Chunk(position, crc, memoryview(data)))
    assert encoded == as_protobuf(position, crc, data)
    decoded = chunks.decode_write(encoded)
    assert isinstance(decoded, Chunk)
    assert (decoded.position, decoded.crc32c, bytes(decoded.data)) == (position, crc, data)


@given(st.integers(0, (1 << 63) - 1), st.integers(0, (1 << 32) - 1), st.binary(max_size=300))
def test_protobuf_reads_every_chunk_of_ours_and_we_read_its(position, crc, data):
    ours = chunks.encode_write(Chunk(position, crc, data))
    parsed = save_pb2.WriteRequest.FromString(ours).chunk
    assert (parsed.position, parsed.crc32c, parsed.data) == (position, crc, data)
    theirs = chunks.decode_write(as_protobuf(position, crc, data))
    assert isinstance(theirs, Chunk)
    assert (theirs.position, theirs.crc32c, bytes(theirs.data)) == (position, crc, data)


def test_the_data_of_a_chunk_is_a_view_into_the_message():
    message = chunks.encode_write(Chunk(5, crc32c(b"abc"), b"abc"))
    decoded = chunks.decode_write(message)
    assert isinstance(decoded, Chunk)
    assert isinstance(decoded.data, memoryview)
    assert decoded.data.obj is message
    assert decoded.data.readonly


def test_an_array_of_wider_elements_is_sent_as_its_bytes():
    view = memoryview(b"\1\0\0\0\2\0\0\0").cast("I")
    decoded = chunks.decode_write(chunks.encode_write(Chunk(0, 0, view)))
    assert isinstance(decoded, Chunk)
    assert bytes(decoded.data) == b"\1\0\0\0\2\0\0\0"


def test_another_order_of_fields_is_a_chunk_too():
    inner = b"\x1a\x03abc" + b"\x15\x07\x00\x00\x00" + b"\x08\x05"
    decoded = chunks.decode_write(b"\x12" + bytes([len(inner)]) + inner)
    assert isinstance(decoded, Chunk)
    assert (decoded.position, decoded.crc32c, bytes(decoded.data)) == (5, 7, b"abc")


@pytest.mark.parametrize(
    "message",
    [
        save_pb2.WriteRequest(open=save_pb2.WriteOpen(save=common_pb2.SaveIdentity(run="r", step=1), shard=2)),
        save_pb2.WriteRequest(end=save_pb2.LaneEnd(first_segment=3, crcs=b"1234", last=True)),
        save_pb2.WriteRequest(),
    ],
)
def test_everything_but_chunks_goes_through_protobuf(message):
    assert chunks.decode_write(chunks.encode_write(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        b"\x12",
        b"\x12\x05\x1a\x03ab",
        b"\xff" * 11,
        b"\x12\x0b\x08" + b"\xff" * 9 + b"\x01",  # position -1
        b"\x12\x03\x15\x01\x02",
    ],
)
def test_a_malformed_message_is_the_callers_error(message):
    with pytest.raises(InvalidRequestError):
        chunks.decode_write(message)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_message_or_a_typed_error(data):
    try:
        decoded = chunks.decode_write(b"\x12" + data)
    except InvalidRequestError:
        return
    if isinstance(decoded, Chunk):
        parsed = save_pb2.WriteRequest.FromString(b"\x12" + data)
        assert (decoded.position, decoded.crc32c, bytes(decoded.data)) == (
            parsed.chunk.position,
            parsed.chunk.crc32c,
            parsed.chunk.data,
        )


@pytest.mark.parametrize("size", [1, 127, 70_000, chunks.CHUNK_BYTES, chunks.CHUNK_BYTES + 1, 3 * chunks.CHUNK_BYTES])
def test_blocks_and_their_messages_are_one_thing(size):
    data = np.random.default_rng(size).bytes(size)

    def fill(places):
        at = 0
        for place in places:
            place[:] = data[at : at + len(place)]
            at += len(place)
        assert at == size

    messages = chunks.encode_blocks(size, fill)
    assert b"".join(bytes(chunks.decode_read_reply(message)) for message in messages) == data
    for number, message in enumerate(messages):
        part = data[number * chunks.CHUNK_BYTES : (number + 1) * chunks.CHUNK_BYTES]
        assert message == read_pb2.ReadReply(data=part).SerializeToString()


def test_without_bytes_there_is_no_message():
    assert chunks.encode_blocks(0, lambda places: None) == []


def test_the_description_of_an_object_is_a_message():
    described = read_pb2.ReadReply(object_size=9, modified_at=1.5, version="v")
    assert chunks.decode_read_reply(described.SerializeToString()) == described
    with pytest.raises(InvalidRequestError):
        chunks.decode_read_reply(b"\x0a\x05abc")
