"""CRC-32C (Castagnoli), plain and masked.

Values in Python are always the plain checksum; only encoded bytes hold the masked one. Masking keeps a checksum
from being taken over bytes that contain checksums of the same kind (LevelDB ``doc/log_format.md``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from awscrt import checksums

if TYPE_CHECKING:
    from typing_extensions import Buffer


_MASK_DELTA = 0xA282EAD8
# One call handles at most this much: older releases of awscrt count bytes in a C int.
CHUNK_BYTES = 1 << 30


def extend(crc: int, data: Buffer) -> int:
    """Return the checksum of the bytes that gave `crc`, followed by `data`.

    `data` is any C-contiguous buffer; its bytes are read in place, without the interpreter's lock when they are many.
    """
    view = memoryview(data)
    if view.nbytes <= CHUNK_BYTES:
        return int(checksums.crc32c(view, crc))
    view = view.cast("B")
    for start in range(0, len(view), CHUNK_BYTES):
        crc = checksums.crc32c(view[start : start + CHUNK_BYTES], crc)
    return crc


def crc32c(data: Buffer) -> int:
    """Return the checksum of a C-contiguous buffer; 0 for an empty one."""
    return extend(0, data)


def each(buffers: Iterable[memoryview]) -> list[int]:
    """Return the checksum of each of many buffers; for short ones in a fraction of the time of single calls."""
    one = checksums.crc32c
    return [one(data) if len(data) <= CHUNK_BYTES else crc32c(data) for data in buffers]


def of_all(buffers: Iterable[Buffer]) -> int:
    """Return the checksum of buffers laid end to end."""
    whole = 0
    for data in buffers:
        whole = extend(whole, data)
    return whole


def combine(crc1: int, crc2: int, len2: int) -> int:
    """Return the checksum of two byte strings laid end to end, from theirs and the length of the second in bytes."""
    return int(checksums.combine_crc32c(crc1, crc2, len2))


def joined(crcs: Iterable[int], sizes: Iterable[int]) -> int:
    """Return the checksum of byte strings laid end to end, from theirs and their lengths in bytes."""
    whole = 0
    for crc, size in zip(crcs, sizes, strict=True):
        whole = combine(whole, crc, size) if whole else crc  # joining with an empty one would only take time
    return whole


def mask(crc: int) -> int:
    """Return the form in which a checksum is stored."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def unmask(masked: int) -> int:
    """Return the checksum that `mask` stores as `masked`."""
    rotated = (masked - _MASK_DELTA) & 0xFFFFFFFF
    return ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF
