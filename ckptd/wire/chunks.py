"""The bytes of tensors on the wire: protobuf messages written and read by hand, so that data is copied once.

`SaveService.Write` carries ``WriteRequest{chunk}`` and `ReadService.Read` carries ``ReadReply{data}``, thousands per
second. Protobuf would copy their data twice on each side. Both messages end in one ``bytes`` field, so a few bytes of
header before the raw data are the whole message, and what follows the header can be used in place. Anything that
does not look like what our own encoder makes goes through protobuf, which accepts every spelling of a message.

Layout of a chunk (fields that are zero are left out, as protobuf does)::

    12 [size: varint] { 08 [position: varint] } { 15 [crc32c: fixed32] } { 1a [size: varint] [data] }

Source: the encoding section of the Protocol Buffers documentation; ``protos/ckptd/wire/v1/{save,read}.proto``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from io import SEEK_CUR, BytesIO

from google.protobuf.message import DecodeError

from ckptd.errors import InvalidRequestError
from ckptd.storage.base import Buffer
from ckptd.wire.v1 import read_pb2, save_pb2

CHUNK_BYTES = 2 << 20
"""How much data one message carries; both ends cut lanes and objects by it. Larger ones are no faster."""

MAX_MESSAGE_BYTES = 4 << 20
"""The largest message either end accepts."""

_CHUNK, _POSITION, _CRC32C, _DATA = 0x12, 0x08, 0x15, 0x1A  # WriteRequest.chunk and the fields of Chunk
_READ_DATA = 0x0A  # ReadReply.data
_FIXED32 = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of a lane from `position` on, with the checksum taken when they were captured.

    After decoding, `data` is a view into the received message: it lives as long as the view does and is read-only.
    """

    position: int
    crc32c: int
    data: Buffer


WriteMessage = Chunk | save_pb2.WriteRequest
"""What a Write stream carries towards the daemon: data as `Chunk`, everything else as protobuf made it."""


def encode_write(message: WriteMessage) -> bytes:
    """Return the bytes of a message; the data of a chunk is copied once, into the result."""
    if not isinstance(message, Chunk):
        return bytes(message.SerializeToString())
    data = memoryview(message.data).cast("B")
    fields = bytearray()
    if message.position:
        fields.append(_POSITION)
        _put_varint(fields, message.position)
    if message.crc32c:
        fields.append(_CRC32C)
        fields += _FIXED32.pack(message.crc32c)
    if len(data):
        fields.append(_DATA)
        _put_varint(fields, len(data))
    header = bytearray((_CHUNK,))
    _put_varint(header, len(fields) + len(data))
    return b"".join((header, fields, data))


def decode_write(message: bytes | memoryview) -> WriteMessage:
    """Read a message of a Write stream; a chunk's data stays where it is.

    Raises `InvalidRequestError` for bytes that are no such message, and for a chunk with a negative position.
    """
    chunk = _decode_plain_chunk(message)
    if chunk is not None:
        return chunk
    try:
        parsed = save_pb2.WriteRequest.FromString(bytes(message))
    except DecodeError as e:
        raise InvalidRequestError(f"a message of {len(message)} bytes on a Write stream is no WriteRequest") from e
    if parsed.WhichOneof("kind") != "chunk":
        return parsed
    if parsed.chunk.position < 0:
        raise InvalidRequestError("a chunk cannot start before its lane", actual=parsed.chunk.position)
    return Chunk(parsed.chunk.position, parsed.chunk.crc32c, memoryview(parsed.chunk.data))


def encode_blocks(size: int, fill: Callable[[list[memoryview]], None]) -> list[bytes]:
    """Return messages ``ReadReply{data}`` for `size` bytes of data; `fill` puts the data into its places in them.

    `BytesIO` lets its content be written in place and then gives it away: what is read from a file is not copied again.
    """
    messages = []
    with ExitStack() as opened:
        places = []
        for at in range(0, size, CHUNK_BYTES):
            message, place = _empty_block(min(CHUNK_BYTES, size - at), opened)
            messages.append(message)
            places.append(place)
        fill(places)
    return [message.getvalue() for message in messages]


def _empty_block(size: int, opened: ExitStack) -> tuple[BytesIO, memoryview]:
    header = bytearray((_READ_DATA,))
    _put_varint(header, size)
    message = BytesIO()
    message.write(header)
    message.seek(size - 1, SEEK_CUR)
    message.write(b"\0")
    whole = opened.enter_context(message.getbuffer())
    return message, opened.enter_context(whole[len(header) :])


def data_of(message: bytes) -> memoryview:
    """Return a view of the data of a message that `encode_blocks` has made."""
    _, at = _take_varint(message, 1)
    return memoryview(message)[at:]


def message_of(data: memoryview) -> bytes:
    """Return the message ``ReadReply{data}`` with these bytes: the one that they are the data of, if there is one."""
    message = data.obj
    if isinstance(message, bytes) and message[:1] == bytes((_READ_DATA,)):
        size, at = _take_varint(message, 1)
        if at and at + size == len(message) and size == len(data):
            return message
    header = bytearray((_READ_DATA,))
    _put_varint(header, len(data))
    return b"".join((header, data))


def decode_read_reply(message: bytes) -> memoryview | read_pb2.ReadReply:
    """Read a message of a Read stream: a view of the data, or the description that precedes it."""
    if message and message[0] == _READ_DATA:
        size, at = _take_varint(message, 1)
        if at and at + size == len(message):
            return memoryview(message)[at:]
    try:
        return read_pb2.ReadReply.FromString(message)
    except DecodeError as e:
        raise InvalidRequestError(f"a message of {len(message)} bytes on a Read stream is no ReadReply") from e


def _decode_plain_chunk(message: bytes | memoryview) -> Chunk | None:
    """Decode a chunk spelled as `encode_write` spells it; None for any other message, valid or not."""
    if not message or message[0] != _CHUNK:
        return None
    size, at = _take_varint(message, 1)
    if not at or at + size != len(message):
        return None
    position = crc32c = 0
    if at < len(message) and message[at] == _POSITION:
        position, at = _take_varint(message, at + 1)
        if not at or position >= 1 << 63:
            return None
    if at < len(message) and message[at] == _CRC32C:
        if at + 5 > len(message):
            return None
        (crc32c,) = _FIXED32.unpack_from(message, at + 1)
        at += 5
    if at == len(message):
        return Chunk(position, crc32c, memoryview(b""))
    if message[at] != _DATA:
        return None
    size, at = _take_varint(message, at + 1)
    if not at or at + size != len(message):
        return None
    return Chunk(position, crc32c, memoryview(message)[at:])


def _put_varint(into: bytearray, value: int) -> None:
    while value > 0x7F:
        into.append(value & 0x7F | 0x80)
        value >>= 7
    into.append(value)


def _take_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Read a varint; return it and the position after it, or (0, 0) when there is none within ten bytes."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            return 0, 0
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    return 0, 0
