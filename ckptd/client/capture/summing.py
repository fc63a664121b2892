"""Compute the checksums of captured memory.

Usually they are taken by one thread, after training goes on. Of memory that training can reach they are taken before
`save` returns, by several: that takes less than the copy would, as nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ckptd import threads
from ckptd.engine.lanes.feeding import first_sums
from ckptd.engine.layout import Column
from ckptd.engine.manifest import Manifest
from ckptd.format import crc32c
from ckptd.format.strings import CHECKSUM_BYTES

Sums = NDArray[np.uint32]

NUM_SUMMERS = max(1, min(4, os.cpu_count() or 1))
"""Threads that sum while training stands still."""

BUNCH_BYTES = 4 << 20  # what one thread takes at a time
PARALLEL_BYTES = 8 << 20  # below this, starting threads takes longer than it saves
SMALL_BYTES = 64 << 10  # ranges below this keep threads waiting for the interpreter, not for memory


def sum_parts(manifest: Manifest, offsets: Column, memory: memoryview, num_threads: int = 1) -> Sums:
    """Return CRC-32C per part and, of strings, two: of the lengths, and of what follows their checksum.

    `offsets` says where the stored form of each part begins in `memory`.
    """
    begins, ends = _ranges(manifest, offsets)
    size = int((ends - begins).sum())
    if num_threads == 1 or size < max(PARALLEL_BYTES, SMALL_BYTES * len(begins)):
        places = zip(begins.tolist(), ends.tolist(), strict=True)
        return np.array(crc32c.each(memory[at:end] for at, end in places), np.uint32)

    def sum_bunch(bunch: list[tuple[int, int, int]]) -> list[int]:
        return crc32c.each(memory[at:end] for _, at, end in bunch)

    bunches = list(_bunches(begins, ends))
    sums = [0] * len(begins)
    for bunch, crcs in zip(bunches, threads.each(sum_bunch, bunches, num_threads, "ckptd-sum"), strict=True):
        for (row, at, end), crc in zip(bunch, crcs, strict=True):
            sums[row] = crc if at == begins[row] else crc32c.combine(sums[row], crc, end - at)
    return np.array(sums, np.uint32)


def _ranges(manifest: Manifest, offsets: Column) -> tuple[Column, Column]:
    """Return where in memory each checksum's bytes begin and end."""
    firsts = first_sums(manifest)
    begins, ends = np.zeros(int(firsts[-1]), np.int64), np.zeros(int(firsts[-1]), np.int64)
    begins[firsts[:-1]], ends[firsts[:-1]] = offsets, offsets + manifest.sizes
    strings = np.flatnonzero(np.diff(firsts) > 1)
    lengths = firsts[strings]
    begins[lengths + 1] = offsets[strings] + manifest.lengths_sizes[strings] + CHECKSUM_BYTES
    ends[lengths + 1] = ends[lengths]
    ends[lengths] = offsets[strings] + manifest.lengths_sizes[strings]
    return begins, ends


def _bunches(begins: Column, ends: Column) -> Iterator[list[tuple[int, int, int]]]:
    """Cut the ranges into about equal work: pieces of long ones, bunches of short ones; (row, begin, end) each."""
    bunch: list[tuple[int, int, int]] = []
    room = BUNCH_BYTES
    for row, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        at = begin
        while at < end:
            stop = min(end, at + room)
            bunch.append((row, at, stop))
            room -= stop - at
            at = stop
            if not room:
                yield bunch
                bunch, room = [], BUNCH_BYTES
    if bunch:
        yield bunch
