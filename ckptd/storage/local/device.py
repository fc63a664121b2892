"""The speed of a disk by itself: written and read past the page cache, straight from page-aligned memory.

Only for measuring: nothing that is to be kept is written here.
"""

from __future__ import annotations

import errno
import mmap
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ckptd.storage.local.os_errors import translated

_BLOCK_BYTES = 8 << 20
_PAGE_BYTES = 4096
_NUM_SYNCS = 20


@dataclass(frozen=True, slots=True)
class Device:
    """What was measured.

    Attributes:
        sync_s: to sync a small new file; the median of a few.
        write_s: to write the bytes and sync them.
        read_s: to read them back; meaningless where `is_direct` is false and the page cache has them.
        size_bytes: how many were moved.
        is_direct: the page cache was bypassed.
    """

    sync_s: float
    write_s: float
    read_s: float
    size_bytes: int
    is_direct: bool


def measure(directory: Path, size_bytes: int, rounds: int) -> Device:
    """Write and read a file in `directory`, which is removed again, and say how fast that was; medians of `rounds`.

    Raises:
        StorageFullError, NotPermittedError, UnavailableError: what the file system said.
    """
    size_bytes = max(_PAGE_BYTES, size_bytes // _PAGE_BYTES * _PAGE_BYTES)
    block = mmap.mmap(-1, min(size_bytes, _BLOCK_BYTES))  # begins at a page
    block.write(os.urandom(len(block)))
    path = directory / "limit"
    try:
        with translated(str(path)):
            syncs = [_sync_small(directory / f"small-{number}") for number in range(_NUM_SYNCS)]
            direct = _takes_direct(path, block)
            writes, reads = [], []
            for _ in range(rounds):
                writes.append(_write(path, block, size_bytes, direct))
                forget_cached(path)
                reads.append(_read(path, block, size_bytes, direct))
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return Device(
        statistics.median(syncs), statistics.median(writes), statistics.median(reads), size_bytes, bool(direct)
    )


def forget_cached(path: Path) -> None:
    """Tell the kernel to drop a file's pages from memory, which works for what is synced. Never fails."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def _sync_small(path: Path) -> float:
    with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
        os.write(fd, b"\x5a" * _PAGE_BYTES)
        began = time.perf_counter()
        os.fsync(fd)
        took_s = time.perf_counter() - began
    path.unlink()
    return took_s


def _takes_direct(path: Path, block: mmap.mmap) -> int:
    """Return the flag for direct input and output, 0 where the file system refuses it: some at the first write."""
    try:
        with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT) as fd:
            os.pwrite(fd, memoryview(block)[:_PAGE_BYTES], 0)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return 0
    return os.O_DIRECT


def _write(path: Path, block: mmap.mmap, size_bytes: int, direct: int) -> float:
    path.unlink(missing_ok=True)
    view = memoryview(block)
    began = time.perf_counter()
    with _opened(path, os.O_WRONLY | os.O_CREAT | direct) as fd:
        with suppress(OSError):  # without a reservation it is written nevertheless
            os.posix_fallocate(fd, 0, size_bytes)
        at = 0
        while at < size_bytes:
            at += os.pwrite(fd, view[: min(len(view), size_bytes - at)], at)
        os.fsync(fd)
    return time.perf_counter() - began


def _read(path: Path, block: mmap.mmap, size_bytes: int, direct: int) -> float:
    view = memoryview(block)
    began = time.perf_counter()
    with _opened(path, os.O_RDONLY | direct) as fd:
        at = 0
        while at < size_bytes:
            count = os.preadv(fd, [view[: min(len(view), size_bytes - at)]], at)
            if not count:
                break
            at += count
    return time.perf_counter() - began


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)
