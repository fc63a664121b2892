"""One file of the audit log: lines are appended whole, and room for the next ones is set aside on the disk."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from ckptd.daemon.audit_numbers import MOST_LINE_BYTES, last_number
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError, NotFoundError
from ckptd.storage.local.os_errors import from_os_error

_AHEAD_BYTES = 16 << 10  # so that not every line takes room anew
_LEAST_BYTES = 4096
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE
_NO_FALLOCATE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM)
_BEGINNING = b'{"number": '


class AuditFile:
    """An open file. One thread at a time, except `sync`.

    Room is taken beyond the end of the file, where only appending to it finds it: no other program can use it up, and
    it survives a restart.

    Attributes:
        has_fallocate: whether the file system can set room aside; what has no such thing takes lines as they come.
        last_number: of the last record at the start, 0 of none.
    """

    def __init__(self, path: str) -> None:
        """Open the file, make it if it is missing, and remove a line at its end that was not written whole.

        Raises:
            NotFoundError, NotPermittedError, StorageFullError, UnavailableError: the system refuses it.
            ConflictError: another daemon writes to it.
            InvalidRequestError: it is no regular file, or does not end in a record.
        """
        self.path = path
        self._file = _open(path)
        self._room_to = 0
        self._refused = errno.ENOSPC  # why there is no more room
        self.has_fallocate = hasattr(_LIBC, "fallocate")
        try:
            self._take()
            self._end, self.last_number = self._find_end()
        except OSError as error:
            os.close(self._file)
            raise from_os_error(error, path) from error
        except BaseException:
            os.close(self._file)
            raise

    def _take(self) -> None:
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise InvalidRequestError("the audit log is no regular file", key=self.path)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError("another daemon writes to this audit log: give each its own", key=self.path) from error
        directory = os.open(Path(self.path).absolute().parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _find_end(self) -> tuple[int, int]:
        """Return where the last whole line ends, and its number; what a crash has left after it is cut off."""
        size = self.size_bytes
        tail = os.pread(self._file, 2 * MOST_LINE_BYTES, max(0, size - 2 * MOST_LINE_BYTES))
        whole, newline, torn = tail.rpartition(b"\n")
        if not torn.startswith(_BEGINNING[: len(torn)]) or (not newline and size > len(tail)):
            raise InvalidRequestError("this is no audit log: it does not end in a record", key=self.path)
        number = last_number(whole, self.path) if newline else 0
        if torn:
            with suppress(PermissionError):  # where a file may only grow, it stays, on a line of its own
                os.ftruncate(self._file, size - len(torn))  # nothing relied on it
        return size - len(torn), number

    @property
    def size_bytes(self) -> int:
        """How long it is now."""
        return os.fstat(self._file).st_size

    @property
    def is_at_its_path(self) -> bool:
        """Whether it has not been renamed or removed since."""
        ours = os.fstat(self._file)
        try:
            there = Path(self.path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)

    @property
    def is_open_to_others(self) -> bool:
        """Whether its mode lets others than its owner change what it says."""
        return bool(os.fstat(self._file).st_mode & 0o022)

    @property
    def is_removed(self) -> bool:
        """Whether it has no name any more: what is appended to it is lost."""
        return os.fstat(self._file).st_nlink == 0

    def was_shortened(self) -> bool:
        """Tell, once, whether another program has cut the file off: what it had set aside went with that."""
        if self.size_bytes >= self._end:
            return False
        self._end = self.size_bytes
        self._room_to = 0
        return True

    def append(self, line: bytes, *, leaves: int, wanted: int) -> bool:
        """Append a line, whole or not at all, and return whether `wanted` bytes are set aside after it.

        Raises:
            OSError: it cannot be written, or fewer than `leaves` bytes would be set aside after it.
        """
        begin = self.size_bytes
        if begin > self._end and os.pread(self._file, 1, begin - 1) != b"\n":
            line = b"\n" + line  # another program has left a line without an end
        end = begin + len(line)
        is_whole = self._room_to >= end + wanted or self.take_room(len(line) + wanted)
        if self.has_fallocate and self._room_to < end + leaves:
            raise OSError(self._refused, "what is left of the disk is set aside for records of removals")
        written = 0
        try:
            while written < len(line):
                written += os.write(self._file, line[written:])
        except BaseException:
            if written:
                with suppress(OSError):
                    os.ftruncate(self._file, begin)
                self._room_to = 0  # shortening has freed it
                self.take_room(wanted)
            raise
        self._end = end
        return is_whole

    def take_room(self, wanted: int) -> bool:
        """Set room aside from the end on; return whether all of it is there, or the file system knows no such thing.

        If not all of it can be had, as much as there is.
        """
        begin = self.size_bytes
        self._room_to = max(self._room_to, begin)
        for size in (wanted + _AHEAD_BYTES, wanted):
            if not self.has_fallocate or self._allocate(begin, size):
                return True
        part = 1 << (wanted.bit_length() - 1)
        while part >= _LEAST_BYTES and self._room_to < begin + wanted:
            if not self._allocate(self._room_to, part):
                part //= 2
        return self._room_to >= begin + wanted

    def _allocate(self, offset: int, size: int) -> bool:
        failed = _allocate(self._file, offset, size)
        if failed in _NO_FALLOCATE:
            self.has_fallocate = False
        elif failed:
            self._refused = failed
        else:
            self._room_to = max(self._room_to, offset + size)
        return not failed

    def give_back_room(self) -> None:
        """Let other files have what is set aside."""
        with suppress(OSError):
            os.ftruncate(self._file, self.size_bytes)
        self._room_to = 0

    def sync(self) -> None:
        """Make what was appended durable."""
        os.fdatasync(self._file)

    def close(self) -> None:
        """Close it; what is set aside stays so."""
        os.close(self._file)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(
            "the audit log cannot be made: its directory does not exist, and ckptd makes none", key=path
        ) from error
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ENXIO):  # a directory, a socket
            raise InvalidRequestError("the audit log is no regular file", key=path) from error
        refused = from_os_error(error, path)
        ours: CkptdError = type(refused)(f"the audit log cannot be opened: {refused.reason}", key=path)
        raise ours from error


def _load_libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "fallocate"):
        libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return libc


_LIBC = _load_libc()


def _allocate(file: int, offset: int, size: int) -> int:
    """Take room beyond the end of a file without making it longer; return the number of the error, 0 for none."""
    while True:
        if not _LIBC.fallocate(file, _KEEP_SIZE, offset, size):
            return 0
        if (failed := ctypes.get_errno()) != errno.EINTR:
            return failed
