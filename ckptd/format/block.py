"""One block of a table: prefix-compressed entries and restart points.

Layout::

    entry*  restart[0 … r-1]: fixed32 each  r: fixed32
    entry = [shared: varint32][non_shared: varint32][value_length: varint32][key bytes][value bytes]

`shared` bytes of the key come from the key before; at a restart point, there are none. An empty block still has one
restart, at 0. Source: leveldb ``table/block_builder.cc``.

Encoding works on columns of many entries at once, because an index may have a million of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ckptd.errors import CorruptionError
from ckptd.format.coding import MAX_VARINT32_BYTES, decode_fixed32, decode_varint32, encode_fixed32, encode_varint

if TYPE_CHECKING:
    from typing_extensions import Buffer

RESTART_INTERVAL = 16
EMPTY_BLOCK = encode_fixed32(0) + encode_fixed32(1)

IntArray = np.ndarray[Any, np.dtype[np.int64]]


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


class Columns:
    """Many sorted entries, laid out so that blocks can be cut and encoded without a step per entry.

    Raises:
        ValueError: if the keys do not ascend.
    """

    def __init__(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        count = len(keys)
        self.keys = keys
        self.values = values
        self.key_sizes: IntArray = np.fromiter(map(len, keys), np.int64, count)
        self.value_sizes: IntArray = np.fromiter(map(len, values), np.int64, count)
        self.shared = _shared_lengths(keys, self.key_sizes)
        self.heads_alone = _varint_sizes(self.key_sizes) + _varint_sizes(self.value_sizes) + 1
        self.alone = self.heads_alone + self.key_sizes + self.value_sizes
        fresh = self.key_sizes - self.shared
        self.after = (
            _varint_sizes(self.shared)
            + _varint_sizes(fresh)
            + _varint_sizes(self.value_sizes)
            + fresh
            + self.value_sizes
        )

    def block_end(self, start: int, block_size: int) -> int:
        """Return the entry after the one that takes a block that starts at `start` to `block_size` bytes or more."""
        count = len(self.keys)
        step = 1024
        stop = start
        size = 4
        while stop < count:
            begin, stop = stop, min(count, stop + step)
            # Steps are multiples of the interval, so `begin` is a restart point.
            sizes = self.after[begin:stop].copy()
            sizes[::RESTART_INTERVAL] = self.alone[begin:stop:RESTART_INTERVAL] + 4
            sums = np.cumsum(sizes)
            sums += size
            if sums[-1] >= block_size:
                return begin + int(np.searchsorted(sums, block_size)) + 1
            size = int(sums[-1])
            step *= 4
        return count

    def encode(self, start: int, stop: int) -> tuple[bytes, IntArray]:
        """Encode entries `start` to `stop` as one block; return it, and where in it each value ends."""
        shared = self.shared[start:stop].copy()
        shared[::RESTART_INTERVAL] = 0
        fresh = self.key_sizes[start:stop] - shared
        value_sizes = self.value_sizes[start:stop]
        heads = _heads(shared, fresh, value_sizes)
        keys = self.keys[start:stop]
        tails = [key[skip:] if skip else key for key, skip in zip(keys, shared.tolist(), strict=True)]
        pieces: list[bytes] = [b""] * (3 * (stop - start))
        pieces[0::3] = heads
        pieces[1::3] = tails
        pieces[2::3] = self.values[start:stop]
        sizes = np.fromiter(map(len, heads), np.int64, stop - start) + fresh + value_sizes
        ends = np.cumsum(sizes)
        offsets = np.concatenate(([0], ends[:-1]))[::RESTART_INTERVAL]
        return b"".join(pieces) + encode_restarts(offsets.tolist()), ends


def _heads(shared: IntArray, fresh: IntArray, value_sizes: IntArray) -> list[bytes]:
    if int(max(shared.max(), fresh.max(), value_sizes.max())) < 0x80:
        flat = np.stack((shared, fresh, value_sizes), axis=1).astype(np.uint8).tobytes()
        return [flat[at : at + 3] for at in range(0, len(flat), 3)]
    return [
        encode_varint(a) + encode_varint(b) + encode_varint(c)
        for a, b, c in zip(shared.tolist(), fresh.tolist(), value_sizes.tolist(), strict=True)
    ]


def _varint_sizes(values: IntArray) -> IntArray:
    sizes = np.ones(len(values), np.int64)
    for group in range(1, MAX_VARINT32_BYTES):
        longer = values >= 1 << 7 * group
        if not longer.any():
            break
        sizes += longer
    return sizes


def _shared_lengths(keys: Sequence[bytes], sizes: IntArray) -> IntArray:
    """Return for every key how many bytes it shares with the one before, eight bytes of all keys at a time."""
    count = len(keys)
    shared = np.zeros(count, np.int64)
    if count < 2:
        return shared
    # Eight more bytes let the last key be read in words, too.
    flat = np.frombuffer(b"".join(keys) + bytes(8), np.uint8)
    words = np.ndarray((len(flat) - 7,), "<u8", flat, strides=(1,))
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    common = np.minimum(sizes[:-1], sizes[1:])
    live = np.arange(count - 1)  # pairs that agree so far
    at = 0
    while len(live):
        begin = starts[live]
        differ = words[begin + at] ^ words[starts[live + 1] + at]
        # The lowest set bit tells the first byte that differs; past a key's end the answer is cut off below.
        equal = differ == 0
        lowest = differ & (~differ + np.uint64(1))
        agree = np.where(equal, 8, np.log2(np.where(equal, 1, lowest).astype(np.float64)).astype(np.int64) >> 3)
        shared[live + 1] = np.minimum(at + agree, common[live])
        at += 8
        live = live[equal & (common[live] > at)]
    after = shared[1:]
    ends_early = after == sizes[:-1]
    differs = flat[starts[1:] + np.minimum(after, sizes[1:])] > flat[starts[:-1] + np.minimum(after, sizes[:-1])]
    ascending = np.where(ends_early, sizes[1:] > after, (after < sizes[1:]) & differs)
    if not ascending.all():
        raise ValueError(int(np.flatnonzero(~ascending)[0]) + 1)
    return shared
