from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.format import coding, crc32c, dtypes, strings, tensors

STRING = dtypes.by_name("string")
VARIANT = dtypes.by_name("variant")


def strings_of(*elements: object) -> np.ndarray[Any, Any]:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def joined(encoded: tensors.Encoded) -> bytes:
    data = b"".join(encoded.parts)
    assert len(data) == encoded.size
    return data


STORED = [
    (np.array([1.0, -2.0], "<f4"), "0000803f000000c0"),
    (np.array([[1, 2], [3, 4]], ">i2"), "0100020003000400"),
    (np.array([1 + 2j], "<c8"), "0000803f00000040"),
    (np.array([[1, 2], [3, 4]], "i1").T, "01030204"),
    (np.array(7, "<u8"), "0700000000000000"),
    (np.array([True, False]), "0100"),
    (np.array([-8, -1, 7], ml_dtypes.int4), "080f07"),
    (np.array([-2, -1, 1], ml_dtypes.int2), "020301"),
    (np.array([1.0], ml_dtypes.bfloat16), "803f"),
    (np.zeros((0, 3), np.float64), ""),
    (np.array([(5,)], [("qint32", ">i4")]), "05000000"),
    (strings_of(b"ab", b""), "020078270b346162"),
    (strings_of(), "d8ea82a2"),
    (np.array([b"ab", b""]), "020078270b346162"),
    (np.array(["ab", ""]), "020078270b346162"),
]


@pytest.mark.parametrize(("array", "data"), STORED)
def test_an_array_and_its_bytes_are_one_thing(array: np.ndarray[Any, Any], data: str) -> None:
    encoded = tensors.encode(array)
    assert joined(encoded).hex() == data
    back = tensors.decode(joined(encoded), encoded.dtype, encoded.shape, crc32c=encoded.crc32c)
    assert back.shape == array.shape
    assert back.flags.owndata or back.base is not None
    wanted = array.tolist() if array.dtype.names is None else [value for (value,) in array.tolist()]
    if encoded.dtype.is_string:
        wanted = [element.encode() if isinstance(element, str) else element for element in wanted]
    assert back.tolist() == wanted


def test_known_checksums_of_tensors_without_elements() -> None:
    assert crc32c.mask(tensors.encode(np.zeros(0, np.float32)).crc32c) == 0xA282EAD8
    assert crc32c.mask(tensors.encode(strings_of()).crc32c) == 0x640CC1F6


def test_a_contiguous_array_is_not_copied() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    (part,) = tensors.encode(array).parts
    array[0, 0] = 99.0
    assert np.frombuffer(part, np.float32)[0] == 99.0
    assert tensors.encode(array.view(ml_dtypes.bfloat16)).parts[0].obj is not None


def test_text_is_utf8_and_other_elements_are_refused() -> None:
    assert joined(tensors.encode(strings_of("é", b"\xff", bytearray(b"x"))))[-4:] == b"\xc3\xa9\xffx"
    with pytest.raises(InvalidRequestError, match="element 1 of a string array is of type int"):
        tensors.encode(strings_of(b"a", 5))
    with pytest.raises(InvalidRequestError, match="cannot be encoded"):
        tensors.encode(strings_of("\ud800"))


def test_a_dtype_may_be_forced_at_the_same_width() -> None:
    encoded = tensors.encode(np.array([1, 2], np.int8), dtypes.by_name("qint8"))
    assert encoded.dtype.name == "qint8"
    for wrong in ("float32", "string", "resource"):
        with pytest.raises(InvalidRequestError, match="cannot be stored as"):
            tensors.encode(np.array([1, 2], np.int8), dtypes.by_name(wrong))


