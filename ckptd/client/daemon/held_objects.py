"""The objects of a checkpoint that still lies in the daemon's memory: read from there, and from the store otherwise."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ckptd.arena.segment import Segment
from ckptd.engine.reading.seen import SeenIndex
from ckptd.format import crc32c
from ckptd.storage.base import AccessPattern, Objects, ObjectStat
from ckptd.storage.capabilities import CheckingObjects, ForeseeingObjects, SlicePart, read_by_many
from ckptd.storage.holds import Hold, hold
from ckptd.wire.v1 import arena_pb2

BLOCK_BYTES = 1 << 20  # larger leaves the caches; smaller is copied by an instruction that wants aligned arrays


@dataclass(frozen=True, slots=True)
class Offer:
    """What a daemon offers to be read from memory: bytes of one save.

    Attributes:
        segments: arenas, by the numbers that `runs` name.
        runs: which bytes of which objects lie where in them.
        index_key: key of the save's index.
        index_crc32c: checksum of it. An index that has another is of another save with the same prefix.
        is_alive: says whether the daemon still runs. After its end, nothing would report that the save was deleted.
    """

    segments: Mapping[int, Segment]
    runs: Iterable[arena_pb2.ArenaRun]
    index_key: str
    index_crc32c: int
    is_alive: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class _Run:
    """Bytes `begin` to `end` of an object, in an arena from `arena_offset` on."""

    begin: int
    end: int
    segment: Segment
    generation: int
    arena_offset: int

    def copy(self, at: int, into: memoryview) -> int | None:
        """Fill `into` from byte `at` of the object; return its checksum, None if the arena did not hold it throughout.

        A block is summed as soon as it is copied, while it is in the processor's cache.
        """
        if not self.segment.holds(self.generation):
            return None
        begin = self.arena_offset + at - self.begin
        source, target = self.segment.data[begin : begin + len(into)], np.frombuffer(into, np.uint8)
        crc = 0
        for first in range(0, len(target), BLOCK_BYTES):
            block = target[first : first + BLOCK_BYTES]
            np.copyto(block, source[first : first + BLOCK_BYTES])
            crc = crc32c.extend(crc, block.data)
        return crc if self.segment.holds(self.generation) else None


class HeldObjects:
    """Objects, some bytes of which are in memory. Any thread may use it.

    Memory is read once the index, read by `get`, has turned out to be that of the save which the memory holds.
    What a worker overwrites meanwhile, for its next save, is noticed and read from the store, and so is what was
    deleted meanwhile. `NotFoundError` says that another checkpoint has taken its place there, or none.

    Attributes:
        held_bytes: how much was read from memory so far.
    """

    def __init__(self, objects: Objects, offer: Offer) -> None:
        self._objects = objects
        self._offer = offer
        self.held_bytes, self._counting = 0, threading.Lock()
        self._index: SeenIndex | None = None  # once it is known to be the save's
        # Used with every piece, and counting processors means reading a file.
        self._access = AccessPattern(num_readers=os.cpu_count() or 1, gap_bytes=objects.access.gap_bytes)
        self._runs: dict[str, list[_Run]] = {}
        for run in sorted(offer.runs, key=lambda run: run.shard_offset):
            segment = offer.segments.get(run.arena)
            if segment is None or not 0 <= run.arena_offset <= run.arena_offset + run.size_bytes <= segment.size_bytes:
                continue
            found = _Run(run.shard_offset, run.shard_offset + run.size_bytes, segment, run.generation, run.arena_offset)
            self._runs.setdefault(run.shard_key, []).append(found)
        self._begins = {key: [run.begin for run in runs] for key, runs in self._runs.items()}

    @property
    def beneath(self) -> Objects:
        """The store, or the daemon's, that what is not in memory comes from."""
        return self._objects

    @property
    def access(self) -> AccessPattern:
        """As many readers as can copy at once; the gaps are those of the store, where what is missing comes from."""
        return self._access

    def read_by_many(self) -> HeldObjects:
        """See `SharedObjects`."""
        self._objects = read_by_many(self._objects)
        return self

    def foresee(self, ranges: Sequence[tuple[str, int, int]]) -> None:
        """See `ForeseeingObjects`."""
        if isinstance(self._objects, ForeseeingObjects):
            self._objects.foresee([each for each in ranges if not self._is_held(each[0])])

    def get(self, key: str, *, limit_bytes: int = 1 << 31) -> bytes:
        """Return a whole object."""
        if key != self._offer.index_key:
            return self._objects.get(key, limit_bytes=limit_bytes)
        index = SeenIndex(self._objects, key, limit_bytes=limit_bytes)
        data, index.data = index.data, b""
        self._index = index if index.crc32c == self._offer.index_crc32c else None
        return data

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        """Fill `into`, one after another, from byte `offset` on."""
        if self._is_held(key):
            self.read_summed(key, offset, *into)
        else:
            self._objects.read_into(key, offset, *into)

    def read_summed(self, key: str, offset: int, *into: memoryview) -> list[int]:
        """See `SummingObjects`."""
        if not self._is_held(key):
            self._objects.read_into(key, offset, *into)
            return crc32c.each(memory.cast("B") for memory in into)
        sums = []
        for view in (memory.cast("B") for memory in into):
            sizes: list[int] = []
            crcs: list[int] = []
            while (at := sum(sizes)) < len(view):
                size, crc = self._read_some(key, offset + at, view[at:])
                sizes.append(size)
                crcs.append(crc)
            sums.append(crc32c.joined(crcs, sizes))
            offset += len(view)
        return sums

    def read_parts(self, key: str, offset: int, slices: Sequence[SlicePart], *into: memoryview) -> None:
        """See `CheckingObjects`. What this host has in memory is trusted."""
        if not self._is_held(key):
            self._read_beneath(key, offset, slices, *into)
            return
        for view in (memory.cast("B") for memory in into):
            at = 0
            while at < len(view):
                at += self._read_some(key, offset + at, view[at:], slices)[0]
            offset += len(view)

    def _read_beneath(self, key: str, offset: int, slices: Sequence[SlicePart], *into: memoryview) -> None:
        if slices and isinstance(self._objects, CheckingObjects):
            self._objects.read_parts(key, offset, slices, *into)
        else:
            self._objects.read_into(key, offset, *into)

    def _read_some(self, key: str, offset: int, into: memoryview, slices: Sequence[SlicePart] = ()) -> tuple[int, int]:
        """Fill a part of `into`, as long as it comes from one place; return how long, and the checksum."""
        runs = self._runs[key]
        is_lost = False
        number = bisect_right(self._begins[key], offset) - 1
        if number >= 0 and offset < runs[number].end:
            size = min(len(into), runs[number].end - offset)
            crc = runs[number].copy(offset, into[:size]) if self._offer.is_alive() else None
            if crc is not None:
                with self._counting:
                    self.held_bytes += size
                return size, crc
            is_lost = True
        else:
            following = runs[number + 1].begin if number + 1 < len(runs) else offset + len(into)
            size = min(len(into), following - offset)
        self._read_beneath(key, offset, slices, into[:size])
        if is_lost and self._index is not None:
            self._index.check()
        return size, crc32c.crc32c(into[:size])

    def _is_held(self, key: str) -> bool:
        return self._index is not None and key in self._runs

    def hold(self, key: str) -> Hold | None:
        """See `HoldingObjects`."""
        return hold(self._objects, key)

    def stat(self, key: str) -> ObjectStat:
        """Describe one object."""
        return self._objects.stat(key)

    def location(self, key: str) -> str:
        """Say where an object is, for messages."""
        return self._objects.location(key)
