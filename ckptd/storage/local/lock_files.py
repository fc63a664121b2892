"""Locks of a local store: files that are locked while a process is alive, and that name it."""

from __future__ import annotations

import errno

from ckptd.errors import ConflictError
from ckptd.storage.keys import check_key, lock_file
from ckptd.storage.local.disk import Disk
from ckptd.storage.local.local_root import LocalRoot
from ckptd.storage.local.local_writer import LocalLock
from ckptd.storage.local.os_errors import translated

_MAX_HOLDER_BYTES = 1000


def take(root: LocalRoot, key: str, *, holder: str, shared: bool) -> LocalLock:
    """Take the lock named `key`; see `Store.lock`."""
    disk = root.disk
    *parents, name = check_key(key)
    line = holder.replace("\n", " ").encode("utf-8", "replace")[:_MAX_HOLDER_BYTES]
    lock_name = lock_file(name)
    with translated(key):
        directory = root.open_to_write(tuple(parents))
        try:
            while True:
                file = disk.open_lock_file(directory, lock_name)
                lock = LocalLock(disk, file)
                try:
                    if not disk.try_lock(file, shared=shared):
                        held_by = read_line(disk, file) or "a process that left no name"
                        raise ConflictError("held by another process", key=key, actual=held_by)
                    if disk.status(file).num_links:
                        _write_line(disk, file, line)
                        return lock
                except BaseException:
                    lock.release()
                    raise
                lock.release()  # the file was removed just now: a lock on it would exclude no other process
        finally:
            disk.close(directory)


def _write_line(disk: Disk, file: int, line: bytes) -> None:
    """Note its holder in a lock file. A full disk does not prevent holding a lock: then nothing is noted."""
    disk.truncate(file, 0)
    try:
        disk.write(file, 0, line, bulk=False)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        disk.truncate(file, 0)


def read_line(disk: Disk, file: int) -> str:
    """Return the holder that a lock file names; raises `OSError`."""
    line = bytearray(_MAX_HOLDER_BYTES)
    return bytes(line[: disk.read_into(file, 0, memoryview(line))]).decode("utf-8", "replace")
