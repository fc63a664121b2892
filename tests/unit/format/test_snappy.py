from __future__ import annotations

import pytest

from ckptd.errors import CorruptionError
from ckptd.format.snappy import decompress

SOUND = [
    (b"\x00", b""),
    (b"\x03\x08abc", b"abc"),
    (b"\x46\xf0\x45" + bytes(70), bytes(70)),  # literal with its length in one more byte
    (b"\x46\xf4\x45\x00" + bytes(70), bytes(70)),  # … in two
    (b"\x08\x0cabcd\x01\x04", b"abcdabcd"),  # copy with an 11-bit offset
    (b"\x06\x04ab\x0e\x02\x00", b"ababab"),  # copy that reaches into itself
    (b"\x05\x00a\x0f\x01\x00\x00\x00", b"aaaaa"),  # copy with a 32-bit offset
]


@pytest.mark.parametrize(("data", "contents"), SOUND)
def test_every_kind_of_element_is_read(data: bytes, contents: bytes) -> None:
    assert decompress(data) == contents


BROKEN = [
    (b"", "truncated varint"),
    (b"\xff\xff\xff\xff\x0f\x00a", "announces too much"),
    (b"\x03\x08ab", "truncated Snappy literal"),
    (b"\x04\xf0", "truncated Snappy literal"),
    (b"\x05\x00a\x0f\x01\x00", "truncated Snappy copy"),
    (b"\x05\x00a\x0e\x02\x00", "before the start"),
    (b"\x05\x00a\x0e\x00\x00", "before the start"),
    (b"\x02\x08abc", "longer than announced"),
    (b"\x03\x00a\x0e\x01\x00", "longer than announced"),
    (b"\x04\x08abc", "shorter than announced"),
]


@pytest.mark.parametrize(("data", "reason"), BROKEN)
def test_a_broken_block_is_corrupt(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptionError, match=reason):
        decompress(data)
