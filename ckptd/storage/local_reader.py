"""Fills memory from one open file: from the page cache while it is there, else around it."""

from __future__ import annotations

from collections.abc import Sequence

from ckptd.storage.direct import read_bulk
from ckptd.storage.disk import Disk

LEAST_DIRECT_BYTES = 1 << 20
"""Less than this is read through the page cache: what is small is often read again."""


def fill(disk: Disk, file: int, offset: int, into: Sequence[memoryview], size_bytes: int, *, around: bool) -> int:
    """Fill `into`, `size_bytes` in all, one after another, from byte `offset`; return how many bytes the file had.

    What is in the page cache comes from there, at the speed of memory. What is not is read around it, unless `around`
    is False: filling the cache costs more than reading, and is of use only to who reads the same. Raises `OSError`.
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
