"""The part of `SystemDisk` that goes around the page cache (``O_DIRECT``), or reports what is in it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

import numpy as np

from ckptd.storage.local.around_cache import UNIT_BYTES, DirectFile
from ckptd.storage.local.patience import patient
from ckptd.storage.local.statx import direct_alignment

NOT_SUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY)
"""How kernels and file systems say that they do not know a call, or a flag of it."""

_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


class DirectCalls:
    """Safe from any thread; remembers what was refused, so that it is not tried again."""

    def __init__(self, *, newer_calls: bool = True) -> None:
        """Assume that everything is possible until it is refused; without `newer_calls`, that nothing is."""
        self._has_direct = newer_calls and hasattr(os, "O_DIRECT")
        self._reads_direct = self._has_direct

    def open_direct(self, directory: int, name: str) -> DirectFile | None:
        """See `Disk`."""
        if not self._has_direct:
            return None
        try:
            file = patient(os.open)(name, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise
            self._has_direct = False
            return None
        opened = _aligned(file)
        self._has_direct = opened is not None
        return opened

    def write_direct(self, file: DirectFile, offset: int, data: memoryview) -> int:
        """See `Disk`. Some file systems open a file this way and refuse to write to it."""
        done = 0
        while done < len(data) and self._has_direct:
            try:
                done += os.pwrite(file.descriptor, data[done:], offset + done)
            except OSError as error:
                if error.errno not in NOT_SUPPORTED:
                    raise
                # After half a unit the rest is not aligned: that ends this write and is no refusal.
                self._has_direct = done % file.unit_bytes != 0
                break
        return done

    def open_direct_again(self, file: int) -> DirectFile | None:
        """See `Disk`. Through the descriptor: the path may lead elsewhere by now."""
        if not self._reads_direct:
            return None
        try:
            opened = _aligned(patient(os.open)(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC))
        except OSError:  # whatever the error is: reading through the page cache may still work
            opened = None
        self._reads_direct = opened is not None
        return opened

    def read_direct(self, file: DirectFile, offset: int, into: memoryview) -> int:
        """See `Disk`."""
        done = 0
        while done < len(into) and self._reads_direct:
            try:
                count = os.preadv(file.descriptor, [into[done:]], offset + done)
            except OSError as error:
                if error.errno not in NOT_SUPPORTED:
                    raise
                self._reads_direct = done % file.unit_bytes != 0
                break
            done += count
            if count == 0 or done % file.unit_bytes:
                break  # the file's end
        return done

    def is_cached(self, file: int, offset: int, size_bytes: int) -> bool:
        """See `Disk`. Another process's file, which the kernel does not report on, counts as cached."""
        begin = offset // mmap.PAGESIZE * mmap.PAGESIZE
        length = offset + size_bytes - begin
        # Mapped for a query, never read: a file that became shorter would kill this process.
        address = _libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, file, begin)
        if address in (None, _MAP_FAILED):
            return True
        try:
            pages = np.zeros(-(-length // mmap.PAGESIZE), np.uint8)
            if _libc.mincore(address, length, pages.ctypes.data) != 0:
                return True
        finally:
            _libc.munmap(address, length)
        return 2 * int(np.count_nonzero(pages & 1)) >= pages.size


def _aligned(file: int) -> DirectFile | None:
    """Return a file opened for direct access with its alignment; None, and closed, if it refuses after all."""
    alignment = direct_alignment(file)
    if alignment is None:
        return DirectFile(file)
    memory_bytes, file_bytes = alignment
    if not file_bytes:
        os.close(file)
        return None
    return DirectFile(file, memory_bytes, max(file_bytes, UNIT_BYTES))
