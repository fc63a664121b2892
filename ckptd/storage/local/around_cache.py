"""Around the page cache: bulk data goes between memory and disk without a copy in the kernel (``O_DIRECT``).

Filling new pages of the page cache costs more processor time than all else that a save or a restore does, so bulk data
avoids it. The price is alignment. For the file it is met by cutting: *units* of the file (pages, on nearly every
file system) that one call covers whole go around the cache, the partial ones at both ends go through it. So no unit is
ever written both ways by calls that may run at once: two callers that meet inside a unit both go through the cache.
For the memory it is met by chance, by the memory's layout, or by a copy through a small aligned buffer, which stays
in the processor's cache and still costs half of what the page cache costs.

None of what is written is durable before `sync`, like any other write: the disk has a cache of its own.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ckptd.storage.local.disk import Disk

Bytes = NDArray[np.uint8]

UNIT_BYTES = 4096
"""The least unit: the page, which is what the page cache keeps."""

LEAST_DIRECT_BYTES = 256 << 10
"""Less than this is faster through the page cache, which goes on while the disk works."""

BLOCK_BYTES = 8 << 20
"""One request at most: long enough for the disk, short enough for a rate limit and for an abort."""

_MAX_BOUNCES = 16


@dataclass(frozen=True, slots=True)
class DirectFile:
    """A descriptor that goes around the page cache, and the alignment that it requires.

    Attributes:
        descriptor: to be closed by its opener.
        memory_bytes: addresses are multiples of this.
        unit_bytes: offsets and lengths are multiples of this, and no unit is shared with the page cache.
    """

    descriptor: int
    memory_bytes: int = UNIT_BYTES
    unit_bytes: int = UNIT_BYTES


def address_of(view: memoryview) -> int:
    """Return where the bytes of a contiguous buffer are in memory, also of one that is read-only."""
    place: dict[str, Any] = np.frombuffer(view, np.uint8).__array_interface__
    return int(place["data"][0])


def empty_at(size_bytes: int, phase: int = 0) -> Bytes:
    """Return new memory that begins `phase` bytes past the start of a page.

    A part of a slightly larger array, which lives as long as it.
    """
    whole = np.empty(size_bytes + UNIT_BYTES, np.uint8)
    skip = (phase - address_of(whole.data)) % UNIT_BYTES
    return whole[skip : skip + size_bytes]


def whole_units(offset: int, size_bytes: int, unit_bytes: int) -> tuple[int, int]:
    """Return begin and end, in the file, of the units that are whole within a range; begin == end if there are none."""
    begin = -(-offset // unit_bytes) * unit_bytes
    return begin, max(begin, (offset + size_bytes) // unit_bytes * unit_bytes)


class Bounces:
    """Aligned buffers, made when first wanted and kept. Safe from any thread; there are at most `most`."""

    def __init__(self, size_bytes: int, most: int = _MAX_BOUNCES) -> None:
        """Make none yet."""
        self.size_bytes = size_bytes
        # Taking from a list and adding to it are single steps of the interpreter, so no lock is needed, which a fork
        # could leave locked for ever.
        self._free: list[Bytes | None] = [None] * most

    def take(self) -> Bytes | None:
        """Lend a buffer; None when all are lent."""
        try:
            buffer = self._free.pop()
        except IndexError:
            return None
        return empty_at(self.size_bytes) if buffer is None else buffer

    def give(self, buffer: Bytes) -> None:
        """Take a buffer back."""
        self._free.append(buffer)


BOUNCES = Bounces(1 << 20)
"""For writing: what was copied is still in the processor's cache when the disk fetches it."""

READ_BOUNCES = Bounces(2 << 20)
"""For reading: what is small, a buffer full at a time."""


def write_bulk(disk: Disk, file: int, direct: DirectFile, offset: int, data: memoryview) -> None:
    """Write all of `data` at `offset`, as much of it as is worth it around the page cache.

    `file` and `direct` are two descriptors of one file, whose size is fixed. Raises `OSError`.
    """
    begin, end = whole_units(offset, len(data), direct.unit_bytes)
    if end - begin < LEAST_DIRECT_BYTES:
        disk.write(file, offset, data, bulk=True)
        return
    body = data[begin - offset : end - offset]
    if address_of(body) % direct.memory_bytes:
        done = begin + _bounce(disk, direct, begin, body)
    else:
        done = begin + _straight(disk, direct, begin, body)
    if done < end:  # refused, now or earlier
        disk.write(file, done, data[done - offset : end - offset], bulk=True)
    # Partial units stay in the page cache until the sync: a neighbour is about to fill the rest of them.
    for low, high in ((offset, begin), (end, offset + len(data))):
        if low < high:
            disk.write(file, low, data[low - offset : high - offset], bulk=False)


