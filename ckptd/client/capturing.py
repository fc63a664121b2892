"""Arrays → memory of our own, each byte summed while it is at hand.

A block of the source is summed first, which brings it into the processor's cache, and copied from there: both together
take little longer than the copy. Large arrays are cut into stripes for several threads, as numpy and the checksum let
go of the interpreter meanwhile; small ones are taken in bunches. Work is done in the order of the memory, and the
room's mark follows, so that whoever writes it to a disk need not wait for the end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ckptd.client.arrays import Array
from ckptd.client.inventory import EncodedStrings, Inventory, Source
from ckptd.client.placement import Placement
from ckptd.client.rooms import Room
from ckptd.engine.feeding import first_sums
from ckptd.engine.manifest import Manifest
from ckptd.format import crc32c

if TYPE_CHECKING:
    from typing_extensions import Buffer

_BLOCK_BYTES = (
    2 << 20
)  # summed and copied at once: larger leaves the caches, smaller asks for the interpreter too often
_STRIPE_BYTES = 8 << 20  # what one thread takes at a time
_PARALLEL_BYTES = 16 << 20  # below this, starting threads takes longer than it saves
_SMALL_BYTES = 128 << 10  # pieces below this keep threads waiting for the interpreter, not for memory
_NUM_COPIERS = max(1, min(4, os.cpu_count() or 1))

Sums = NDArray[np.uint32]


class _Piece(NamedTuple):
    """Part `row`, or a stripe of it, and where it goes. `source` is what lies in these bytes alone."""

    row: int
    source: Source
    offset: int
    size: int


def capture(inventory: Inventory, placement: Placement, room: Room) -> Sums:
    """Copy everything into the room; on return the caller may change his arrays.

    Returns the checksums: one per part and, of strings, two, of the lengths and of the payload. Parts that are in their
    place already are left to `sum_staged`.
    """
    begins = first_sums(inventory.manifest)
    tasks = list(_tasks(inventory, placement))
    crcs: list[list[int]] = [[] for _ in tasks]
    mark = _Mark(room, [task[0].offset for task in tasks[1:]])

    def carry_out(number: int) -> None:
        crcs[number] = [
            _copy(piece.source, room.data[piece.offset : piece.offset + piece.size]) for piece in tasks[number]
        ]
        mark.done(number)

    size, count = sum(piece.size for task in tasks for piece in task), sum(map(len, tasks))
    if size < max(_PARALLEL_BYTES, _SMALL_BYTES * count) or _NUM_COPIERS == 1:
        for number in range(len(tasks)):
            carry_out(number)
    else:
        with ThreadPoolExecutor(_NUM_COPIERS, thread_name_prefix="ckptd-capture") as pool:
            for _ in pool.map(carry_out, range(len(tasks))):
                pass
    sums = [0] * int(begins[-1])
    at = begins.tolist()
    for pieces, piece_crcs in zip(tasks, crcs, strict=True):
        for piece, crc in zip(pieces, piece_crcs, strict=True):
            if at[piece.row + 1] - at[piece.row] > 1:
                assert isinstance(piece.source, EncodedStrings)
                sums[at[piece.row]] = crc32c.crc32c(piece.source.head[: piece.source.lengths_size])
                sums[at[piece.row] + 1] = crc
            else:  # a stripe follows those before it
                before = sums[at[piece.row]]
                sums[at[piece.row]] = crc32c.combine(before, crc, piece.size) if before else crc
    room.captured = len(room.data)
    return np.array(sums, np.uint32)


def sum_staged(manifest: Manifest, placement: Placement, room: Room, sums: Sums) -> None:
    """Fill in the checksums of the parts that were in their place already."""
    begins = first_sums(manifest)
    for row in placement.staged.tolist():
        at = int(placement.offsets[row])
        sums[begins[row]] = crc32c.crc32c(cast("Buffer", room.data[at : at + int(manifest.sizes[row])]))


class _Mark:
    """Moves a room's mark to where all tasks before it are done, in whatever order they end."""

    def __init__(self, room: Room, ends: Sequence[int]) -> None:
        self._room = room
        self._ends = ends  # of every task but the last
        self._lock = threading.Lock()
        self._done: set[int] = set()
        self._next = 0

    def done(self, number: int) -> None:
        with self._lock:
            self._done.add(number)
            moved = False
            while self._next in self._done:
                self._done.remove(self._next)
                self._next += 1
                moved = True
            if moved and self._next <= len(self._ends):
                self._room.captured = self._ends[self._next - 1]


def _tasks(inventory: Inventory, placement: Placement) -> Iterator[list[_Piece]]:
    """Cut the work, in the order of the memory, into stripes of large parts and bunches of small ones."""
    sources, sizes, offsets = inventory.sources, inventory.manifest.sizes.tolist(), placement.offsets.tolist()
    bunch: list[_Piece] = []
    room = _STRIPE_BYTES
    staged = set(placement.staged.tolist())
    for row in np.argsort(placement.offsets, kind="stable").tolist():
        if row in staged:
            continue
        size, source = sizes[row], sources[row]
        if size > _STRIPE_BYTES and not isinstance(source, EncodedStrings):
            if bunch:
                yield bunch
                bunch, room = [], _STRIPE_BYTES
            yield from ([stripe] for stripe in _stripes(row, source, offsets[row], size))
        elif size:
            bunch.append(_Piece(row, source, offsets[row], size))
            room -= size
            if room <= 0:
                yield bunch
                bunch, room = [], _STRIPE_BYTES
    if bunch:
        yield bunch


def _stripes(row: int, source: Array, offset: int, size: int) -> Iterator[_Piece]:
    """Cut a large array along its first dimension that has more than one element."""
    width = size // source.size
    while source.shape[0] == 1:
        source = source[0]
    step = max(1, _STRIPE_BYTES // (size // len(source)))
    for at in range(0, len(source), step):
        stripe = source[at : at + step]
        yield _Piece(row, stripe, offset, stripe.size * width)
        offset += stripe.size * width


def _copy(source: Source, to: NDArray[np.uint8]) -> int:
    """Copy what is stored of `source`; return its checksum, of strings that of the payload."""
    if isinstance(source, EncodedStrings):
        to[: len(source.head)] = np.frombuffer(source.head, np.uint8)
        to[len(source.head) :] = np.frombuffer(source.payload, np.uint8)
        return crc32c.crc32c(source.payload)
    if source.flags.c_contiguous and source.dtype.isnative:
        return _copy_bytes(source.reshape(-1).view(np.uint8), to)
    # Its bytes are laid out as those of the file only once they are copied.
    stored = source.dtype.newbyteorder("<")
    np.copyto(to.view(stored).reshape(source.shape), source, casting="equiv")
    return crc32c.crc32c(cast("Buffer", to))


def _copy_bytes(source: NDArray[np.uint8], to: NDArray[np.uint8]) -> int:
    if len(source) <= _BLOCK_BYTES:
        crc = crc32c.crc32c(cast("Buffer", source))
        to[:] = source
        return crc
    crc = 0
    for at in range(0, len(source), _BLOCK_BYTES):
        block = source[at : at + _BLOCK_BYTES]
        crc = crc32c.extend(crc, cast("Buffer", block))
        np.copyto(to[at : at + _BLOCK_BYTES], block)
    return crc
