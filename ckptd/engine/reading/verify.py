"""Reads everything back and checks it.

Every stored piece of every tensor is read and compared with its checksum; every tensor is checked to be
covered completely and without overlap; every data file is checked to be there. Memory is bounded by a few
blocks, except for strings and variants, whose pieces are held one at a time per thread: their checksums cover what the
bytes mean, not the bytes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from typing import Protocol, runtime_checkable

from ckptd import threads
from ckptd.engine.reading.blocks import BLOCK_BYTES
from ckptd.engine.reading.bundle import Bundle
from ckptd.errors import CkptdError, CorruptionError, NotFoundError
from ckptd.format import crc32c, strings
from ckptd.format.names import index_key, parse_shard_key
from ckptd.format.stored import Piece, StoredTensor
from ckptd.printable import counted
from ckptd.storage.base import Objects

Progress = Callable[[int, int], None]
"""Called with the bytes checked so far and those to check in all; from one thread."""

_BATCH_BYTES = 64 << 20
_BATCH_PIECES = 4096
_NUM_READERS = max(2, min(4, os.cpu_count() or 2))


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        key: the object.
        reason: what is wrong with it, in words.
        tensor: whose bytes these are, None when it is about the whole object.
        offset: of the first byte concerned, None when that has no meaning.
        is_fatal: a reader would fail or miss something. Leftovers that nothing reads are not.
    """

    key: str
    reason: str
    tensor: str | None = None
    offset: int | None = None
    is_fatal: bool = True

    def __str__(self) -> str:
        where = "" if self.offset is None else f" at byte {self.offset}"
        subject = "" if self.tensor is None else f"tensor {self.tensor!r}: "
        return f"{self.key}{where}: {subject}{self.reason}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found.

    Attributes:
        prefix: as people open it.
        ok: nothing fatal was found.
        num_tensors: named in the index, sliced ones counted once.
        num_shards: data files that the index names.
        size_bytes: of all stored pieces: what was read.
        problems: in the order of the index; then what is about whole files.
    """

    prefix: str
    ok: bool
    num_tensors: int
    num_shards: int
    size_bytes: int
    problems: tuple[Problem, ...]


@runtime_checkable
class Listable(Protocol):
    """Objects that can also be listed, as those of a store; only then leftovers are noticed."""

    def keys(self, directory: str, starts_with: str) -> Sequence[str]:
        """Return the keys directly in a directory whose last component starts so."""


@dataclass(slots=True)
class _Check:
    """One stored piece to read: its ranges, and their checksums as they come in."""

    tensor: StoredTensor
    piece: Piece
    ranges: list[tuple[int, int]]  # offset within the piece, size
    crcs: list[int] = field(default_factory=list)
    problem: Problem | None = None


def verify(
    objects: Objects, key: str, progress: Progress | None = None, *, only: Container[str] | None = None
) -> Report:
    """Check the checkpoint whose prefix is `key`, all of it, or of its tensors those named in `only`.

    Damage is reported, not raised. That every data file is there is checked in any case.

    Raises:
        NotFoundError: when there is no such checkpoint.
        UnavailableError, NotPermittedError: when it can't be read, which says nothing about its bytes.
    """
    try:
        bundle = Bundle.open(objects, key)
    except CorruptionError as error:
        problem = Problem(error.key or index_key(key), _reason(error), offset=error.offset)
        return Report(objects.location(key), False, 0, 0, 0, (problem,))
    return _Verification(objects, bundle, progress, only).run()


class _Verification:
    """One run of `verify`."""

    def __init__(
        self, objects: Objects, bundle: Bundle, progress: Progress | None, only: Container[str] | None
    ) -> None:
        self._only = only
        self._objects = objects
        self._bundle = bundle
        self._progress = progress
        self._problems: list[Problem] = []
        self._buffers = threading.local()
        self._total_bytes = 0
        self._done_bytes = 0

    def run(self) -> Report:
        only = self._only
        names = [name for name in self._bundle.names() if only is None or name in only]
        tensors = list(self._tensors(names))
        self._total_bytes = sum(piece.size for tensor in tensors for piece in tensor.pieces)
        work = (check for tensor in tensors for check in self._checks(tensor))
        while batch := _batch(work):
            jobs = [(check, number) for check in batch for number in range(len(check.ranges))]
            threads.each(self._read, jobs, _NUM_READERS, "ckptd-verify")
            for check in batch:
                self._conclude(check)
        self._check_files()
        problems = tuple(self._problems)
        return Report(
            prefix=self._bundle.location,
            ok=not any(problem.is_fatal for problem in problems),
            num_tensors=len(names),
            num_shards=self._bundle.index.num_shards,
            size_bytes=self._done_bytes,
            problems=problems,
        )

    def _tensors(self, names: Sequence[str]) -> Iterator[StoredTensor]:
        """Yield what the index describes properly; note what it does not."""
        for name in names:
            try:
                tensor = self._bundle.index.tensor(name)
            except CorruptionError as error:
                self._note(error, name)
                continue
            # The index has refused overlaps already, so a gap is all that can be wrong with the cover.
            held = sum(piece.box.num_elements for piece in tensor.pieces)
            if held != prod(tensor.shape):
                self._problems.append(
                    Problem(
                        index_key(self._bundle.key),
                        f"its slices hold {held} of {prod(tensor.shape)} elements",
                        tensor=name,
                    )
                )
            yield tensor

    def _checks(self, tensor: StoredTensor) -> Iterator[_Check]:
        for piece in tensor.pieces:
            try:
                self._bundle.check_place(tensor, piece)
            except CorruptionError as error:
                self._note(error, tensor.name)
                continue
            step = BLOCK_BYTES if tensor.dtype.width else max(piece.size, 1)
            ranges = [(at, min(step, piece.size - at)) for at in range(0, piece.size, step)]
            yield _Check(tensor, piece, ranges, [0] * len(ranges))

    def _read(self, job: tuple[_Check, int]) -> None:
        """Read one range and take its checksum; what is wrong with it is kept for the report."""
        check, number = job
        at, size = check.ranges[number]
        key = self._bundle.shard_key(check.piece.shard_id)
        memory = self._buffer(size)
        try:
            self._objects.read_into(key, check.piece.offset + at, memory)
            if check.tensor.dtype.width:
                check.crcs[number] = crc32c.crc32c(memory)
            else:
                check.crcs[number] = strings.stored_crc32c(
                    memory, check.tensor.dtype, check.piece.box.num_elements, self._bundle.index.big_endian
                )
        except (CorruptionError, NotFoundError) as error:
            offset = check.piece.offset + at + (error.offset or 0) if error.key is None else error.offset
            check.problem = Problem(key, _reason(error), tensor=check.tensor.name, offset=offset)

    def _buffer(self, size: int) -> memoryview:
        """Return this thread's buffer, at least a block long; a longer one is not kept."""
        if size > BLOCK_BYTES:
            return memoryview(bytearray(size))
        held: memoryview | None = getattr(self._buffers, "block", None)
        if held is None:
            held = self._buffers.block = memoryview(bytearray(BLOCK_BYTES))
        return held[:size]

    def _conclude(self, check: _Check) -> None:
        piece = check.piece
        self._done_bytes += piece.size
        if self._progress is not None:
            self._progress(self._done_bytes, self._total_bytes)
        crc = crc32c.joined(check.crcs, (size for _, size in check.ranges))
        if check.problem is None and crc != piece.crc32c:
            check.problem = Problem(
                self._bundle.shard_key(piece.shard_id),
                f"checksum does not match (expected {piece.crc32c:#010x}, found {crc:#010x})",
                tensor=check.tensor.name,
                offset=piece.offset,
            )
        if check.problem is not None:
            self._problems.append(check.problem)

    def _check_files(self) -> None:
        """See that every data file is there, and note files that look like this checkpoint's and are not."""
        key, num_shards = self._bundle.key, self._bundle.index.num_shards
        reported = {problem.key for problem in self._problems}
        for shard in range(num_shards):
            try:
                self._bundle.shard_size(shard)
            except CorruptionError as error:
                if error.key not in reported:
                    self._problems.append(Problem(error.key or key, _reason(error)))
        if not isinstance(self._objects, Listable):
            return
        directory, _, name = key.rpartition("/")
        for found in self._objects.keys(directory, f"{name}.data-"):
            parsed = parse_shard_key(found)
            if parsed is not None and parsed[0] == key and parsed[2] != num_shards:
                reason = f"left over from another save of this prefix, which has {counted(num_shards, 'shard')} now"
                self._problems.append(Problem(found, reason, is_fatal=False))

    def _note(self, error: CorruptionError, tensor: str) -> None:
        key = error.key or index_key(self._bundle.key)
        self._problems.append(Problem(key, _reason(error), tensor=tensor, offset=error.offset))


def _batch(work: Iterator[_Check]) -> list[_Check]:
    batch, size = [], 0
    for check in islice(work, _BATCH_PIECES):
        batch.append(check)
        size += check.piece.size
        if size >= _BATCH_BYTES:
            break
    return batch


def _reason(error: CkptdError) -> str:
    """Return what an error says without the place, which a problem has as a field."""
    if error.expected is None and error.actual is None:
        return error.reason
    return f"{error.reason} (expected {error.expected}, found {error.actual})"
