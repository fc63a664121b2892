"""Many sorted entries, of which blocks are cut and encoded without a step of Python per entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ckptd.format.block import RESTART_INTERVAL, encode_restarts, shared_length
from ckptd.format.byte_rows import varints
from ckptd.format.coding import MAX_VARINT32_BYTES
from ckptd.format.ragged import Bytes, IntArray, Ragged

_PADDING = bytes(8)  # lets the last key be read in words, too


@dataclass(frozen=True, eq=False, slots=True)
class Keys:
    """Sorted keys: row `i` is `prefixes[groups[i]]`, then `suffixes.row(i)`. Groups ascend.

    What thousands of keys begin with, such as the name of a tensor, is there once.
    """

    prefixes: Sequence[bytes]
    groups: IntArray
    suffixes: Ragged

    @classmethod
    def of(cls, keys: Sequence[bytes]) -> Keys:
        """Take keys as they are."""
        return cls((b"",), np.zeros(len(keys), np.int64), Ragged.of(keys))

    @classmethod
    def joined(cls, parts: Sequence[Keys]) -> Keys:
        """Return the keys of all parts."""
        before = np.cumsum([0, *(len(each.prefixes) for each in parts)]).tolist()
        return cls(
            [prefix for each in parts for prefix in each.prefixes],
            np.concatenate([each.groups + at for each, at in zip(parts, before, strict=False)]),
            Ragged.joined(each.suffixes for each in parts),
        )

    def __len__(self) -> int:
        return len(self.groups)

    def since(self, row: int) -> Keys:
        """Return the keys from one on, without what only those before need."""
        groups = self.groups[row:]
        first = int(groups[0]) if len(groups) else len(self.prefixes)
        return Keys(self.prefixes[first:], groups - first, self.suffixes.take(slice(row, None)).compact())

    def row(self, number: int) -> bytes:
        """Return one key."""
        return self.prefixes[int(self.groups[number])] + self.suffixes.row(number)


class Columns:
    """Many sorted entries, laid out so that blocks can be cut and encoded without a step per entry.

    Raises:
        ValueError: if the keys do not ascend.
    """

    def __init__(self, keys: Keys, values: Ragged) -> None:
        self.keys = keys
        self._suffixes = keys.suffixes
        self._prefixes = Ragged.of(keys.prefixes)
        self._prefix_sizes = self._prefixes.sizes[keys.groups]
        self._values = values
        self.key_sizes: IntArray = self._prefix_sizes + keys.suffixes.sizes
        self.value_sizes: IntArray = values.sizes
        self.shared = _shared_lengths(keys, self._prefix_sizes)
        fresh = self.key_sizes - self.shared
        of_values = _varint_sizes(self.value_sizes) + self.value_sizes
        self.alone = _varint_sizes(self.key_sizes) + 1 + self.key_sizes + of_values
        self.after = _varint_sizes(self.shared) + _varint_sizes(fresh) + fresh + of_values

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
        rows = slice(start, stop)
        shared = self.shared[rows].copy()
        shared[::RESTART_INTERVAL] = 0
        # Of a key there is what its prefix has behind the shared bytes, and of its suffix.
        of_prefix = np.minimum(shared, self._prefix_sizes[rows])
        of_suffix = shared - of_prefix
        prefixes, suffixes = self._prefixes.take(self.keys.groups[rows]), self._suffixes.take(rows)
        heads = _heads(shared, self.key_sizes[rows] - shared, self.value_sizes[rows])
        pieces = (
            heads,
            Ragged(prefixes.data, prefixes.starts + of_prefix, prefixes.sizes - of_prefix),
            Ragged(suffixes.data, suffixes.starts + of_suffix, suffixes.sizes - of_suffix),
            self._values.take(rows),
        )
        ends = np.cumsum(sum(piece.sizes for piece in pieces))
        begins = np.concatenate(([0], ends[:-1]))
        block = np.empty(int(ends[-1]), np.uint8)
        at = begins
        for piece in pieces:
            piece.put(block, at)
            at = at + piece.sizes
        return block.tobytes() + encode_restarts(begins[::RESTART_INTERVAL].tolist()), ends


def _heads(shared: IntArray, fresh: IntArray, value_sizes: IntArray) -> Ragged:
    """Return the three numbers before each entry's bytes."""
    numbers = np.stack((shared, fresh, value_sizes), axis=1)
    if int(numbers.max()) < 0x80:
        return Ragged.laid_end_to_end(numbers.astype(np.uint8).ravel(), np.full(len(numbers), 3, np.int64))
    coded, mask = varints(numbers.ravel())
    if mask is None:
        coded = np.broadcast_to(coded, (numbers.size, coded.shape[1]))
        sizes = np.full(numbers.size, coded.shape[1], np.int64)
        return Ragged.laid_end_to_end(coded.ravel(), sizes.reshape(-1, 3).sum(axis=1))
    return Ragged.laid_end_to_end(coded[mask], np.count_nonzero(mask, axis=1).reshape(-1, 3).sum(axis=1))


def _varint_sizes(values: IntArray) -> IntArray:
    sizes = np.ones(len(values), np.int64)
    for group in range(1, MAX_VARINT32_BYTES):
        longer = values >= 1 << 7 * group
        if not longer.any():
            break
        sizes += longer
    return sizes


def _shared_lengths(keys: Keys, prefix_sizes: IntArray) -> IntArray:
    """Return for every key how many bytes it shares with the one before, eight bytes of all keys at a time."""
    count = len(keys)
    shared = np.zeros(count, np.int64)
    if count < 2:
        return shared
    starts, sizes = keys.suffixes.starts, keys.suffixes.sizes
    flat: Bytes = np.concatenate([keys.suffixes.data, np.frombuffer(_PADDING, np.uint8)])
    words = np.ndarray((len(flat) - 7,), "<u8", flat, strides=(1,))
    common = np.minimum(sizes[:-1], sizes[1:])
    is_alike = keys.groups[1:] == keys.groups[:-1]
    live = np.flatnonzero(is_alike)  # pairs that agree so far
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
    after += np.where(is_alike, prefix_sizes[1:], 0)
    for pair in np.flatnonzero(~is_alike).tolist():
        one, other = keys.row(pair), keys.row(pair + 1)
        after[pair] = shared_length(one, other)
        ascending[pair] = one < other
    if not ascending.all():
        raise ValueError(int(np.flatnonzero(~ascending)[0]) + 1)
    return shared
