"""Stored pieces → arrays: blocks are fetched by several threads, put in their place, and checked.

A block goes straight into the caller's memory where that is laid out like the file, else through a buffer. Small pieces
that lie side by side, as the many biases and counters of a model do, are fetched together. The checksum of a piece that
is read whole is put together from those of its blocks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.blocks import BLOCK_BYTES, Block
from ckptd.errors import CkptdError, CorruptionError
from ckptd.format import crc32c, tensors
from ckptd.format.dtypes import DType
from ckptd.format.index import Piece, StoredTensor
from ckptd.format.slices import Box

Array = NDArray[Any]
ReadInto = Callable[[str, int, memoryview], None]
"""Fills memory with an object's bytes from an offset on, as `Store.read_into` does."""

_BATCH_BYTES = 256 << 20  # planned, read and checked together
_BATCH_PIECES = 4096
_PARALLEL_BYTES = 4 << 20  # less than this is read before a thread has started
_SMALL_BYTES = 64 << 10  # pieces and gaps up to this are cheaper to copy than to fetch one by one
_NUM_READERS = max(2, min(8, os.cpu_count() or 2))


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


class Fetch:
    """Reads pieces of one checkpoint."""

    def __init__(self, read_into: ReadInto, shard_key: Callable[[int], str], big_endian: bool) -> None:
        self._read_into = read_into
        self._shard_key = shard_key
        self._big_endian = big_endian

    def carry_out(self, reads: Iterator[PieceRead]) -> None:
        """Do all of `reads`; raise `CorruptionError` for the first piece that is wrong."""
        while batch := _batch(reads):
            self._carry_out(batch)

    def _carry_out(self, batch: Sequence[PieceRead]) -> None:
        jobs = list(_jobs(batch))
        total = sum(block.size for read in batch for block in read.blocks)
        if total < _PARALLEL_BYTES or len(jobs) < 2:
            for job in jobs:
                self._run(job)
        else:
            # The pool lives for one batch: threads that outlive a call are a hazard to programs that fork.
            with ThreadPoolExecutor(min(_NUM_READERS, len(jobs)), thread_name_prefix="ckptd-read") as pool:
                for _ in pool.map(self._run, jobs):
                    pass
        for read in batch:
            self._check(read)

    def _run(self, job: Sequence[_Stretch]) -> None:
        for group in _neighbours(job):
            first = group[0]
            try:
                read_into = self._read_into if len(group) == 1 else self._read_together(group)
                for stretch in group:
                    first = stretch
                    if stretch.read.tensor.dtype.width:
                        self._read_block(stretch.read, stretch.number, read_into)
                    else:
                        self._read_elements(stretch.read, read_into)
            except CkptdError as error:
                raise _about(error, first.read.tensor) from error.__cause__

    def _read_together(self, group: Sequence[_Stretch]) -> ReadInto:
        """Fetch the bytes from the first stretch to the last; return what hands them out as `read_into` would."""
        start = group[0].offset
        held = memoryview(bytearray(max(stretch.end for stretch in group) - start))
        self._read_into(self._shard_key(group[0].shard), start, held)

        def read_into(_: str, offset: int, into: memoryview) -> None:
            into[:] = held[offset - start : offset - start + len(into)]

        return read_into

    def _read_block(self, read: PieceRead, number: int, read_into: ReadInto) -> None:
        """Fetch one block, straight into its place where the array's layout allows that."""
        block = read.blocks[number]
        at = Box(
            tuple(n + base for n, base in zip(block.box.start, read.piece.box.start, strict=True)), block.box.shape
        )
        common = at.intersect(read.box)
        # A block without elements of the box is read only because the whole piece is checked.
        target = None if common is None else _region(read.out, common, read.box)
        dtype = read.tensor.dtype
        is_direct = target is not None and common == at and not self._big_endian and _is_plain(target, dtype)
        held: Array = target if is_direct and target is not None else np.empty(block.box.shape, dtype.array)
        flat = np.asarray(held).reshape(-1)  # a view, also of a scalar
        memory = tensors.memory_of(flat, dtype)
        read_into(self._shard_key(read.piece.shard_id), read.piece.offset + block.offset, memory)
        if read.is_whole:
            read.crcs[number] = crc32c.crc32c(memory)
        if is_direct or target is None or common is None:
            return
        tensors.decode_into(flat, dtype, big_endian=self._big_endian)
        target[...] = _region(held, common, at)

    def _read_elements(self, read: PieceRead, read_into: ReadInto) -> None:
        """Read a piece of strings or variants: only the whole piece tells where an element begins."""
        common = read.piece.box.intersect(read.box)
        assert common is not None
        key = self._shard_key(read.piece.shard_id)
        data = bytearray(read.piece.size)
        read_into(key, read.piece.offset, memoryview(data))
        array = tensors.decode(
            data,
            read.tensor.dtype,
            read.piece.box.shape,
            big_endian=self._big_endian,
            crc32c=read.piece.crc32c,
            key=key,
            offset=read.piece.offset,
        )
        _region(read.out, common, read.box)[...] = _region(array, common, read.piece.box)

    def _check(self, read: PieceRead) -> None:
        if not read.is_whole or not read.tensor.dtype.width:
            return
        crc = 0
        for block, block_crc in zip(read.blocks, read.crcs, strict=True):
            crc = crc32c.combine(crc, block_crc, block.size)
        if crc != read.piece.crc32c:
            raise CorruptionError(
                f"checksum of tensor {read.tensor.name!r} does not match",
                key=self._shard_key(read.piece.shard_id),
                offset=read.piece.offset,
                expected=f"{read.piece.crc32c:#010x}",
                actual=f"{crc:#010x}",
            )


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
    """Return what is to be fetched, in the order in which it lies in the data files."""
    found = []
    for read in batch:
        shard, base = read.piece.shard_id, read.piece.offset
        if not read.tensor.dtype.width:
            found.append(_Stretch(read, 0, shard, base, base + read.piece.size))
        for number, block in enumerate(read.blocks):
            found.append(_Stretch(read, number, shard, base + block.offset, base + block.offset + block.size))
    found.sort(key=lambda stretch: (stretch.shard, stretch.offset))
    return found


