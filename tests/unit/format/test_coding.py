from __future__ import annotations

import pytest

from ckptd.errors import CorruptionError
from ckptd.format import coding

VARINTS = [
    (0, b"\x00"),
    (1, b"\x01"),
    (127, b"\x7f"),
    (128, b"\x80\x01"),
    (300, b"\xac\x02"),
    ((1 << 32) - 1, b"\xff\xff\xff\xff\x0f"),
    ((1 << 63), b"\x80" * 9 + b"\x01"),
    ((1 << 64) - 1, b"\xff" * 9 + b"\x01"),
]


@pytest.mark.parametrize(("value", "data"), VARINTS)
def test_a_varint_and_its_bytes_are_one_thing(value: int, data: bytes) -> None:
    assert coding.encode_varint(value) == data
    assert coding.varint_size(value) == len(data)
    assert coding.decode_varint64(b"?" + data + b"!", 1) == (value, 1 + len(data))
    if value < 1 << 32:
        assert coding.decode_varint32(data) == (value, len(data))


def test_a_negative_number_is_a_varint_of_ten_bytes() -> None:
    assert coding.encode_signed_varint(-1) == b"\xff" * 9 + b"\x01"
    assert coding.encode_signed_varint(5) == b"\x05"


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80" * 4])
def test_a_varint_cut_short_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptionError, match="truncated varint") as caught:
        coding.decode_varint32(data)
    assert caught.value.offset == len(data)


def test_a_varint_may_not_run_past_the_structure_that_holds_it() -> None:
    with pytest.raises(CorruptionError, match="truncated"):
        coding.decode_varint64(b"\x80\x01", 0, 1)


def test_a_varint_of_too_many_bytes_is_corrupt() -> None:
    with pytest.raises(CorruptionError, match="longer than 5"):
        coding.decode_varint32(b"\x80" * 5 + b"\x01")
    with pytest.raises(CorruptionError, match="longer than 10"):
        coding.decode_varint64(b"\x80" * 10 + b"\x01")


def test_bits_above_the_width_are_dropped() -> None:
    assert coding.decode_varint32(b"\xff\xff\xff\xff\x7f") == ((1 << 32) - 1, 5)


def test_fixed_integers_are_little_endian() -> None:
    assert coding.encode_fixed32(0x01020304) == b"\x04\x03\x02\x01"
    assert coding.decode_fixed32(b"..\x04\x03\x02\x01", 2) == 0x01020304
    assert coding.encode_fixed64(0xDB4775248B80FB57) == bytes.fromhex("57fb808b247547db")
    assert coding.decode_fixed64(bytes.fromhex("57fb808b247547db")) == 0xDB4775248B80FB57
