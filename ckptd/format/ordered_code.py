"""Keys whose byte order is their logical order: the keys of stored slices.

A slice key is ``num(0) string(name) num(rank)`` and, per dimension, ``snum(start) snum(length)``, a whole
dimension being start 0 and length -1.

    num(u)     one byte n, then u big-endian in n bytes, n as small as possible
    string(s)  00 → 00 ff, ff → ff 00, other bytes as they are; ends with 00 01
    snum(v)    a run of L one bits says that the value takes L bytes; the other 7 L - 1 bits hold v in two's
               complement, the whole xored with the run, so that negative numbers sort first

Source: TensorFlow ``tensorflow/core/lib/strings/ordered_code.h``.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ckptd.errors import CorruptionError

_ESCAPE = re.compile(rb"[\x00\xff].", re.DOTALL)
_UNESCAPED = {b"\x00\xff": b"\x00", b"\xff\x00": b"\xff"}


def encode_num(value: int) -> bytes:
    """Encode an unsigned integer below 2**64."""
    size = (value.bit_length() + 7) // 8
    return bytes((size,)) + value.to_bytes(size, "big")


def decode_num(data: bytes, at: int = 0) -> tuple[int, int]:
    """Read an unsigned integer at byte `at`; return it and the position after it."""
    if at >= len(data):
        raise CorruptionError("truncated ordered number", offset=at)
    size = data[at]
    stop = at + 1 + size
    if size > 8 or stop > len(data) or (size and data[at + 1] == 0):
        raise CorruptionError("bad ordered number", offset=at)
    return int.from_bytes(data[at + 1 : stop], "big"), stop


def encode_string(value: bytes) -> bytes:
    """Encode a byte string with its terminator."""
    return b"\x00\xff".join(part.replace(b"\xff", b"\xff\x00") for part in value.split(b"\x00")) + b"\x00\x01"


def decode_string(data: bytes, at: int = 0) -> tuple[bytes, int]:
    """Read an escaped byte string at byte `at`; return it and the position after its terminator."""
    out = bytearray()
    start = at
    # Plain bytes between escapes are copied in one go; a name may be half a megabyte long.
    for escape in _ESCAPE.finditer(data, at):
        out += data[at : escape.start()]
        at = escape.end()
        if escape[0] == b"\x00\x01":
            return bytes(out), at
        if escape[0] not in _UNESCAPED:
            raise CorruptionError("bad escape in an ordered string", offset=escape.start())
        out += _UNESCAPED[escape[0]]
    raise CorruptionError("unterminated ordered string", offset=start)


@lru_cache(maxsize=1 << 16)
def encode_snum(value: int) -> bytes:
    """Encode a signed 64-bit integer in one to ten bytes."""
    size = snum_size(value)
    run = ((1 << size) - 1) << (7 * size)
    return ((value & ((1 << 8 * size) - 1)) ^ run).to_bytes(size, "big")


def snum_size(value: int) -> int:
    """Return how many bytes `encode_snum` takes."""
    return (value if value >= 0 else ~value).bit_length() // 7 + 1


def decode_snum(data: bytes, at: int = 0) -> tuple[int, int]:
    """Read a signed integer at byte `at`; return it and the position after it."""
    if at >= len(data):
        raise CorruptionError("truncated signed ordered number", offset=at)
    # A negative number has the run's bits inverted: count leading zeros there, ones otherwise.
    head = int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
    negative = not head & 0x8000
    size = 16 - (head if negative else ~head & 0xFFFF).bit_length()
    stop = at + size
    if size > 10 or stop > len(data):
        raise CorruptionError("bad signed ordered number", offset=at)
    run = ((1 << size) - 1) << (7 * size)
    value = int.from_bytes(data[at:stop], "big") ^ run
    if negative:
        value -= 1 << 8 * size
    if snum_size(value) != size or not -(1 << 63) <= value < 1 << 63:
        raise CorruptionError("bad signed ordered number", offset=at)
    return value, stop
