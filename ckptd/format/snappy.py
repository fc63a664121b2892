"""Raw Snappy blocks, reading only: old and foreign writers compress the blocks of an index.

A block is a varint32, the length of what comes out, then elements. The low two bits of an element's first byte tell
its kind: 0 literal bytes that follow, 1 to 3 a copy of bytes that already came out, with an offset of 11, 16
or 32 bits. Source: google/snappy ``format_description.txt``.
"""

from __future__ import annotations

from ckptd.errors import CorruptionError
from ckptd.format.coding import decode_varint32

# A copy of 64 bytes takes three bytes: no sound block grows more than this. Announcing more is a bomb.
_MAX_GROWTH = 22


def decompress(data: bytes | memoryview) -> bytes:
    """Return what a raw block holds, never allocating more than about 22 times its size.

    Raises:
        CorruptionError: with the offset inside `data`.
    """
    announced, at = decode_varint32(data)
    end = len(data)
    if announced > (end - at) * _MAX_GROWTH:
        raise CorruptionError(
            "Snappy block announces too much",
            offset=0,
            expected=f"at most {(end - at) * _MAX_GROWTH}",
            actual=announced,
        )
    out = bytearray()
    while at < end:
        start = at
        tag = data[at]
        at += 1
        kind = tag & 3
        if kind == 0:
            length = (tag >> 2) + 1
            if length > 60:
                extra = length - 60
                if at + extra > end:
                    raise CorruptionError("truncated Snappy literal", offset=start)
                length = int.from_bytes(data[at : at + extra], "little") + 1
                at += extra
            if at + length > end:
                raise CorruptionError("truncated Snappy literal", offset=start)
            if len(out) + length > announced:
                raise CorruptionError("Snappy block is longer than announced", offset=start)
            out += data[at : at + length]
            at += length
            continue
        offset_size = (1, 2, 4)[kind - 1]
        if at + offset_size > end:
            raise CorruptionError("truncated Snappy copy", offset=start)
        back = int.from_bytes(data[at : at + offset_size], "little")
        at += offset_size
        if kind == 1:
            length = ((tag >> 2) & 7) + 4
            back |= (tag >> 5) << 8
        else:
            length = (tag >> 2) + 1
        if not 0 < back <= len(out):
            raise CorruptionError("Snappy copy from before the start", offset=start)
        if len(out) + length > announced:
            raise CorruptionError("Snappy block is longer than announced", offset=start)
        # A copy may reach into itself: it then repeats what is between.
        begin = len(out) - back
        if back >= length:
            out += out[begin : begin + length]
        else:
            out += (out[begin:] * (length // back + 1))[:length]
    if len(out) != announced:
        raise CorruptionError("Snappy block is shorter than announced", expected=announced, actual=len(out))
    return bytes(out)
