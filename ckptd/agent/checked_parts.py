"""Parts of stored slices, checked before a rank gets them: the checksum in the index covers the whole slice.

A rank that wants little of a slice does not read all of it. What comes from another host's agent is not trusted, so the
rank's own agent reads the whole slice once, compares it with the checksum that the rank has from the index, and notes
the checksums of its blocks. Each block that is read later, from wherever, is compared with these. A slice of which the
ranks of this host want too little for that is read from the store itself, as far as this host has not got it in memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ckptd import threads
from ckptd.agent.block_cache import BlockCache
from ckptd.agent.kept_block import KeptBlock
from ckptd.errors import CorruptionError
from ckptd.format import crc32c
from ckptd.storage.base import ObjectStat
from ckptd.storage.capabilities import SlicePart

MOST_TO_CHECK = 4
"""A slice is read whole if it is at most so many times as large as what the ranks of this host want of it."""

_MOST_SUMS = 1 << 20
_BLOCKS_AT_ONCE = 4


class _Checked(NamedTuple):
    key: str
    version: str
    offset: int
    size: int
    crc32c: int


class CheckedParts:
    """See the module. Any thread may use it."""

    def __init__(
        self,
        block_bytes: int,
        shared: Callable[[ObjectStat, int], KeptBlock | None],
        original: Callable[[str, int, int], KeptBlock],
        forget: Callable[[str], object],
    ) -> None:
        """Know nothing yet.

        Args:
            block_bytes: size of blocks.
            shared: returns a block of an object, from wherever.
            original: returns bytes of an object (key, offset, size) from this host's memory or the store.
            forget: is told of an object of which a copy was damaged.
        """
        self._block_bytes, self._shared, self._original, self._forget = block_bytes, shared, original, forget
        self._sums: BlockCache[array[int]] = BlockCache(_MOST_SUMS)

    def views(
        self, stat: ObjectStat, offset: int, size: int, slices: Sequence[SlicePart], num_ranks: int
    ) -> Iterator[memoryview]:
        """Yield these bytes of an object; see `CheckingObjects.read_parts`."""
        end = offset + size
        for part in sorted(slices, key=lambda part: part.offset):
            begin, until = max(offset, part.offset), min(end, part.offset + part.size)
            if begin >= until:
                continue
            yield from self._unchecked(stat, offset, begin)
            if part.size > MOST_TO_CHECK * part.wanted_bytes * num_ranks:
                original = self._original(stat.key, begin, until - begin)
                yield from original.views(0, until - begin)
            else:
                yield from self._checked(stat, begin, until, part)
            offset = until
        yield from self._unchecked(stat, offset, end)

    def _unchecked(self, stat: ObjectStat, offset: int, end: int) -> Iterator[memoryview]:
        """Yield bytes that the reader checks itself, or that are between those that it wants."""
        while offset < end:
            number, within = divmod(offset, self._block_bytes)
            for view in self._block(stat, number).views(within, within + end - offset):
                yield view
                offset += len(view)

    def _checked(self, stat: ObjectStat, offset: int, end: int, part: SlicePart) -> Iterator[memoryview]:
        sums = self._sums_of(stat, part)
        while offset < end:
            number = offset // self._block_bytes
            begin, until = self._within(part, number)
            crc = sums[number - part.offset // self._block_bytes]
            block, base = self._block(stat, number), number * self._block_bytes
            if (begin, until, crc) not in block.checked:
                if _crc(block, begin - base, until - base) != crc:
                    self._forget(stat.key)
                    block, base = self._original(stat.key, begin, until - begin), begin
                    if _crc(block, 0, until - begin) != crc:
                        raise CorruptionError("bytes of a slice have changed", key=stat.key, offset=begin)
                block.checked.add((begin, until, crc))
            for view in block.views(offset - base, min(end, until) - base):
                yield view
                offset += len(view)

    def _sums_of(self, stat: ObjectStat, part: SlicePart) -> array[int]:
        """Return the checksums of the blocks of a slice, once they are known to give that of the whole."""
        numbers = range(part.offset // self._block_bytes, -(-(part.offset + part.size) // self._block_bytes))
        spans = [self._within(part, number) for number in numbers]

        def of_copy(number: int) -> int:
            (begin, until), base = spans[number - numbers[0]], number * self._block_bytes
            return _crc(self._block(stat, number), begin - base, until - base)

        def of_original(span: tuple[int, int]) -> int:
            return _crc(self._original(stat.key, span[0], span[1] - span[0]), 0, span[1] - span[0])

        def load() -> array[int]:
            sizes = [until - begin for begin, until in spans]
            sums = threads.each(of_copy, numbers, _BLOCKS_AT_ONCE, "ckptd-check")
            if crc32c.joined(sums, sizes) != part.crc32c:
                self._forget(stat.key)
                sums = threads.each(of_original, spans, _BLOCKS_AT_ONCE, "ckptd-check")
                if (crc := crc32c.joined(sums, sizes)) != part.crc32c:
                    raise CorruptionError(
                        "a slice has another checksum than the index says",
                        key=stat.key,
                        offset=part.offset,
                        expected=f"{part.crc32c:#010x}",
                        actual=f"{crc:#010x}",
                    )
            return array("L", sums)

        what = _Checked(stat.key, stat.version, part.offset, part.size, part.crc32c)
        return self._sums.get(what, load)

    def _within(self, part: SlicePart, number: int) -> tuple[int, int]:
        """Return where the bytes of a slice begin and end that are in a block."""
        begin = number * self._block_bytes
        return max(part.offset, begin), min(part.offset + part.size, begin + self._block_bytes)

    def _block(self, stat: ObjectStat, number: int) -> KeptBlock:
        found = self._shared(stat, number)
        if found is None:
            raise CorruptionError("object ends early", key=stat.key, actual=stat.size_bytes)
        return found


def _crc(block: KeptBlock, begin: int, end: int) -> int:
    crc = size = 0
    for view in block.views(begin, end):
        crc, size = crc32c.extend(crc, view), size + len(view)
    if size != end - begin:
        raise CorruptionError("object ends within a slice", expected=end - begin, actual=size)
    return crc