def test_string_parts_of_several_ranks_lie_side_by_side_under_one_entry() -> None:
    parts = [strings_of(b"a", b"bc"), strings_of(), strings_of(b"x" * 300, b"", b"\xff")]
    whole = tensors.encode(np.concatenate(parts))
    sections = [tensors.string_sections(part) for part in parts]
    lengths_crc, payload_crc, payload_size = 0, 0, 0
    for section in sections:
        lengths_crc = crc32c.combine(lengths_crc, section.lengths_crc32c, section.lengths_crc_bytes)
        payload_crc = crc32c.combine(payload_crc, crc32c.crc32c(section.payload), len(section.payload))
        payload_size += len(section.payload)
    data = b"".join(section.lengths for section in sections) + tensors.lengths_checksum(lengths_crc)
    data += b"".join(section.payload for section in sections)
    assert data == joined(whole)
    assert tensors.string_crc32c(lengths_crc, payload_crc, payload_size) == whole.crc32c


def test_a_length_of_four_gibibytes_enters_the_checksum_as_eight_bytes() -> None:
    sizes = np.array([5, 1 << 32], np.uint64)
    form = strings.lengths_form(sizes, big_endian=False)
    assert form.hex() == "05000000" + "0000000001000000"
    assert strings.lengths_form(sizes, big_endian=True).hex() == "00000005" + "0000000100000000"


@pytest.mark.parametrize(
    ("name", "data", "value"),
    [
        ("float32", "3f800000c0000000", [1.0, -2.0]),
        ("int16", "00010002", [1, 2]),
        ("complex64", "3f80000040000000", [1 + 2j]),
        ("bfloat16", "3f80", [1.0]),
        ("uint8", "0102", [1, 2]),
        ("bool", "0100", [True, False]),
        ("float64", "3ff0000000000000", [1.0]),
    ],
)
def test_big_endian_files_are_read(name: str, data: str, value: list[object]) -> None:
    raw = bytes.fromhex(data)
    dtype = dtypes.by_name(name)
    array = tensors.decode(raw, dtype, (len(value),), big_endian=True, crc32c=crc32c.crc32c(raw))
    assert array.tolist() == value
    target = np.empty(len(value), dtype.array)
    tensors.memory_of(target, dtype)[:] = raw
    tensors.decode_into(target, dtype, big_endian=True, crc32c=crc32c.crc32c(raw))
    assert target.tolist() == value


def test_strings_of_big_endian_files_are_read() -> None:
    lengths_crc = crc32c.crc32c((2).to_bytes(4, "big"))
    checksum = crc32c.mask(lengths_crc).to_bytes(4, "big")
    crc = crc32c.extend(lengths_crc, checksum + b"ab")
    data = b"\x02" + checksum + b"ab"
    assert tensors.decode(data, STRING, (1,), big_endian=True, crc32c=crc).tolist() == [b"ab"]
    with pytest.raises(CorruptionError, match="lengths checksum"):
        tensors.decode(data, STRING, (1,), big_endian=False)


def test_variants_come_and_go_as_raw_messages() -> None:
    array = strings_of(b"\x0a\x03abc", b"")
    encoded = tensors.encode(array, VARIANT)
    crc = crc32c.crc32c(coding.encode_fixed64(5) + b"\x0a\x03abc")
    assert joined(encoded)[:10] == b"\x05\x0a\x03abc" + coding.encode_fixed32(crc32c.mask(crc))
    back = tensors.decode(joined(encoded), VARIANT, (2,), crc32c=encoded.crc32c)
    assert back.tolist() == array.tolist()
    for cut in range(encoded.size):
        with pytest.raises(CorruptionError):
            tensors.decode(joined(encoded)[:cut], VARIANT, (2,))
    with pytest.raises(CorruptionError, match="left over"):
        tensors.decode(joined(encoded) + b"\0" * 5, VARIANT, (2,))
    damaged = bytearray(joined(encoded))
    damaged[2] ^= 1
    with pytest.raises(CorruptionError, match="variant checksum"):
        tensors.decode(damaged, VARIANT, (2,))


def strings_bytes(lengths: bytes, form: bytes, payload: bytes) -> bytes:
    return lengths + tensors.lengths_checksum(crc32c.crc32c(form)) + payload


