"""Open paths below a directory so that no symbolic link leads out of it."""

from __future__ import annotations

import ctypes
import errno
import os

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class ConfinedOpener:
    """Has the kernel resolve a whole path (``openat2``); where it cannot, walks and follows no links at all."""

    def __init__(self, *, newer_calls: bool = True) -> None:
        """Assume that the kernel can until it refuses; without `newer_calls`, that it cannot."""
        self.has_openat2 = newer_calls

    def open(self, root: int, path: str, flags: int) -> int:
        """Open `path`, which counts from the directory `root`; raises `OSError`."""
        if self.has_openat2:
            how = _OpenHow(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
            for _ in range(64):  # EAGAIN: something was renamed meanwhile and the kernel could not be sure
                descriptor = _libc.syscall(
                    _OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
                )
                if descriptor >= 0:
                    return int(descriptor)
                code = ctypes.get_errno()
                if code not in (errno.EAGAIN, errno.EINTR):
                    break
            if code == errno.EPERM and _openat2_is_blocked():
                code = errno.ENOSYS
            if code != errno.ENOSYS:
                raise OSError(code, os.strerror(code), path)
            self.has_openat2 = False
        return _walk(root, path, flags)


def _openat2_is_blocked() -> bool:
    # Old container sandboxes answer EPERM to calls they don't know: then even "/" is refused.
    how = _OpenHow(_DIRECTORY_FLAGS, 0, 0)
    descriptor = _libc.syscall(_OPENAT2, -100, b"/", ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)))
    if descriptor >= 0:
        os.close(descriptor)
        return False
    return ctypes.get_errno() == errno.EPERM


def _walk(root: int, path: str, flags: int) -> int:
    *parents, last = path.split("/")
    here = os.dup(root)
    try:
        for name in parents:
            below = os.open(name, _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        return os.open(last, flags | os.O_NOFOLLOW, dir_fd=here)
    finally:
        os.close(here)
