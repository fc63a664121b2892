"""Arrays → memory of our own. Training stands still meanwhile, so that nothing else is done: they are summed later.

Large arrays are cut into stripes for several threads, as numpy lets go of the interpreter meanwhile; small ones are
taken in bunches. Work is done in the order of the memory, and the room's mark follows, so that whoever writes it to a
disk need not wait for the end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ckptd.client.arrays import Array
from ckptd.client.inventory import EncodedStrings, Inventory, Source
from ckptd.client.placement import Placement
from ckptd.client.rooms import Room
from ckptd.engine.capture import LONG_BYTES
from ckptd.engine.manifest import Manifest

_STRIPE_BYTES = 8 << 20  # what one thread takes at a time
_PARALLEL_BYTES = 16 << 20  # below this, starting threads takes longer than it saves
_SMALL_BYTES = 128 << 10  # pieces below this keep threads waiting for the interpreter, not for memory
_NUM_COPIERS = max(1, min(4, os.cpu_count() or 1))


class _Piece(NamedTuple):
    """Part `row`, or a stripe of it, and where it goes. `source` is what lies in these bytes alone."""

    row: int
    source: Source
    offset: int
    size: int


def takes_long(manifest: Manifest) -> bool:
    """Whether copying takes so long that other ranks of this host may still be copying when this one is done."""
    return manifest.size_bytes >= LONG_BYTES


def capture(inventory: Inventory, placement: Placement, room: Room) -> None:
    """Copy everything that is not in its place already into the room; on return the caller may change his arrays."""
    tasks = list(_tasks(inventory, placement))
    mark = _Mark(room, [task[0].offset for task in tasks[1:]])

    def carry_out(number: int) -> None:
        for piece in tasks[number]:
            _copy(piece.source, room.data[piece.offset : piece.offset + piece.size])
        mark.done(number)

    size, count = sum(piece.size for task in tasks for piece in task), sum(map(len, tasks))
    if size < max(_PARALLEL_BYTES, _SMALL_BYTES * count) or _NUM_COPIERS == 1:
        for number in range(len(tasks)):
            carry_out(number)
    else:
        with ThreadPoolExecutor(_NUM_COPIERS, thread_name_prefix="ckptd-capture") as pool:
            for _ in pool.map(carry_out, range(len(tasks))):
                pass
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


def _copy(source: Source, to: NDArray[np.uint8]) -> None:
    """Copy what is stored of `source`."""
    if isinstance(source, EncodedStrings):
        to[: len(source.head)] = np.frombuffer(source.head, np.uint8)
        to[len(source.head) :] = np.frombuffer(source.payload, np.uint8)
    elif source.flags.c_contiguous and source.dtype.isnative:
        np.copyto(to, source.reshape(-1).view(np.uint8))
    else:  # its bytes are laid out as those of the file only once they are copied
        stored = source.dtype.newbyteorder("<")
        np.copyto(to.view(stored).reshape(source.shape), source, casting="equiv")
