"""Fill memory from one open file: from the page cache where it has the bytes, else around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ckptd.errors import CorruptionError
from ckptd.storage.local.around_cache import empty_at, read_bulk
from ckptd.storage.local.disk import Disk

LEAST_DIRECT_BYTES = 1 << 20
"""Less than this is read through the page cache: what is small is often read again."""

_BACK_BYTES = 8 << 20  # compared at once


def fill(disk: Disk, file: int, offset: int, into: Sequence[memoryview], size_bytes: int, *, around: bool) -> int:
    """Fill `into`, `size_bytes` in all, one after another, from byte `offset`; return how many bytes the file had.

    What is in the page cache comes from there, at the speed of memory. What is not is read around it, unless `around`
    is False: filling the cache costs more than reading, and helps only readers of the same file. Raises `OSError`.
    """
    done = 0
    if around and size_bytes >= LEAST_DIRECT_BYTES and not disk.is_cached(file, offset, size_bytes):
        direct = disk.open_direct_again(file)
        if direct is not None:
            try:
                done = read_bulk(disk, direct, offset, into)
            finally:
                disk.close(direct.descriptor)
    if done < size_bytes:
        done += disk.read_into(file, offset + done, *_after(done, into))
    return done


def read_whole(disk: Disk, file: int, size_bytes: int, key: str, limit_bytes: int) -> bytes:
    """Return what an open file of this size holds; `CorruptionError` if that is more than the limit. Raises `OSError`.

    A file that became shorter meanwhile is an error, too.
    """
    if size_bytes > limit_bytes:
        raise CorruptionError("larger than the limit", key=key, expected=limit_bytes, actual=size_bytes)
    data = bytearray(size_bytes)
    if disk.read_into(file, 0, memoryview(data)) < len(data):
        raise CorruptionError("became shorter while it was read", key=key, expected=len(data))
    return bytes(data)


def _after(done: int, into: Sequence[memoryview]) -> Sequence[memoryview]:
    """Return `into` without its first `done` bytes."""
    if not done:
        return into
    rest = []
    for view in into:
        if done < len(view):
            rest.append(view[done:])
        done = max(0, done - len(view))
    return rest


def check_content(disk: Disk, file: int, expected: memoryview, key: str) -> None:
    """Read a synced file and compare it with what was written to it, around the page cache where that is possible.

    A disk, or a layer above it, may acknowledge a write that it has not carried out: `CorruptionError`. Raises
    `OSError` too.
    """
    size = len(expected)
    buffer = empty_at(min(_BACK_BYTES, size))
    direct = disk.open_direct_again(file) if size else None
    try:
        for at in range(0, size, _BACK_BYTES):
            count = min(_BACK_BYTES, size - at)
            done = 0 if direct is None else read_bulk(disk, direct, at, [buffer[:count].data])
            if done < count:
                done += disk.read_into(file, at + done, buffer[done:count].data)
            if done < count or not np.array_equal(buffer[:count], np.frombuffer(expected[at : at + count], np.uint8)):
                raise CorruptionError(
                    "the disk acknowledged these bytes but returns different ones: nothing was stored",
                    key=key,
                    offset=at,
                    expected=f"{count} bytes as written",
                    actual=f"{done} bytes" if done < count else "other bytes",
                )
    finally:
        if direct is not None:
            disk.close(direct.descriptor)
