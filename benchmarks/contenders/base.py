"""What every contender receives, and what it has to be able to do."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

COLUMNS = 1024  # of each tensor, float32: a row is 4 KiB
_FILE_BLOCK = 8 << 20


class MissingError(Exception):
    """This contender can't take part here; the message says why."""


@dataclass(frozen=True)
class Piece:
    """What one rank holds of one tensor: a box of rows, or the whole of it."""

    name: str
    shape: tuple[int, int]
    full_shape: tuple[int, int]
    start: tuple[int, int]

    @property
    def is_whole(self) -> bool:
        return self.shape == self.full_shape


@dataclass(frozen=True)
class Job:
    """The same for every contender: which arrays each rank holds. `small`: whole tensors of 4 KiB instead of slices."""

    rank: int
    processes: int
    size_bytes: int
    tensors: int
    small: bool = False
    addresses: dict[str, str] = field(default_factory=dict)

    def pieces(self) -> list[Piece]:
        if self.small:
            each = self.tensors // self.processes
            mine = range(self.rank * each, (self.rank + 1) * each)
            return [Piece(f"tensor_{number:05d}", (1, COLUMNS), (1, COLUMNS), (0, 0)) for number in mine]
        rows = max(1, self.size_bytes // (self.tensors * COLUMNS * 4 * self.processes))
        full = (rows * self.processes, COLUMNS)
        return [
            Piece(f"tensor_{number:03d}", (rows, COLUMNS), full, (self.rank * rows, 0))
            for number in range(self.tensors)
        ]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return random bits, so that compression gains nothing; each array has memory of its own."""
        random = np.random.default_rng(self.rank)
        made = {}
        for piece in self.pieces():
            values = empty_aligned(piece.shape)
            values.view(np.uint32)[...] = random.integers(0, 1 << 32, piece.shape, np.uint32)
            made[piece.name] = values
        return made


@dataclass(frozen=True)
class Times:
    """Of one save on one rank: the call, its return, and when what this rank wrote was durable."""

    began: float
    returned: float
    durable: float


class Contender:
    """One rank's side of one way to save and restore. Made in the process that holds the arrays.

    Attributes:
        name: as it is called in the tables.
        about: what it does, in a line.
        can_fill: restores into arrays that exist already as well as into fresh memory.
        needs_daemon: a `ckptd serve` is started for it; its address is in `job.addresses["daemon"]`.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    can_fill: ClassVar[bool] = False
    needs_daemon: ClassVar[bool] = False
    does_small: ClassVar[bool] = True
    measures: ClassVar[Sequence[str]] = ("save", "cold", "warm")

    @classmethod
    def check(cls) -> None:
        """Raise `MissingError` if what it needs is not installed. Called in the driver: must not import much."""

    def __init__(self, job: Job, directory: Path) -> None:
        self.job = job
        self.directory = directory
        self.arrays = job.arrays()
        self.into: dict[str, np.ndarray] = {}

    def ready(self) -> None:
        """Do what a training program does between its start and its first save."""

    def before_save(self, step: int) -> None:
        """Do, outside the clock, what belongs to the training and not to the save."""

    def save(self, step: int) -> Times:
        raise NotImplementedError

    def complete(self, step: int) -> None:
        """Do what remains once all ranks have written, inside the clock. Called on rank 0."""

    def restore(self, step: int, into: bool) -> dict[str, np.ndarray]:
        """Return the rank's arrays: in fresh memory, or in `self.into`."""
        raise NotImplementedError

    def leave(self) -> None:
        """Disconnect from the daemon, which is about to be replaced."""

    def join(self, address: str) -> None:
        """Go on with another daemon."""

    def close(self) -> None:
        """Leave."""

    # What the crew calls.

    def size_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def warm_memory(self) -> None:
        """Take as much memory as a restore into fresh memory takes, and give it back.

        The host of a virtual machine may take away what a guest has freed a second ago, and finding it again then
        takes longer than the disk: chance would decide which restore pays for that.
        """
        touch({name: np.empty(array.nbytes, np.uint8) for name, array in self.arrays.items()}, write=True)

    def timed_restore(self, step: int, into: bool, compare: bool) -> tuple[float, float]:
        if into and not self.into:
            self.into = {name: empty_aligned(array.shape) for name, array in self.arrays.items()}
            for array in self.into.values():
                array.fill(1)  # memory that exists, not a promise of it
        began = time.monotonic()
        restored = self.restore(step, into)
        if not into:
            touch(restored)
        ended = time.monotonic()
        if compare:
            for name, array in self.arrays.items():
                if not np.array_equal(np.asarray(restored[name]).view(np.uint32), array.view(np.uint32)):
                    raise SystemExit(f"{self.name} restored other values for {name} on rank {self.job.rank}")
        return began, ended

    def forget_into(self) -> None:
        self.into = {}


def touch(arrays: dict[str, np.ndarray], *, write: bool = False) -> None:
    """Read or write a byte of each page: what is merely mapped is not there yet."""
    for array in arrays.values():
        flat = np.asarray(array).reshape(-1).view(np.uint8)
        if write:
            flat[::4096] = 0
        else:
            flat[::4096].max(initial=0)


def empty_aligned(shape: Sequence[int]) -> np.ndarray:
    """Return an array of float32 that begins at a page, as O_DIRECT wants it."""
    size = int(np.prod(shape)) * 4
    whole = np.empty(size + 4096, np.uint8)
    skip = -whole.ctypes.data % 4096
    return whole[skip : skip + size].view(np.float32).reshape(shape)


def sync(path: Path) -> None:
    """Make a file or directory durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_below(directory: Path) -> None:
    """Make the entries of a directory and all below it durable; their writers have synced the files."""
    for path in [*directory.rglob("*"), directory]:
        if path.is_dir():
            sync(path)


def blocks(array: np.ndarray) -> Iterator[memoryview]:
    data = memoryview(array).cast("B")
    for at in range(0, len(data), _FILE_BLOCK):
        yield data[at : at + _FILE_BLOCK]


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)
