"""Copy arrays into memory of our own. Training waits for this, so nothing else is done here: sums come later.

Large arrays are cut into stripes for several threads, as numpy releases the GIL meanwhile; small ones are
taken in bunches. Work is done in the order of the memory, and the room's mark follows, so that the writer of a
disk need not wait for the end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ckptd import threads
from ckptd.client.capture.arrays import Array
from ckptd.client.capture.buffers import Room
from ckptd.client.capture.inventory import EncodedStrings, Inventory, Source
from ckptd.client.capture.memory_layout import Placement
from ckptd.engine.lanes.capture import LONG_BYTES
from ckptd.engine.manifest import Manifest

STRIPE_BYTES = 8 << 20  # what one thread takes at a time
PARALLEL_BYTES = 16 << 20  # below this, starting threads takes longer than it saves
_SMALL_BYTES = 128 << 10  # pieces below this keep threads waiting for the interpreter, not for memory
_GATHERED_BYTES = 32 << 10  # parts up to this are copied several at once: twice, which costs less than once each
_GATHER_BYTES = 512 << 10  # so many of them that the processor's cache holds them
NUM_COPIERS = max(1, min(4, os.cpu_count() or 1))


class _Piece(NamedTuple):
    """What is copied at once, and where it goes: a part, a stripe of one, or short ones that lie side by side."""

    source: Source | list[Array]
    offset: int
    size: int


def takes_long(manifest: Manifest) -> bool:
    """Whether copying takes so long that other ranks of this host may still be copying when this one is done."""
    return manifest.size_bytes >= LONG_BYTES


def capture(inventory: Inventory, placement: Placement, room: Room) -> None:
    """Copy everything that is not in its place already into the room; on return the caller may change its arrays."""
    tasks = list(_tasks(inventory, placement))
    mark = _Mark(room, [task[0].offset for task in tasks[1:]])

    def carry_out(number: int) -> None:
        for piece in tasks[number]:
            copy_piece(piece.source, room.data[piece.offset : piece.offset + piece.size])
        mark.done(number)

    size, count = sum(piece.size for task in tasks for piece in task), sum(map(len, tasks))
    if size < max(PARALLEL_BYTES, _SMALL_BYTES * count) or NUM_COPIERS == 1:
        for number in range(len(tasks)):
            carry_out(number)
    else:
        # The memory is used again after an error: no thread may still copy into it then.
        threads.each(carry_out, range(len(tasks)), NUM_COPIERS, "ckptd-capture", insists=True)
    room.captured = len(room.data)


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
    bunch: list[_Piece] = []
    room = STRIPE_BYTES
    for piece in _pieces(inventory, placement):
        if piece.size > STRIPE_BYTES and isinstance(piece.source, np.ndarray):
            if bunch:
                yield bunch
                bunch, room = [], STRIPE_BYTES
            yield from ([stripe] for stripe in _stripes(piece.source, piece.offset, piece.size))
            continue
        bunch.append(piece)
        room -= piece.size
        if room <= 0:
            yield bunch
            bunch, room = [], STRIPE_BYTES
    if bunch:
        yield bunch


def _pieces(inventory: Inventory, placement: Placement) -> Iterator[_Piece]:
    """Yield what is to be copied, in the order of the memory. Short parts are handled in groups, never one by one."""
    sources, sizes, offsets = inventory.sources, inventory.manifest.sizes, placement.offsets
    is_wanted = sizes > 0
    is_wanted[placement.staged] = False
    rows = np.argsort(offsets, kind="stable")
    rows = rows[is_wanted[rows]]
    begins, ends = offsets[rows], offsets[rows] + sizes[rows]
    is_short = inventory.is_native[rows] & (sizes[rows] <= _GATHERED_BYTES)
    # A gather ends before a gap, before what is not short, and where it has become long enough.
    is_joined = is_short[1:] & is_short[:-1] & (begins[1:] == ends[:-1])
    is_joined &= begins[1:] // _GATHER_BYTES == begins[:-1] // _GATHER_BYTES
    firsts = np.flatnonzero(np.concatenate([[True], ~is_joined])) if len(rows) else rows
    numbers = rows.tolist()
    for first, stop in pairwise([*firsts.tolist(), len(rows)]):
        gathered = [sources[row] for row in numbers[first:stop]]
        begin = int(begins[first])
        yield _Piece(gathered if len(gathered) > 1 else gathered[0], begin, int(ends[stop - 1]) - begin)


def _stripes(source: Array, offset: int, size: int) -> Iterator[_Piece]:
    """Cut a large array along its first dimension that has more than one element."""
    width = size // source.size
    while source.shape[0] == 1:
        source = source[0]
    step = max(1, STRIPE_BYTES // (size // len(source)))
    for at in range(0, len(source), step):
        stripe = source[at : at + step]
        yield _Piece(stripe, offset, stripe.size * width)
        offset += stripe.size * width


def copy_piece(source: Source | list[Array], to: NDArray[np.uint8]) -> None:
    """Copy what is stored of `source`."""
    if isinstance(source, list):
        gather(source, to)
    elif isinstance(source, EncodedStrings):
        to[: len(source.head)] = np.frombuffer(source.head, np.uint8)
        to[len(source.head) :] = np.frombuffer(source.payload, np.uint8)
    elif source.flags.c_contiguous and source.dtype.isnative:
        np.copyto(to, source.reshape(-1).view(np.uint8))
    else:  # its bytes are laid out as those of the file only once they are copied
        stored = source.dtype.newbyteorder("<")
        np.copyto(to.view(stored).reshape(source.shape), source, casting="equiv")


def gather(sources: Sequence[Array], to: NDArray[np.uint8]) -> None:
    """Copy short arrays to where they lie side by side: joined in the processor's cache, without a step for each."""
    try:
        joined = b"".join(sources)  # type: ignore[arg-type]  # arrays are buffers, which the stubs don't know
    except (TypeError, ValueError, BufferError):  # one of them is not in C order
        at = 0
        for source in sources:
            copy_piece(source, to[at : at + source.nbytes])
            at += source.nbytes
    else:
        np.copyto(to, np.frombuffer(joined, np.uint8))
