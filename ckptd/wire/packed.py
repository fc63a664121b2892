"""Messages of long columns of numbers, read by numpy a block at a time.

protobuf's own parser, and making arrays of what it returns, keep every other thread of the process from running for as
long as that takes: half a second for a manifest of a million slices, while no call is answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptd.errors import InvalidRequestError

BLOCK = 1 << 17
"""So many numbers, or bytes of numbers, are worked at before other threads may run."""

_DELIMITED = 2  # a kind of field

_MOST_OCTETS = 10  # of a varint


def delimited_fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of each field of a message that has a length: texts, and packed columns.

    Raises:
        InvalidRequestError: where the bytes are no message, or a number stands by itself.
    """
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        if tag & 7 != _DELIMITED:
            raise InvalidRequestError("a column of the message is not packed", offset=at, actual=f"tag {tag}")
        size, at = _varint(data, at)
        if size > end - at:
            raise InvalidRequestError("the message is cut off", offset=at, expected=f"{size} bytes", actual=end - at)
        yield tag >> 3, data[at : at + size]
        at += size


def varints(packed: memoryview) -> NDArray[np.int64]:
    """Return the numbers of a packed column of varints.

    Raises:
        InvalidRequestError: where they are cut off, or one has more bytes than a number of 64 bits.
    """
    octets = np.frombuffer(packed, np.uint8)
    if len(octets) and octets[-1] >= 0x80:
        raise InvalidRequestError("a column of numbers is cut off", actual=f"{len(octets)} bytes")
    blocks = []
    at = 0
    while at < len(octets):
        block = octets[at : at + BLOCK]
        ends = np.flatnonzero(block < 0x80)
        if not len(ends):
            raise InvalidRequestError("a number of the message has too many bytes", offset=at)
        blocks.append(_joined(block, ends))
        at += int(ends[-1]) + 1
    return np.concatenate(blocks) if blocks else np.zeros(0, np.int64)


def _joined(octets: NDArray[np.uint8], ends: NDArray[np.intp]) -> NDArray[np.int64]:
    begins = np.empty_like(ends)
    begins[0], begins[1:] = 0, ends[:-1] + 1
    counts = ends - begins + 1
    most = int(counts.max())
    if most > _MOST_OCTETS:
        raise InvalidRequestError("a number of the message has too many bytes", actual=most)
    numbers = (octets[begins] & 0x7F).astype(np.uint64)
    for place in range(1, most):
        longer = np.flatnonzero(counts > place)
        groups = (octets[begins[longer] + place] & 0x7F).astype(np.uint64)
        numbers[longer] |= groups << np.uint64(7 * place)
    return numbers.view(np.int64)


def fixed32(packed: memoryview) -> NDArray[np.uint32]:
    """Return the numbers of a packed column of four bytes each; `InvalidRequestError` where they are cut off."""
    if len(packed) % 4:
        raise InvalidRequestError("a column of numbers is cut off", actual=f"{len(packed)} bytes")
    return np.frombuffer(packed, "<u4").astype(np.uint32)


def in_python(column: NDArray[Any]) -> Iterator[int]:
    """Yield the numbers of a column, as Python's."""
    for start in range(0, len(column), BLOCK):
        yield from column[start : start + BLOCK].tolist()


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    for octet in data[at : at + _MOST_OCTETS]:
        at += 1
        number |= (octet & 0x7F) << shift
        if octet < 0x80:
            return number, at
        shift += 7
    raise InvalidRequestError("the bytes are no message", offset=at)
