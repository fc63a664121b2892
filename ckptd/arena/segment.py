"""One arena: sealed shared memory, made by the daemon and mapped by the worker that fills it.

Layout: one page of header, then data. In the header, little-endian words of 64 bits::

    [magic] [generation] [captured] [ended]

`generation` counts up before the data are overwritten, so that a reader of an arena can tell whether it was
whole. `captured` says how many bytes of the data, from their start, are in place: the daemon's writers follow it. Both
are written by the worker, and the daemon verifies them by checksums. `ended` is the daemon's: the generation up
to which the data belong to no checkpoint any more, because that was deleted or replaced. A reader that was offered them
before sees it there.

The size is sealed: without that, a worker that cuts the file short would kill the daemon with SIGBUS.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ckptd.errors import CorruptionError, StorageFullError, UnavailableError

HEADER_BYTES = 4096
"""Where the data begin; a multiple of what O_DIRECT wants."""

_MAGIC = int.from_bytes(b"ckptdA01", "little")
_GENERATION, _CAPTURED, _ENDED = 1, 2, 3  # words of the header
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034  # fcntl has names for them on Linux only
_SEALS = 0x0001 | 0x0002 | 0x0004  # seals themselves, shrinking, growing
_MADV_POPULATE_WRITE = 23  # Linux 5.14
_STEP_BYTES = 16 << 20  # faulted in at once: between two of them one can stop


def is_supported() -> bool:
    """Whether this system has sealed shared memory and can pass it on."""
    return sys.platform == "linux" and hasattr(os, "memfd_create")


class Segment:
    """An arena mapped into this process. It owns `descriptor`.

    Attributes:
        descriptor: of the memory, to be passed on.
        size_bytes: of the data.
        identity: of the memory, the same wherever in this process it is mapped.
        data: the data, as bytes that may be written.
    """

    def __init__(self, descriptor: int, total_bytes: int, *, writable: bool = True) -> None:
        self.descriptor = descriptor
        self.size_bytes = total_bytes - HEADER_BYTES
        stat = os.fstat(descriptor)
        self.identity = (stat.st_dev, stat.st_ino)
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        mapping = mmap.mmap(descriptor, total_bytes, mmap.MAP_SHARED, access)
        with contextlib.suppress(OSError, AttributeError):  # a wish: the system may have none for shared memory
            mapping.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(mapping, np.uint8)
        self._words: NDArray[np.uint64] = whole[: 8 * 4].view("<u8")
        self.data: NDArray[np.uint8] = whole[HEADER_BYTES:]

    @classmethod
    def create(cls, size_bytes: int) -> Segment:
        """Make an arena with room for `size_bytes` of data. Its pages do not exist before they are touched.

        Raises:
            UnavailableError: when the system has no sealed memory.
            StorageFullError: when it has no room.
        """
        if not is_supported():
            raise UnavailableError("this system has no shared memory that can be sealed")
        total_bytes = HEADER_BYTES + -(-size_bytes // HEADER_BYTES) * HEADER_BYTES
        try:
            descriptor = os.memfd_create("ckptd-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            raise UnavailableError(f"shared memory can't be made: {error.strerror}") from error
        try:
            os.fchmod(descriptor, 0o600)  # born 0777: a reader of another user could open it anew under /proc, to write
            os.ftruncate(descriptor, total_bytes)
            fcntl.fcntl(descriptor, _F_ADD_SEALS, _SEALS)
            segment = cls(descriptor, total_bytes)
        except (OSError, ValueError) as error:
            os.close(descriptor)
            raise StorageFullError(f"no room for {total_bytes} bytes of shared memory: {error}") from error
        segment._words[0] = _MAGIC
        return segment

    @classmethod
    def attach(cls, descriptor: int, *, writable: bool) -> Segment:
        """Map an arena that another process has made. Takes over the descriptor.

        Raises:
            CorruptionError: when it is not one, or its size could change.
            StorageFullError: when it can't be mapped.
        """
        try:
            total_bytes = os.fstat(descriptor).st_size
            seals = fcntl.fcntl(descriptor, _F_GET_SEALS)
            if total_bytes <= HEADER_BYTES or seals & _SEALS != _SEALS:
                raise CorruptionError("what was passed on is no arena", expected=_SEALS, actual=seals)
            segment = cls(descriptor, total_bytes, writable=writable)
            if int(segment._words[0]) != _MAGIC:
                raise CorruptionError("what was passed on is no arena", actual=hex(int(segment._words[0])))
        except CorruptionError:
            os.close(descriptor)
            raise
        except (OSError, ValueError) as error:
            os.close(descriptor)
            raise StorageFullError(f"shared memory can't be mapped: {error}") from error
        return segment

    @property
    def generation(self) -> int:
        """Which filling the data are of, or are about to be."""
        return int(self._words[_GENERATION])

    @property
    def captured(self) -> int:
        """Bytes of the data, from their start, that are in place."""
        return int(self._words[_CAPTURED])

    @captured.setter
    def captured(self, size_bytes: int) -> None:
        self._words[_CAPTURED] = size_bytes

    def holds(self, generation: int) -> bool:
        """Whether the data are still those of this generation, and of a checkpoint."""
        return self.generation == generation > int(self._words[_ENDED])

    def end(self, generation: int) -> None:
        """Let the data of this generation, and of earlier ones, be read no more."""
        self._words[_ENDED] = max(int(self._words[_ENDED]), generation)

    def begin(self) -> int:
        """Begin to fill it again; return the new generation. Its former content is void."""
        self._words[_CAPTURED] = 0
        self._words[_GENERATION] += np.uint64(1)
        return self.generation

    def prefault(self, size_bytes: int, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Make the pages of the first `size_bytes` of the data exist, and map them here, while they are wanted.

        New pages are several times slower to fill than such that exist: a training step should not wait for that.

        Raises:
            StorageFullError: when there is not enough memory.
        """
        for at in range(0, min(size_bytes, self.size_bytes), _STEP_BYTES):
            if not is_wanted():
                return
            _populate(self.data[at : at + _STEP_BYTES])

    def read_only(self) -> int:
        """Open it once more, for reading only; the descriptor is the caller's.

        Raises:
            UnavailableError: when the system does not allow that.
        """
        try:
            return os.open(f"/proc/self/fd/{self.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UnavailableError(f"an arena can't be opened for reading: {error.strerror}") from error

    def close(self) -> None:
        """Close the descriptor. The mapping goes with the last array that shows it."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class ArenaFill:
    """One filling of an arena by its worker, as the daemon follows it."""

    def __init__(self, segment: Segment, generation: int) -> None:
        self.data: NDArray[np.uint8] = segment.data
        self._segment = segment
        self._generation = generation

    @property
    def captured(self) -> int:
        """Bytes in place, from the start of the data; none unless the arena has this generation."""
        return self._segment.captured if self._segment.generation == self._generation else 0

    def check(self) -> None:
        """Raise `CorruptionError` unless the arena has this generation."""
        if self._segment.generation != self._generation:
            raise CorruptionError("a worker began to fill memory again before it was saved")


def _populate(pages: NDArray[np.uint8]) -> None:
    # Not `mmap.madvise`: that holds the interpreter's lock.
    address = ctypes.c_void_p(int(pages.__array_interface__["data"][0]))
    if _LIBC.madvise(address, ctypes.c_size_t(len(pages)), _MADV_POPULATE_WRITE) == 0:
        return
    code = ctypes.get_errno()
    if code in (errno.ENOMEM, errno.EFAULT):
        raise StorageFullError("not enough memory for an arena", expected=f"{len(pages)} more bytes")
    pages[:: mmap.PAGESIZE].max()  # an older kernel: reading a page makes it exist, too


_LIBC = ctypes.CDLL(None, use_errno=True)
