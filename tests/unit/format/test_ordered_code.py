from __future__ import annotations

import pytest

from ckptd.errors import CorruptionError
from ckptd.format import ordered_code as oc

NUMS = [(0, "00"), (1, "0101"), (255, "01ff"), (256, "020100"), ((1 << 64) - 1, "08" + "ff" * 8)]
STRINGS = [
    (b"", "0001"),
    (b"w", "770001"),
    (b"n\0m", "6e00ff6d0001"),
    (b"\xffz", "ff007a0001"),
    (b"\xff\1", "ff00010001"),
]
SNUMS = [
    (0, "80"),
    (1, "81"),
    (63, "bf"),
    (64, "c040"),
    (127, "c07f"),
    (128, "c080"),
    (8191, "dfff"),
    (8192, "e02000"),
    ((1 << 20) - 1, "efffff"),
    (1 << 20, "f0100000"),
    (1 << 34, "fc0400000000"),
    ((1 << 55) - 1, "ff7fffffffffffff"),
    (1 << 55, "ff8080000000000000"),
    (1 << 62, "ffc04000000000000000"),
    (-1, "7f"),
    (-64, "40"),
    (-65, "3fbf"),
    (-(1 << 63), "003f8000000000000000"),
]


@pytest.mark.parametrize(("value", "data"), NUMS)
def test_an_unsigned_number_and_its_bytes_are_one_thing(value: int, data: str) -> None:
    assert oc.encode_num(value).hex() == data
    assert oc.decode_num(bytes.fromhex(data)) == (value, len(data) // 2)


@pytest.mark.parametrize(("value", "data"), STRINGS)
def test_a_string_and_its_bytes_are_one_thing(value: bytes, data: str) -> None:
    assert oc.encode_string(value).hex() == data
    assert oc.decode_string(bytes.fromhex(data) + b"rest") == (value, len(data) // 2)


@pytest.mark.parametrize(("value", "data"), SNUMS)
def test_a_signed_number_and_its_bytes_are_one_thing(value: int, data: str) -> None:
    assert oc.encode_snum(value).hex() == data
    assert oc.snum_size(value) == len(data) // 2
    assert oc.decode_snum(bytes.fromhex(data) + b"\xff", 0) == (value, len(data) // 2)


def test_byte_order_is_numeric_order() -> None:
    edges = sorted({sign * ((1 << bits) + near) for bits in range(63) for near in (-1, 0, 1) for sign in (1, -1)})
    coded = [oc.encode_snum(value) for value in edges]
    assert coded == sorted(coded)
    assert [oc.decode_snum(data)[0] for data in coded] == edges


def test_byte_order_of_strings_is_theirs() -> None:
    values = sorted([b"", b"\0", b"\0\xff", b"\0\1", b"a", b"a\0", b"a\xff", b"ab", b"\xff", b"\xff\xff"])
    assert [oc.encode_string(value) for value in values] == sorted(map(oc.encode_string, values))


@pytest.mark.parametrize("data", ["", "0201", "0100", "09" + "01" * 9])
def test_a_broken_unsigned_number_is_corrupt(data: str) -> None:
    with pytest.raises(CorruptionError):
        oc.decode_num(bytes.fromhex(data))


@pytest.mark.parametrize("data", ["", "61", "00", "0002", "ff01", "6100ff", "ff"])
def test_a_broken_string_is_corrupt(data: str) -> None:
    with pytest.raises(CorruptionError):
        oc.decode_string(bytes.fromhex(data))


@pytest.mark.parametrize("data", ["", "c0", "c001", "ffff", "0000", "ffffffff", "00" * 11, "ff" * 11])
def test_a_broken_signed_number_is_corrupt(data: str) -> None:
    with pytest.raises(CorruptionError):
        oc.decode_snum(bytes.fromhex(data))