def _jobs(batch: Sequence[PieceRead]) -> Iterator[list[_Stretch]]:
    """Group stretches into jobs of about one full block each, so that a thread's work outweighs its hand-over."""
    job: list[_Stretch] = []
    size = 0
    for stretch in _stretches(batch):
        if job and size + stretch.size > BLOCK_BYTES:
            yield job
            job, size = [], 0
        job.append(stretch)
        size += stretch.size
    if job:
        yield job


def _neighbours(job: Sequence[_Stretch]) -> Iterator[list[_Stretch]]:
    """Group small stretches that lie close together; everything else stays by itself."""
    group: list[_Stretch] = []
    for stretch in job:
        if group:
            last = group[-1]
            is_near = stretch.shard == last.shard and 0 <= stretch.offset - last.end <= _SMALL_BYTES
            is_bounded = stretch.end - group[0].offset <= BLOCK_BYTES
            if not (is_near and is_bounded and max(stretch.size, last.size) <= _SMALL_BYTES):
                yield group
                group = []
        group.append(stretch)
    if group:
        yield group


def _region(array: Array, box: Box, outer: Box) -> Array:
    """View the elements of `box` in an array that holds `outer`; of a scalar too, which plain indexing would copy."""
    index: Any = (..., *box.within(outer))
    view: Array = array[index]
    return view


def _is_plain(target: Array, dtype: DType) -> bool:
    """Say whether stored bytes can be read straight into `target`."""
    return target.flags.c_contiguous and target.dtype == dtype.array


def _about(error: CkptdError, tensor: StoredTensor) -> CkptdError:
    """Return the error with the tensor's name in its reason."""
    if repr(tensor.name) in error.reason:
        return error
    return type(error)(
        f"tensor {tensor.name!r}: {error.reason}",
        key=error.key,
        offset=error.offset,
        expected=error.expected,
        actual=error.actual,
    )
