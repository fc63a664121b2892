"""One file of the audit log: lines are appended whole, and room for the next ones is set aside on the disk."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import gzip
import json
import os
import stat
from contextlib import suppress
from pathlib import Path

from ckptd.errors import ConflictError, InvalidRequestError

RESERVE_BYTES = 256 << 10
"""Set aside for records of removals: about five hundred."""

MOST_LINE_BYTES = 64 << 10

_AHEAD_BYTES = 16 << 10  # so that not every line takes room anew
_LEAST_BYTES = 4096
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class AuditFile:
    """An open file. One thread at a time, except `sync`.

    Room is taken beyond the end of the file, where only appending to it finds it: no other program can use it up, and
    it survives a restart.
    """

    def __init__(self, path: str) -> None:
        """Open the file, make it if it is missing, and remove a line at its end that was not written whole.

        Raises:
            OSError: the system refuses.
            ConflictError: another daemon writes to it.
            InvalidRequestError: it is no regular file, or does not end in a record.
        """
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            self._take()
            self.last_number = last_number(self._file, path)
        except BaseException:
            os.close(self._file)
            raise
        self._room_to = 0
        self._has_fallocate = hasattr(_LIBC, "fallocate")
        self._take_room()

    def _take(self) -> None:
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise InvalidRequestError("the audit log is no regular file", key=self.path)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError("another daemon writes to this audit log", key=self.path) from error
        directory = os.open(Path(self.path).absolute().parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        size = self.size_bytes
        tail = os.pread(self._file, MOST_LINE_BYTES, max(0, size - MOST_LINE_BYTES))
        torn = len(tail) - (tail.rfind(b"\n") + 1)
        if torn and torn == len(tail) and size > len(tail):
            raise InvalidRequestError("this is no audit log: it does not end in a record", key=self.path)
        if torn:
            os.ftruncate(self._file, size - torn)  # a crash cut it off, so nothing relied on it

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
        except FileNotFoundError:
            return False
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)

    def append(self, line: bytes, *, from_reserve: bool) -> None:
        """Append a line, whole or not at all.

        Raises:
            OSError: it cannot be written, or only in the room that is set aside, and `from_reserve` is False.
        """
        begin = self.size_bytes
        end = begin + len(line)
        has_reserve = self._room_to >= end + RESERVE_BYTES or self._take_room(len(line))
        if not has_reserve and not from_reserve:
            raise OSError(errno.ENOSPC, "only the room for records of removals is left")
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
        except BaseException:
            with suppress(OSError):
                os.ftruncate(self._file, begin)
            self._room_to = 0  # shortening has freed it
            raise

    def _take_room(self, line_bytes: int = 0) -> bool:
        """Set room aside from the end on; return whether all of it is there, or the file system knows no such thing."""
        if not self._has_fallocate:
            return True
        begin = self.size_bytes
        wanted = line_bytes + RESERVE_BYTES
        for size in (wanted + _AHEAD_BYTES, wanted):
            failed = _allocate(self._file, begin, size)
            if not failed:
                self._room_to = begin + size
                return True
            if failed not in _NO_ROOM:
                self._has_fallocate = False
                return True
        part = RESERVE_BYTES // 2
        while part >= _LEAST_BYTES and self._room_to <= begin:
            if not _allocate(self._file, begin, part):
                self._room_to = begin + part
            part //= 2
        return False

    def sync(self) -> None:
        """Make what was appended durable."""
        os.fdatasync(self._file)

    def close(self, *, keeps_room: bool = True) -> None:
        """Close it. A file that is rotated away gives back its room."""
        if not keeps_room:
            with suppress(OSError):
                os.ftruncate(self._file, self.size_bytes)
        os.close(self._file)


def last_number(file: int, path: str) -> int:
    """Return the number of the last record of an audit log, 0 of an empty one; it ends in a whole line."""
    size = os.fstat(file).st_size
    tail = os.pread(file, 2 * MOST_LINE_BYTES, max(0, size - 2 * MOST_LINE_BYTES))
    return _number(tail.splitlines()[-1], path) if tail else 0


def last_number_before(path: str) -> int:
    """Return the number of the last record of the files that `path` was rotated into, 0 if there are none.

    They are beside it: its name, a dot or a dash, and more; those that end in .gz are read, too.
    """
    ours = Path(path)
    rotated = [each for each in ours.parent.iterdir() if each.name.startswith((f"{ours.name}.", f"{ours.name}-"))]
    newest = max(rotated, key=lambda each: each.stat().st_mtime, default=None)
    if newest is None:
        return 0
    last = b""
    with gzip.open(newest) if newest.suffix == ".gz" else newest.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                last = line
    return _number(last, str(newest)) if last else 0


def _number(line: bytes, path: str) -> int:
    try:
        number = json.loads(line)["number"]
        if isinstance(number, int) and number > 0:
            return number
    except (ValueError, KeyError, TypeError):
        pass
    raise InvalidRequestError("this is no audit log: its last line is no numbered record", key=path)


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
