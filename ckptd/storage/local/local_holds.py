"""Holds on the files of a local store: shared locks of readers, and the exclusive lock that detects them.

Locks are those of flock(2), so they belong to an open file: readers in one process see each other, and a forked child
shares its parent's hold. The parent's `close` ends it for both, so that a child which inherited a reader by accident
keeps nothing; when the parent dies without `close`, the hold lasts as long as the child.
"""

from __future__ import annotations

import os
import resource
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ckptd.storage.local.disk import Disk

_MOST_ATTEMPTS = 40  # at a file that is being deleted, or examined for deletion
_PAUSE_S = 0.005
_SHARE_OF_DESCRIPTORS = 4  # at most this share of a process's descriptors are holds: reading needs the rest

Open = Callable[[], int]
"""Opens the file for reading; raises `OSError`."""


class LocalHold:
    """A file with a shared lock. It owns the descriptor."""

    num_open = 0  # in this process, approximately

    def __init__(self, disk: Disk, file: int) -> None:
        """Take over the descriptor, which is locked."""
        LocalHold.num_open += 1
        self._end = weakref.finalize(self, _end, disk, file, os.getpid())

    def close(self) -> None:
        """See `Hold`."""
        self._end()


def _end(disk: Disk, file: int, pid: int) -> None:
    LocalHold.num_open -= 1
    if os.getpid() == pid:  # in a forked child this would end the parent's hold, too
        with suppress(OSError):
            disk.unlock(file)
    with suppress(OSError):
        disk.close(file)


def hold(disk: Disk, open_file: Open) -> LocalHold | None:
    """Open a file and hold it; None when it is gone, is being deleted, or cannot be locked. Never raises `OSError`."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and LocalHold.num_open >= most // _SHARE_OF_DESCRIPTORS:
        return None
    for attempt in range(_MOST_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_S)
        try:
            file = open_file()
        except OSError:
            return None
        try:
            # A file that was deleted before it was locked protects nothing: its name may belong to another file now.
            if disk.try_lock(file, shared=True) and disk.status(file).num_links:
                return LocalHold(disk, file)
        except OSError:  # there are no locks here
            with suppress(OSError):
                disk.close(file)
            return None
        disk.close(file)
    return None


@contextmanager
def unread(disk: Disk, files: Iterator[Open]) -> Iterator[bool]:
    """Say whether no process holds any of these files; until the block ends, none begins to. Raises `OSError`.

    Files that are gone, or that we may not read, count as unread, and so does what cannot be locked here.
    """
    locked: list[int] = []
    try:
        yield all(_lock(disk, open_file, locked) for open_file in files)
    finally:
        for file in locked:
            with suppress(OSError):
                disk.unlock(file)
            with suppress(OSError):
                disk.close(file)


def _lock(disk: Disk, open_file: Open, locked: list[int]) -> bool:
    try:
        file = open_file()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return True
    locked.append(file)
    try:
        return disk.try_lock(file, shared=False)
    except OSError:
        return True
