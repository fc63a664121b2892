"""Files of objects that are still being written: how they are named and locked, and swept when their writer is dead.

A temporary name is ``.NAME.<32 hex>.ckptd-tmp``, beside the final one, with an advisory lock held on the file for as
long as its writer lives. A temporary name without a lock may be swept by any process.
"""

from __future__ import annotations

import errno
import re
import secrets
from collections.abc import Collection
from contextlib import suppress

from ckptd.storage.keys import UNFINISHED_SUFFIX, join
from ckptd.storage.local.disk import Disk

_NOBODYS = frozenset((errno.ELOOP, errno.EXDEV, errno.EACCES, errno.EPERM))
_NAME = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}" + re.escape(UNFINISHED_SUFFIX), re.DOTALL)


def temporary_name(name: str) -> str:
    """Return a new temporary name for a file that is to get this name."""
    return f".{name}.{secrets.token_hex(16)}{UNFINISHED_SUFFIX}"


def new_file(disk: Disk, directory: int, name: str) -> tuple[str, int]:
    """Create and lock the file of an unfinished object; return its name and its descriptor. Raises `OSError`."""
    while True:
        temporary = temporary_name(name)
        file = disk.create(directory, temporary)
        try:
            # Between these two calls a sweeper may believe us dead; then it has the lock, or the name is gone.
            if disk.try_lock(file, shared=False) and disk.status(file).num_links:
                return temporary, file
        except BaseException:  # a file system without locks
            with suppress(OSError):
                disk.unlink(directory, temporary)
            disk.close(file)
            raise
        disk.close(file)


def sweep(
    disk: Disk, directory: int, name: str, spare: Collection[str] = (), only: Collection[str] | None = None
) -> list[str]:
    """Remove what dead writers left in an opened directory, durably; return the keys it was for. Raises `OSError`.

    What is for a key in `spare` is left alone: where hosts share a directory, the locks of others may be unknown here.
    So is all else, if `only` some keys are meant. `name` is the directory's.
    """
    swept = []
    for entry in sorted(disk.entries(directory), key=lambda entry: entry.name):
        match = _NAME.fullmatch(entry.name)
        if match is None or entry.is_directory or (key := join(name, match["name"])) in spare:
            continue
        if only is not None and key not in only:
            continue
        if _sweep(disk, directory, entry.name):
            swept.append(key)
    if swept:
        disk.sync_directory(directory)
    return swept


def _sweep(disk: Disk, directory: int, temporary: str) -> bool:
    try:
        file = disk.open_file(directory, temporary, confined=True)
    except FileNotFoundError:
        return False  # finished or swept by another process in this moment
    except OSError as error:
        if error.errno in _NOBODYS:
            return False  # a link, or another user's file: no writer of ckptd left it
        raise
    try:
        if not disk.try_lock(file, shared=False):
            return False
        disk.unlink(directory, temporary)
    except FileNotFoundError:
        return False
    finally:
        disk.close(file)
    return True
