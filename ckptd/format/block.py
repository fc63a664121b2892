"""One block of a table: prefix-compressed entries and restart points.

Layout::

    entry*  restart[0 … r-1]: fixed32 each  r: fixed32
    entry = [shared: varint32][non_shared: varint32][value_length: varint32][key bytes][value bytes]

`shared` bytes of the key come from the key before; at a restart point, there are none. An empty block still has one
restart, at 0. Source: leveldb ``table/block_builder.cc``.

`block_columns` encodes many entries at once, because an index may have a million of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from ckptd.errors import CorruptionError
from ckptd.format.coding import decode_fixed32, decode_varint32, encode_fixed32, encode_varint

if TYPE_CHECKING:
    from typing_extensions import Buffer

RESTART_INTERVAL = 16
EMPTY_BLOCK = encode_fixed32(0) + encode_fixed32(1)


def encode_block(entries: Sequence[tuple[bytes, bytes]], restart_interval: int) -> bytes:
    """Encode the sorted entries of one small block, plainly."""
    out = bytearray()
    restarts = []
    last = b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % restart_interval == 0:
            restarts.append(len(out))
        else:
            shared = shared_length(last, key)
        out += encode_varint(shared) + encode_varint(len(key) - shared) + encode_varint(len(value))
        out += key[shared:]
        out += value
        last = key
    return bytes(out) + encode_restarts(restarts or [0])


def encode_restarts(offsets: Sequence[int]) -> bytes:
    """Encode the array of restart points that ends a block."""
    return np.asarray([*offsets, len(offsets)], "<u4").tobytes()


def shared_length(a: bytes, b: bytes) -> int:
    """Return how many bytes two keys have in common at the start."""
    size = min(len(a), len(b))
    if a[:size] == b[:size]:
        return size
    low, high = 0, size  # the first `low` bytes agree, the first `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def entries_end(block: bytes) -> tuple[int, int]:
    """Return where a block's entries end and how many restart points follow.

    Raises:
        CorruptionError: if the block is too short for what it says.
    """
    if len(block) < 4:
        raise CorruptionError("block is shorter than four bytes", offset=0, expected="at least 4", actual=len(block))
    count = decode_fixed32(block, len(block) - 4)
    end = len(block) - 4 - 4 * count
    if count == 0 or end < 0:
        raise CorruptionError(
            "restart count does not fit the block",
            offset=len(block) - 4,
            expected=f"1 to {len(block) // 4 - 1}",
            actual=count,
        )
    return end, count


def walk(block: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield key, value start and value end of every entry of a block that `check` has passed."""
    end, _ = entries_end(block)
    at = 0
    key = b""
    while at < end:
        shared = block[at]
        fresh = block[at + 1]
        size = block[at + 2]
        if (shared | fresh | size) < 0x80:
            at += 3
        else:
            shared, at = decode_varint32(block, at, end)
            fresh, at = decode_varint32(block, at, end)
            size, at = decode_varint32(block, at, end)
        start = at + fresh
        key = key[:shared] + block[at:start]
        at = start + size
        yield key, start, at


def check(block: bytes, previous: bytes | None, budget: int) -> tuple[bytes, bytes, int, int] | None:
    """Check every entry of a block; return its first and last key, the entry count and the keys' bytes in all.

    `previous` is the last key before this block; keys have to ascend from there. `budget` limits how many bytes of
    keys the prefix compression may stand for. An empty block gives None.

    Raises:
        CorruptionError: with the offset inside the block.
    """
    end, count = entries_end(block)
    # A list of Python integers would take ten times the room of the bytes.
    restarts = memoryview(cast("Buffer", np.frombuffer(block, "<u4", count, end).astype(np.uint32)))
    # A block's restarts rise strictly, so each one is met in turn; one that is not met points nowhere.
    if restarts[0] != 0:
        raise CorruptionError("first restart point is not 0", offset=end)
    pending = 0
    next_restart = 0
    at = 0
    key = b"" if previous is None else previous
    first: bytes | None = None
    number = 0
    total = 0
    while at < end:
        begin = at
        # Almost always the three lengths take one byte each.
        if at + 3 <= end and (block[at] | block[at + 1] | block[at + 2]) < 0x80:
            shared, fresh, size = block[at], block[at + 1], block[at + 2]
            at += 3
        else:
            shared, at = decode_varint32(block, at, end)
            fresh, at = decode_varint32(block, at, end)
            size, at = decode_varint32(block, at, end)
        start = at + fresh
        if start + size > end:
            raise CorruptionError("entry runs past the end of its block", offset=begin)
        tail = block[at:start]
        at = start + size
        if begin == next_restart:
            if shared:
                raise CorruptionError("shared key bytes at a restart point", offset=begin, expected=0, actual=shared)
            pending += 1
            next_restart = restarts[pending] if pending < count else -1
        if first is None:
            # Sharing may not reach into the block before, whatever `key` is at this point.
            if shared:
                raise CorruptionError("shared key bytes before the first key", offset=begin, expected=0, actual=shared)
            if previous is not None and tail <= previous:
                raise CorruptionError("keys are not in ascending order", offset=begin)
            first = key = tail
        else:
            if shared > len(key):
                raise CorruptionError(
                    "shared key bytes longer than the key before",
                    offset=begin,
                    expected=f"at most {len(key)}",
                    actual=shared,
                )
            if tail <= key[shared:]:
                raise CorruptionError("keys are not in ascending order", offset=begin)
            key = key[:shared] + tail
        total += len(key)
        if total > budget:
            raise CorruptionError("keys take more room than any writer's file could", offset=begin)
        number += 1
    if first is None:
        if count != 1:
            raise CorruptionError("restart point in an empty block", offset=end)
        return None
    if pending != count:
        raise CorruptionError(f"restart point {restarts[pending]} is not at an entry", offset=end + 4 * pending)
    return first, key, number, total
