"""Varints and fixed-width integers, as in LevelDB tables and protobuf messages.

A varint is little-endian groups of seven bits, the high bit set on all bytes but the last: at most 5 bytes
for 32 bits of value, 10 for 64. Fixed-width integers are little-endian on every machine.

Decoders take the buffer, a position and the position where the enclosing structure ends; they return the value and
the position after it, and raise `CorruptionError` with the position inside the buffer.
"""

from __future__ import annotations

from ckptd.errors import CorruptionError

MAX_VARINT32_BYTES = 5
MAX_VARINT64_BYTES = 10


def encode_varint(value: int) -> bytes:
    """Encode a non-negative integer below 2**64 in the shortest form."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_signed_varint(value: int) -> bytes:
    """Encode a protobuf int32 or int64: a negative value takes all ten bytes of its two's complement."""
    return encode_varint(value & 0xFFFF_FFFF_FFFF_FFFF)


def varint_size(value: int) -> int:
    """Return how many bytes `encode_varint` takes."""
    return max(1, (value.bit_length() + 6) // 7)


def _decode_varint(data: bytes | memoryview, at: int, end: int, max_bytes: int, bits: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * max_bytes, 7):
        if at >= end:
            raise CorruptionError("truncated varint", offset=at)
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            # The last byte of a full-length varint may hold more bits than fit; protobuf and LevelDB drop them.
            return value & ((1 << bits) - 1), at
    raise CorruptionError(f"varint longer than {max_bytes} bytes", offset=at - max_bytes)


def decode_varint32(data: bytes | memoryview, at: int = 0, end: int | None = None) -> tuple[int, int]:
    """Read a varint of at most five bytes at byte `at`; return it and the position after it."""
    return _decode_varint(data, at, len(data) if end is None else end, MAX_VARINT32_BYTES, 32)


def decode_varint64(data: bytes | memoryview, at: int = 0, end: int | None = None) -> tuple[int, int]:
    """Read a varint of at most ten bytes at byte `at`; return it and the position after it."""
    return _decode_varint(data, at, len(data) if end is None else end, MAX_VARINT64_BYTES, 64)


def encode_fixed32(value: int) -> bytes:
    """Encode an unsigned 32-bit integer in four bytes."""
    return value.to_bytes(4, "little")


def decode_fixed32(data: bytes | memoryview, at: int = 0) -> int:
    """Read four bytes at `at`. The caller has checked that they are there."""
    return int.from_bytes(data[at : at + 4], "little")


def encode_fixed64(value: int) -> bytes:
    """Encode an unsigned 64-bit integer in eight bytes."""
    return value.to_bytes(8, "little")


def decode_fixed64(data: bytes | memoryview, at: int = 0) -> int:
    """Read eight bytes at `at`. The caller has checked that they are there."""
    return int.from_bytes(data[at : at + 8], "little")
