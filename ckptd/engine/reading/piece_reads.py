"""Stored pieces → arrays: blocks are fetched by several threads, put in their place, and checked.

A block goes straight into the caller's memory where that is laid out like the file, else through a buffer. What is
side by side is fetched by one request, each block into its own place: a bucket takes longer to answer than to send a
megabyte. The checksum of a piece that is read whole is put together from those of its blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptd import threads
from ckptd.engine.reading.blocks import BLOCK_BYTES, Block
from ckptd.engine.reading.mismatch import mismatch
from ckptd.errors import CkptdError
from ckptd.format import crc32c, tensors
from ckptd.format.dtypes import DType
from ckptd.format.slices import Box
from ckptd.format.stored import Piece, StoredTensor
from ckptd.storage.base import AccessPattern, Objects, SummingObjects
from ckptd.storage.capabilities import CheckingObjects, ForeseeingObjects, SlicePart

Array = NDArray[Any]

_BATCH_BYTES = 1 << 30  # planned, read and checked together
_BATCH_PIECES = 4096
PARALLEL_BYTES = 4 << 20  # less than this is read before a thread has started


@dataclass(slots=True)
class PieceRead:
    """One stored piece under way: what is read of it and where that goes."""

    tensor: StoredTensor
    piece: Piece
    out: Array
    box: Box  # what `out` holds, in the tensor's coordinates
    blocks: list[Block]
    is_whole: bool
    crcs: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Arriving:
    """Room for one stretch.

    Attributes:
        memory: what is to be filled.
        flat: the same as elements in a row; None for strings and variants, which are decoded from `memory`.
        target, source: what is copied where once it is decoded; None where it is in its place already, or unwanted.
    """

    memory: memoryview
    flat: Array | None = None
    target: Array | None = None
    source: Array | None = None


class Counted:
    """Counts the bytes of one read. Any thread may use it."""

    def __init__(self, total_bytes: int, progress: Callable[[int, int], None]) -> None:
        """Tell `progress` that nothing is done yet, of so many bytes."""
        self._total_bytes, self._progress = total_bytes, progress
        self._lock = threading.Lock()
        self._done_bytes = 0
        progress(0, total_bytes)

    def add(self, size_bytes: int) -> None:
        """Tell that so many more are done. Of what is read whole to check it there may be more than was wanted."""
        with self._lock:
            self._done_bytes = min(self._done_bytes + size_bytes, self._total_bytes)
            self._progress(self._done_bytes, self._total_bytes)


class Fetch:
    """Reads pieces of one checkpoint."""

    def __init__(
        self, objects: Objects, shard_key: Callable[[int], str], big_endian: bool, counted: Counted | None = None
    ) -> None:
        self._counted = counted
        self._objects = objects
        self._summing = objects if isinstance(objects, SummingObjects) else None
        self._checking = objects if isinstance(objects, CheckingObjects) else None
        self._shard_key = shard_key
        self._big_endian = big_endian

    def carry_out(self, reads: Iterator[PieceRead]) -> None:
        """Do all of `reads`; raise `CorruptionError` for the first piece that is wrong."""
        while batch := _batch(reads):
            self._carry_out(batch)

    def _carry_out(self, batch: Sequence[PieceRead]) -> None:
        access = self._objects.access
        jobs = list(_jobs(batch, access))
        if isinstance(self._objects, ForeseeingObjects):
            self._objects.foresee(self._ranges(jobs))
        total = sum(block.size for read in batch for block in read.blocks)
        if total < PARALLEL_BYTES or len(jobs) < 2:
            for job in jobs:
                self._run(job)
        else:
            threads.each(self._run, jobs, access.num_readers, "ckptd-read")
        for read in batch:
            self._check(read)

    def _ranges(self, jobs: Sequence[Sequence[_Stretch]]) -> list[tuple[str, int, int]]:
        """Return key, offset and size of what is to be read, with what is side by side joined."""
        found: list[tuple[str, int, int]] = []
        for group in _neighbours([stretch for job in jobs for stretch in job], self._objects.access.gap_bytes):
            begin = group[0].offset
            found.append((self._shard_key(group[0].shard), begin, max(each.end for each in group) - begin))
        return found

    def _run(self, job: Sequence[_Stretch]) -> None:
        for group in _neighbours(job, self._objects.access.gap_bytes):
            at = group[0]  # what an error is about
            try:
                held = [self._memory(stretch) for stretch in group]
                sums = self._fill(group, [arriving.memory for arriving in held])
                for at, arriving, crc in zip(group, held, sums, strict=True):
                    self._take(at, arriving, crc)
                if self._counted is not None:
                    self._counted.add(sum(stretch.size for stretch in group))
            except CkptdError as error:
                raise error.in_tensor(at.read.tensor.name) from error.__cause__

    def _memory(self, stretch: _Stretch) -> _Arriving:
        """Make room for one stretch: in its place at once, where the array's layout allows that."""
        read = stretch.read
        if not read.tensor.dtype.width:
            return _Arriving(memoryview(bytearray(stretch.size)))
        block = read.blocks[stretch.number]
        at = Box(
            tuple(n + base for n, base in zip(block.box.start, read.piece.box.start, strict=True)), block.box.shape
        )
        common = at.intersect(read.box)
        # A block without elements of the box is read only because the whole piece is checked.
        target = None if common is None else _region(read.out, common, read.box)
        dtype = read.tensor.dtype
        is_direct = target is not None and common == at and not self._big_endian and _is_plain(target, dtype)
        array: Array = target if is_direct and target is not None else np.empty(block.box.shape, dtype.array)
        flat = np.asarray(array).reshape(-1)  # a view, also of a scalar
        memory = tensors.memory_of(flat, dtype)
        if is_direct or target is None or common is None:
            return _Arriving(memory, flat)
        return _Arriving(memory, flat, target, _region(array, common, at))

    def _fill(self, group: Sequence[_Stretch], memories: Sequence[memoryview]) -> list[int | None]:
        """Fetch all of a group at once; what is between two stretches goes nowhere.

        Returns the checksum of each stretch, None where it is still to be taken.
        """
        into: list[memoryview] = []
        places: list[int] = []
        at = group[0].offset
        for stretch, memory in zip(group, memories, strict=True):
            if stretch.offset > at:
                into.append(memoryview(bytearray(stretch.offset - at)))
            places.append(len(into))
            into.append(memory)
            at = stretch.end
        key, begin = self._shard_key(group[0].shard), group[0].offset
        if self._checking is not None and (parts := _parts(group)):
            self._checking.read_parts(key, begin, parts, *into)
            return [None] * len(places)
        if self._summing is not None:
            sums = self._summing.read_summed(key, begin, *into)
            return [sums[place] for place in places]
        self._objects.read_into(key, begin, *into)
        return [None] * len(places)

    def _take(self, stretch: _Stretch, arriving: _Arriving, crc: int | None) -> None:
        """Note the checksum of what has come, and decode and copy it unless it is in its place."""
        read = stretch.read
        if arriving.flat is None:
            self._take_elements(read, arriving.memory)
            return
        if read.is_whole:
            read.crcs[stretch.number] = crc32c.crc32c(arriving.memory) if crc is None else crc
        if arriving.target is not None:
            tensors.decode_into(arriving.flat, read.tensor.dtype, big_endian=self._big_endian)
            arriving.target[...] = arriving.source

    def _take_elements(self, read: PieceRead, data: memoryview) -> None:
        """Decode a piece of strings or variants: only the whole piece tells where an element begins."""
        common = read.piece.box.intersect(read.box)
        assert common is not None
        array = tensors.decode(
            data,
            read.tensor.dtype,
            read.piece.box.shape,
            big_endian=self._big_endian,
            crc32c=read.piece.crc32c,
            key=self._shard_key(read.piece.shard_id),
            offset=read.piece.offset,
        )
        _region(read.out, common, read.box)[...] = _region(array, common, read.piece.box)

    def _check(self, read: PieceRead) -> None:
        if not read.is_whole or not read.tensor.dtype.width:
            return
        crc = crc32c.joined(read.crcs, (block.size for block in read.blocks))
        if crc != read.piece.crc32c:
            raise mismatch(read.tensor, read.piece, crc, self._shard_key(read.piece.shard_id))


