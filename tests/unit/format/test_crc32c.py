from __future__ import annotations

import numpy as np
import pytest

from ckptd.format import crc32c
from tests import seams

KNOWN = [(b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA)]


@pytest.mark.parametrize(("data", "crc"), KNOWN)
def test_checksums_are_castagnolis(data: bytes, crc: int) -> None:
    assert crc32c.crc32c(data) == crc
    assert crc32c.extend(crc32c.crc32c(data[:4]), data[4:]) == crc


MASKED = [(0, 0xA282EAD8), (0xE3069283, 0xC78AB0E5)]


@pytest.mark.parametrize(("crc", "masked"), MASKED)
def test_a_checksum_and_its_masked_form_are_one_thing(crc: int, masked: int) -> None:
    assert crc32c.mask(crc) == masked
    assert crc32c.unmask(masked) == crc


def test_masking_loses_nothing_at_the_edges() -> None:
    for crc in (0, 1, 0x7FFF, 0x8000, 0xFFFFFFFF, 0x80000000):
        assert crc32c.unmask(crc32c.mask(crc)) == crc
        assert crc32c.mask(crc32c.unmask(crc)) == crc


def test_any_contiguous_buffer_is_read_in_place() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert crc32c.crc32c(array) == crc32c.crc32c(array.tobytes())
    assert crc32c.crc32c(memoryview(array)) == crc32c.crc32c(bytearray(array.tobytes()))
    assert crc32c.crc32c(np.array(1.5)) == crc32c.crc32c(np.array(1.5).tobytes())


def test_combining_equals_the_checksum_of_both_laid_end_to_end() -> None:
    for one, two in [(b"", b""), (b"abc", b""), (b"", b"abc"), (b"12345", b"6789"), (bytes(1000), b"x" * 7)]:
        assert crc32c.combine(crc32c.crc32c(one), crc32c.crc32c(two), len(two)) == crc32c.crc32c(one + two)


def test_many_are_joined_from_their_checksums_or_summed_end_to_end() -> None:
    """Also where one of them has the checksum 0, as an empty one has, and where there is none."""
    zero = b"\x00" * 4 + bytes.fromhex("00000000")
    for parts in [[], [b""], [b"abc"], [b"", b"abc", b"", b"12"], [bytes(8), zero, b"x" * 70], [b"1", b"2", b"3"]]:
        whole = crc32c.crc32c(b"".join(parts))
        assert crc32c.of_all(parts) == whole
        assert crc32c.joined(crc32c.each(map(memoryview, parts)), map(len, parts)) == whole


def test_a_buffer_of_several_chunks_has_the_same_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.arange(1000, dtype=np.int32)
    whole = crc32c.crc32c(data)
    seams.CRC_CHUNK_BYTES.put(monkeypatch, 64)
    assert crc32c.crc32c(data) == whole
    assert crc32c.extend(crc32c.crc32c(data[:10]), data[10:]) == whole
