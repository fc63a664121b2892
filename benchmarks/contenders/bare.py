"""The limits: the memory alone, and the disk alone."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np

from contenders.base import COLUMNS, Contender, Job, Times, blocks, empty_aligned, opened

_THREADS = 2


class MemoryCopy(Contender):
    """Copies the arrays into memory that was used before: what a stall can't be shorter than."""

    name = "copy"
    about = "the bytes once, into memory that exists; every process its own, all at the same time"
    measures = ("save",)

    def __init__(self, job: Job, directory: Path) -> None:
        super().__init__(job, directory)
        self._into = {name: empty_aligned(array.shape) for name, array in self.arrays.items()}
        for array in self._into.values():
            array.fill(1)

    def save(self, step: int) -> Times:
        began = time.monotonic()
        for name, array in self.arrays.items():
            np.copyto(self._into[name], array)
        ended = time.monotonic()
        return Times(began, ended, ended)

    def with_threads(self) -> float:
        """Return how long one process takes for the bytes of all ranks with two threads: its own, several times.

        One rank's bytes are far more than the caches hold, so that it does not matter that they are always the same.
        """
        pairs = [(self._into[name], array) for name, array in self.arrays.items()] * self.job.processes

        def copy(mine: list[tuple[np.ndarray, np.ndarray]]) -> None:
            for into, array in mine:
                np.copyto(into, array)

        threads = [threading.Thread(target=copy, args=(pairs[number::_THREADS],)) for number in range(_THREADS)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.monotonic() - began


class RawDirect(Contender):
    """One file a process, O_DIRECT, 8 MiB at a time, straight from page-aligned arrays and into them."""

    name = "raw"
    about = "one file a process by O_DIRECT, from page-aligned arrays, no copy, no checksum, fsync"
    can_fill = True

    def __init__(self, job: Job, directory: Path) -> None:
        super().__init__(job, directory)
        self._block = empty_aligned((len(self.arrays) if job.small else 1, COLUMNS))

    def _path(self, step: int) -> Path:
        return self.directory / f"raw-{step}-{self.job.rank}"

    def save(self, step: int) -> Times:
        began = time.monotonic()
        flags = os.O_WRONLY | os.O_CREAT | os.O_DIRECT
        with opened(self._path(step), flags) as fd:
            os.posix_fallocate(fd, 0, self.size_bytes())
            at = 0
            for array in self._sources():
                for block in blocks(array):
                    at += os.pwrite(fd, block, at)
            os.fsync(fd)
        ended = time.monotonic()
        return Times(began, ended, ended)

    def restore(self, step: int, into: bool) -> dict[str, np.ndarray]:
        if self.job.small:
            block = self._block if into else empty_aligned(self._block.shape)
            self._read(step, [block])
            found = {name: block[row : row + 1] for row, name in enumerate(self.arrays)}
            if not into:
                return found
            for name, array in self.into.items():
                np.copyto(array, found[name])
            return self.into
        arrays = self.into if into else {name: empty_aligned(array.shape) for name, array in self.arrays.items()}
        self._read(step, list(arrays.values()))
        return arrays

    def _read(self, step: int, arrays: list[np.ndarray]) -> None:
        with opened(self._path(step), os.O_RDONLY | os.O_DIRECT) as fd:
            at = 0
            for array in arrays:
                for block in blocks(array):
                    at += os.preadv(fd, [block], at)
        if at != self.size_bytes():
            raise SystemExit(f"{self._path(step)} holds {at} bytes")

    def _sources(self) -> list[np.ndarray]:
        """Return what to write: the arrays, or small ones gathered, as the disk is the limit and not Python's loop."""
        if not self.job.small:
            return list(self.arrays.values())
        for row, array in enumerate(self.arrays.values()):
            self._block[row] = array
        return [self._block]