def _batch(work: Iterator[PieceRead]) -> list[PieceRead]:
    """Take reads until there are enough to be worth a pool of threads, and not more than memory bears."""
    batch, size = [], 0
    for read in islice(work, _BATCH_PIECES):
        read.crcs = [0] * len(read.blocks)
        batch.append(read)
        size += sum(block.size for block in read.blocks)
        if size >= _BATCH_BYTES:
            break
    return batch


@dataclass(frozen=True, slots=True)
class _Stretch:
    """What is fetched at once of one piece: a block of it, or all of a piece of strings."""

    read: PieceRead
    number: int  # of the block
    shard: int
    offset: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.offset


def _stretches(batch: Sequence[PieceRead]) -> list[_Stretch]:
    """Return what is to be fetched, in the order in which it is in the data files."""
    found = []
    for read in batch:
        shard, base = read.piece.shard_id, read.piece.offset
        if not read.tensor.dtype.width:
            found.append(_Stretch(read, 0, shard, base, base + read.piece.size))
        for number, block in enumerate(read.blocks):
            found.append(_Stretch(read, number, shard, base + block.offset, base + block.offset + block.size))
    found.sort(key=lambda stretch: (stretch.shard, stretch.offset))
    return found


def _jobs(batch: Sequence[PieceRead], access: AccessPattern) -> Iterator[list[_Stretch]]:
    """Group stretches into jobs so that a thread's work outweighs its hand-over.

    A job is one full request of what is side by side. Distant ranges are requested one by one, and shared out.
    """
    job: list[_Stretch] = []
    size = 0
    for stretch in _stretches(batch):
        most = access.request_bytes if job and _is_near(job[-1], stretch, access.gap_bytes) else BLOCK_BYTES
        if job and size + stretch.size > most:
            yield job
            job, size = [], 0
        job.append(stretch)
        size += stretch.size
    if job:
        yield job