BROKEN = [
    ("float32", (2,), b"1234567", "size does not match"),
    ("float32", (1 << 61, 2), b"", "size does not match"),
    ("float32", (1 << 62, 2), b"", "is too large"),
    ("float32", (-1,), b"", "negative dimension"),
    ("float32", (0, 1 << 62, 4), b"", "is too large"),
    ("float32", (1,) * 255, b"1234", "255 dimensions"),
    ("float32", (1,) * 100, b"1234", "numpy cannot hold"),
    ("resource", (), b"", "cannot be stored"),
    ("string", (2,), b"\0\0\0\0\0", "too small"),
    ("string", (1 << 40,), b"\0\0\0\0\0", "too small"),
    ("string", (1,), b"\x80\x80\x80\x80\x80", "run past the end"),
    ("string", (2,), b"\xff" * 10 + b"\x01" + bytes(20), "longer than ten"),
    ("string", (1,), strings_bytes(b"\3", b"\3\0\0\0", b"ab"), "do not add up"),
    ("string", (1,), strings_bytes(b"\1", b"\1\0\0\0", b"ab"), "do not add up"),
    ("string", (1,), strings_bytes(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"", b"ab"), "do not add up"),
    # Two lengths whose sum, in 64 bits, is the payload's size.
    ("string", (2,), strings_bytes(b"\xff" * 9 + b"\x01\x03", b"\xff" * 8 + b"\3\0\0\0", b"ab"), "do not add up"),
    ("string", (1,), b"\x00\x00\x00\x00\x00", "lengths checksum"),
    ("string", (1,) * 100, strings_bytes(b"\1", b"\1\0\0\0", b"a"), "numpy cannot hold"),
]


@pytest.mark.parametrize(("name", "shape", "data", "reason"), BROKEN)
def test_bytes_that_cannot_be_right_are_corrupt(name: str, shape: tuple[int, ...], data: bytes, reason: str) -> None:
    with pytest.raises(CorruptionError, match=reason) as caught:
        tensors.decode(data, dtypes.by_name(name), shape, key="m.data-00000-of-00001", offset=1000)
    assert caught.value.key == "m.data-00000-of-00001"
    assert caught.value.offset is not None
    assert caught.value.offset >= 1000


@pytest.mark.parametrize("array", [np.arange(4.0), strings_of(b"abc", b"d")])
def test_one_wrong_bit_fails_the_checksum(array: np.ndarray[Any, Any]) -> None:
    encoded = tensors.encode(array)
    data = bytearray(joined(encoded))
    data[-1] ^= 1
    with pytest.raises(CorruptionError, match="checksum does not match") as caught:
        tensors.decode(data, encoded.dtype, encoded.shape, crc32c=encoded.crc32c, key="k", offset=5)
    assert (caught.value.key, caught.value.expected) == ("k", encoded.crc32c)
    tensors.decode(data, encoded.dtype, encoded.shape)


def test_decoding_into_an_array_checks_what_lies_there() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    encoded = tensors.encode(array)
    target = np.zeros((2, 3), np.int32)
    tensors.decode_into(target, encoded.dtype, joined(encoded), crc32c=encoded.crc32c)
    assert target.tolist() == array.tolist()
    tensors.decode_into(target, encoded.dtype, crc32c=encoded.crc32c)
    target[0, 0] = 8
    with pytest.raises(CorruptionError, match="checksum"):
        tensors.decode_into(target, encoded.dtype, crc32c=encoded.crc32c)
    with pytest.raises(CorruptionError, match="size"):
        tensors.decode_into(target, encoded.dtype, b"123")


def test_only_an_array_laid_out_as_stored_is_decoded_into() -> None:
    int32 = dtypes.by_name("int32")
    frozen = np.zeros(3, np.int32)
    frozen.flags.writeable = False
    wrong = [
        np.zeros(3, np.int64),
        np.zeros((3, 3), np.int32).T[:2],
        np.zeros(3, ">i4"),
        frozen,
        np.zeros(6, np.int32)[::2],
    ]
    for target in wrong:
        with pytest.raises(InvalidRequestError):
            tensors.decode_into(target, int32, bytes(target.nbytes))
    with pytest.raises(InvalidRequestError):
        tensors.decode_into(strings_of(b""), STRING, b"")
