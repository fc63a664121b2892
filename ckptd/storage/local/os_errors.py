"""Translate the operating system's errors to ours."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from ckptd.errors import (
    CkptdError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    NotPermittedError,
    StorageFullError,
    UnavailableError,
)

_KINDS: dict[int, tuple[type[CkptdError], str]] = {
    errno.ENOENT: (NotFoundError, "there is no such object"),
    errno.ENOTDIR: (NotFoundError, "there is no such object: a part of its path is no directory"),
    errno.EEXIST: (ConflictError, "this key is taken"),
    errno.EISDIR: (ConflictError, "a directory has this name"),
    errno.ENOSPC: (StorageFullError, "the disk is full"),
    errno.EDQUOT: (StorageFullError, "the disk quota is used up"),
    errno.EFBIG: (StorageFullError, "the object is larger than this file system or process may write"),
    errno.EACCES: (NotPermittedError, "the file system refuses access"),
    errno.EPERM: (NotPermittedError, "the file system refuses the operation"),
    errno.EROFS: (NotPermittedError, "the file system is read-only"),
    errno.ELOOP: (NotPermittedError, "a symbolic link leads out of the root or in a circle"),
    errno.EXDEV: (NotPermittedError, "a symbolic link leads out of the root"),
    errno.ENAMETOOLONG: (InvalidRequestError, "the name is too long for this file system"),
    errno.EIO: (UnavailableError, "the disk reports an input/output error"),
    errno.EMFILE: (UnavailableError, "this process has too many open files"),
    errno.ENFILE: (UnavailableError, "this host has too many open files"),
}


def from_os_error(error: OSError, key: str) -> CkptdError:
    """Return our error for `error`, which happened at `key`. An unknown one counts as temporary."""
    kind, reason = _KINDS.get(error.errno or 0, (UnavailableError, "the file system failed"))
    name = errno.errorcode.get(error.errno or 0, str(error.errno))
    if error.errno == errno.EMFILE:
        reason += f" ({resource.getrlimit(resource.RLIMIT_NOFILE)[0]} are allowed: `ulimit -n`)"
    ours = kind(reason, key=key)
    ours.add_note(f"the operating system reports {name}: {os.strerror(error.errno or 0)}")
    return ours


@contextmanager
def translated(key: str) -> Iterator[None]:
    """Turn every `OSError` of the block into ours, chained."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, key) from error