def _neighbours(job: Sequence[_Stretch], gap_bytes: int) -> Iterator[list[_Stretch]]:
    """Group stretches that are side by side, or nearly."""
    group: list[_Stretch] = []
    for stretch in job:
        if group and not _is_near(group[-1], stretch, gap_bytes):
            yield group
            group = []
        group.append(stretch)
    if group:
        yield group


def _is_near(last: _Stretch, stretch: _Stretch, gap_bytes: int) -> bool:
    return stretch.shard == last.shard and 0 <= stretch.offset - last.end < gap_bytes


def _parts(group: Sequence[_Stretch]) -> list[SlicePart]:
    """Return the pieces of which a part is wanted: nothing here can check it."""
    found: dict[int, SlicePart] = {}
    for read in (stretch.read for stretch in group if not stretch.read.is_whole):
        piece = read.piece
        if piece.offset not in found:
            wanted = sum(block.size for block in read.blocks)
            found[piece.offset] = SlicePart(piece.offset, piece.size, piece.crc32c, wanted)
    return list(found.values())


def _region(array: Array, box: Box, outer: Box) -> Array:
    """View the elements of `box` in an array that holds `outer`; of a scalar too, which plain indexing would copy."""
    index: Any = (..., *box.within(outer))
    view: Array = array[index]
    return view


def _is_plain(target: Array, dtype: DType) -> bool:
    """Say whether stored bytes can be read straight into `target`."""
    return target.flags.c_contiguous and target.dtype == dtype.array