def _straight(disk: Disk, direct: DirectFile, offset: int, data: memoryview) -> int:
    for at in range(0, len(data), BLOCK_BYTES):
        block = data[at : at + BLOCK_BYTES]
        written = disk.write_direct(direct, offset + at, block)
        if written < len(block):
            return at + written
    return len(data)


def _bounce(disk: Disk, direct: DirectFile, offset: int, data: memoryview) -> int:
    buffer = BOUNCES.take()
    if buffer is None:
        return 0
    try:
        source = np.frombuffer(data, np.uint8)
        for at in range(0, len(data), BOUNCES.size_bytes):
            part = source[at : at + BOUNCES.size_bytes]
            bounced = buffer[: len(part)]
            np.copyto(bounced, part)  # lets other threads run meanwhile, as copying between memoryviews would not
            written = disk.write_direct(direct, offset + at, bounced.data)
            if written < len(part):
                return at + written
        return len(data)
    finally:
        BOUNCES.give(buffer)


def read_bulk(disk: Disk, direct: DirectFile, offset: int, into: Sequence[memoryview]) -> int:
    """Fill `into`, one after another, from byte `offset` on, around the page cache.

    Whole units are read straight into their memory. Where that is not aligned with the file they come a few bytes
    too far, and are moved from there: one long request and a copy within the processor's cache, instead of many short
    requests. What is short, and both ends, come by way of a buffer.

    Returns how many bytes were filled: less at the file's end, and where the file system refuses, or when all buffers
    are lent; then the rest is for `read_into`. Raises `OSError`.
    """
    done = 0
    waiting: list[memoryview] = []  # neighbours, to be filled from one buffer
    waiting_bytes = 0
    for view in into:
        at = offset + done + waiting_bytes
        begin, end = at, at  # without a call, as there may be tens of thousands of short ones
        if len(view) >= LEAST_DIRECT_BYTES:
            begin, end = whole_units(at, len(view), direct.unit_bytes)
            shift = -address_of(view[begin - at :]) % direct.memory_bytes if end > begin else 0
            if end + shift > at + len(view):
                end -= direct.unit_bytes  # room to come too far
        if end - begin < LEAST_DIRECT_BYTES:
            waiting.append(view)
            waiting_bytes += len(view)
            continue
        if begin > at:
            waiting.append(view[: begin - at])
            waiting_bytes += begin - at
        count = _read_bounced(disk, direct, offset + done, waiting, waiting_bytes)
        done += count
        if count < waiting_bytes:
            return done
        waiting, waiting_bytes = [view[end - at :]], at + len(view) - end
        count = disk.read_direct(direct, begin, view[begin - at + shift : end - at + shift])
        if shift:
            place = address_of(view[begin - at :])
            ctypes.memmove(place, place + shift, count)  # lets other threads run meanwhile
        done += count
        if count < end - begin:
            return done
    return done + _read_bounced(disk, direct, offset + done, waiting, waiting_bytes)


def _read_bounced(disk: Disk, direct: DirectFile, offset: int, into: Sequence[memoryview], size_bytes: int) -> int:
    """Fill `into`, `size_bytes` in all, by way of a buffer; return how much was filled."""
    buffer = READ_BOUNCES.take() if size_bytes else None
    if buffer is None:
        return 0
    try:
        done = 0
        rest = deque(np.frombuffer(view, np.uint8) for view in into if len(view))
        while done < size_bytes:
            skip = (offset + done) % direct.unit_bytes
            wanted = min(-(-(skip + size_bytes - done) // direct.unit_bytes) * direct.unit_bytes, buffer.size)
            count = disk.read_direct(direct, offset + done - skip, buffer[:wanted].data)
            found = buffer[skip : min(count, skip + size_bytes - done)]
            if not found.size:
                break
            done += found.size
            _empty(found, rest)
        return done
    finally:
        READ_BOUNCES.give(buffer)


def _empty(found: Bytes, rest: deque[Bytes]) -> None:
    """Copy all of `found` to the beginning of `rest`, and take away from it what is full."""
    while found.size:
        memory = rest.popleft()
        count = min(found.size, memory.size)
        np.copyto(memory[:count], found[:count])
        found = found[count:]
        if count < memory.size:
            rest.appendleft(memory[count:])
