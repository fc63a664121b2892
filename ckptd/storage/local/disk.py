"""The operating-system calls that a local store is made of, and nothing else.

`LocalStore` decides what is called in which order; a `Disk` does it. Tests put a simulated disk in its place that
forgets whatever was not synced, so the order is proved without pulling plugs. All errors are `OSError`.

Directories and files are given as descriptors, and paths lead from a root's descriptor. That is what keeps names
inside the root: every path is resolved below the root's descriptor in one step (see `confined`), so no symbolic link
that appears between a check and a use can lead outside.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ckptd.storage.base import Buffer
from ckptd.storage.local.around_cache import DirectFile
from ckptd.storage.local.confined import ConfinedOpener
from ckptd.storage.local.direct_calls import NOT_SUPPORTED, DirectCalls


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What the file system knows of one open file. Times are in nanoseconds of wall-clock time."""

    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int
    is_file: bool
    num_links: int


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One name in a directory; a symbolic link is neither file nor directory."""

    name: str
    is_directory: bool


class WriteRoad(Enum):
    """How bulk data goes to the disk, from the fastest to the slowest."""

    DIRECT = "direct"  # around the page cache, see `direct`
    DONTCACHE = "dontcache"  # through pages of the cache that are given back at once
    BUFFERED = "buffered"  # through the page cache, as any program's data

    @property
    def in_words(self) -> str:
        """For people."""
        return {
            WriteRoad.DIRECT: "around the page cache (O_DIRECT)",
            WriteRoad.DONTCACHE: "through the page cache, which keeps nothing of it (RWF_DONTCACHE)",
            WriteRoad.BUFFERED: "through the page cache, which costs more processor time than any other road",
        }[self]


class Disk(Protocol):
    """What a local store needs of the operating system. Every number returned is a descriptor to be closed."""

    def open_root(self, path: str) -> int:
        """Open the directory that all other paths start from."""

    def make_root(self, path: str) -> None:
        """Create the root, if need be, and whatever leads to it; on return all these names are durable."""

    def open_directory(self, root: int, path: str, *, confined: bool) -> int:
        """Open a directory below `root`; "." is the root. `confined`: never by a link that leads outside."""

    def open_file(self, root: int, path: str, *, confined: bool) -> int:
        """Open a file below `root` for reading."""

    def open_lock_file(self, directory: int, name: str) -> int:
        """Open a file for reading and writing, creating it if need be."""

    def create(self, directory: int, name: str) -> int:
        """Create a file that must not exist, for reading and writing."""

    def make_directory(self, directory: int, name: str) -> None:
        """Create a directory that must not exist."""

    def reserve(self, file: int, size_bytes: int) -> None:
        """Give a new file its size, and its space where the file system can. ENOSPC at once if it can't fit."""

    def write(self, file: int, offset: int, data: Buffer, *, bulk: bool) -> None:
        """Write all of `data` at `offset`. `bulk`: nobody will read it soon, keep it out of the page cache."""

    def open_direct(self, directory: int, name: str) -> DirectFile | None:
        """Open a file once more, to write around the page cache; None where the file system is known to refuse."""

    def write_direct(self, file: DirectFile, offset: int, data: memoryview) -> int:
        """Write `data`, aligned as `file` says, around the page cache; no more durable than any write.

        Returns how much was written: all, or less where the file system turns out to refuse; then the rest is for
        `write`.
        """

    @property
    def write_road(self) -> WriteRoad:
        """The fastest road for bulk data that was not refused yet."""

    def truncate(self, file: int, size_bytes: int) -> None:
        """Cut or extend a file."""

    def read_into(self, file: int, offset: int, *into: memoryview) -> int:
        """Fill `into`, one after another, from byte `offset`; return how many bytes the file had."""

    def open_direct_again(self, file: int) -> DirectFile | None:
        """Open an open file once more, to read around the page cache; None where that cannot be done."""

    def read_direct(self, file: DirectFile, offset: int, into: memoryview) -> int:
        """Fill `into`, aligned as `file` says, around the page cache.

        Returns how much was read: less at the file's end, and where the file system refuses.
        """

    def is_cached(self, file: int, offset: int, size_bytes: int) -> bool:
        """Say whether at least half of a range is in the page cache, or that nobody knows."""

    def sync(self, file: int) -> None:
        """Make a file's bytes durable. Once this failed, the file must be thrown away."""

    def sync_directory(self, directory: int) -> None:
        """Make a directory's names durable."""

    def close(self, descriptor: int) -> None:
        """Close a file or directory; locks on it are released."""

    def rename_new(self, directory: int, old: str, new: str) -> None:
        """Rename within a directory; EEXIST if `new` is taken, also when many race."""

    def rename_over(self, directory: int, old: str, new: str) -> None:
        """Rename within a directory, replacing `new` in one step."""

    def move_over(self, directory: int, name: str, other_directory: int, other: str) -> None:
        """Rename a file of one directory to a name in another that exists, replacing that in one step."""

    def link(self, directory: int, name: str, other_directory: int, other: str) -> None:
        """Give a file a second name, which must not exist; where the file system has none, EPERM or EOPNOTSUPP."""

    def unlink(self, directory: int, name: str) -> None:
        """Remove a name."""

    def entries(self, directory: int) -> list[DirectoryEntry]:
        """List a directory, in no order."""

    def status(self, file: int) -> FileStatus:
        """Describe an open file."""

    def status_at(self, root: int, path: str, *, confined: bool) -> FileStatus:
        """Describe what lies at a path, without the right to read it."""

    def is_plain_file(self, directory: int, name: str) -> bool:
        """Say whether a name in a directory is a file, and no link to one."""

    def try_lock(self, file: int, *, shared: bool) -> bool:
        """Take an advisory lock on an open file without waiting; it lasts until `unlock` or the process's end."""

    def unlock(self, file: int) -> None:
        """Let the lock go, also when a forked child still has the file open."""

    def free_bytes(self, directory: int) -> int:
        """Say how many bytes an ordinary user may still write here."""


_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
_RENAME_NOREPLACE = 1
_MOST_MEMORIES = 1024  # IOV_MAX
_RWF_DONTCACHE = 0x80  # Linux 6.14: write, start writeback, and drop the pages when they are clean


def _drop(memories: list[memoryview], count: int) -> None:
    """Take away the first `count` bytes, and memories without any."""
    full = 0
    while full < len(memories) and len(memories[full]) <= count:
        count -= len(memories[full])
        full += 1
    del memories[:full]
    if count:
        memories[0] = memories[0][count:]


class SystemDisk(DirectCalls):
    """The real thing. Safe to use from any thread; it remembers only what this kernel cannot do."""

    def __init__(self) -> None:
        """Find the calls that Python has no name for."""
        super().__init__()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._opener = ConfinedOpener()
        self._has_renameat2 = hasattr(self._libc, "renameat2")
        self._has_fallocate = hasattr(self._libc, "fallocate")
        self._has_dontcache = hasattr(os, "pwritev")

    def open_root(self, path: str) -> int:
        """See `Disk`. The root itself may be reached by links: it is the operator's choice."""
        return os.open(path, _DIRECTORY_FLAGS)

    def make_root(self, path: str) -> None:
        """See `Disk`. What others made is left to them, but for the root's own name, which we may have made before."""
        path, name = os.path.split(path.rstrip("/"))
        missing = [name] if name else []
        while True:
            try:
                parent = self.open_root(path or "/")
                break
            except FileNotFoundError:
                path, name = os.path.split(path.rstrip("/"))
                if not name:
                    raise
                missing.append(name)
            except PermissionError:
                return  # a root in a place that we may not list was made by another user
        try:
            for name in reversed(missing):
                with suppress(FileExistsError):  # its maker may not have synced it, so we do
                    os.mkdir(name, dir_fd=parent)
                os.fsync(parent)
                child = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
                os.close(parent)
                parent = child
        finally:
            os.close(parent)

    def open_directory(self, root: int, path: str, *, confined: bool) -> int:
        """See `Disk`."""
        return self._open(root, path, _DIRECTORY_FLAGS, confined)

    def open_file(self, root: int, path: str, *, confined: bool) -> int:
        """See `Disk`. Never waits for a pipe's other end: what is no file is found out by `status`."""
        return self._open(root, path, _READ_FLAGS | os.O_NONBLOCK | os.O_NOCTTY, confined)

    def _open(self, root: int, path: str, flags: int, confined: bool) -> int:
        if not confined:
            return os.open(path, flags, dir_fd=root)
        return self._opener.open(root, path, flags)

    def open_lock_file(self, directory: int, name: str) -> int:
        """See `Disk`."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(name, flags, 0o666, dir_fd=directory)

    def create(self, directory: int, name: str) -> int:
        """See `Disk`. The umask decides the readers, as with TensorFlow: they run in other containers."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(name, flags, 0o666, dir_fd=directory)

    def make_directory(self, directory: int, name: str) -> None:
        """See `Disk`."""
        os.mkdir(name, dir_fd=directory)

    def reserve(self, file: int, size_bytes: int) -> None:
        """See `Disk`. Not by `os.posix_fallocate`: where the call is missing, that writes every block."""
        if size_bytes == 0:
            return
        if self._has_fallocate:
            while self._libc.fallocate(file, 0, ctypes.c_int64(0), ctypes.c_int64(size_bytes)) != 0:
                code = ctypes.get_errno()
                if code in NOT_SUPPORTED:
                    break
                if code != errno.EINTR:
                    raise OSError(code, os.strerror(code))
            else:
                return
        facts = os.fstatvfs(file)
        if size_bytes > facts.f_bavail * facts.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(file, size_bytes)

    def write(self, file: int, offset: int, data: Buffer, *, bulk: bool) -> None:
        """See `Disk`. One call writes 2 GiB at most and may write less: go on until all is written."""
        rest = memoryview(data).cast("B")
        while len(rest):
            written = self._write_some(file, offset, rest, bulk and self._has_dontcache)
            rest = rest[written:]
            offset += written

    def _write_some(self, file: int, offset: int, data: memoryview, uncached: bool) -> int:
        if uncached:
            try:
                return os.pwritev(file, [data], offset, _RWF_DONTCACHE)
            except OSError as error:
                if error.errno not in NOT_SUPPORTED:
                    raise
                self._has_dontcache = False
        return os.pwrite(file, data, offset)

    @property
    def write_road(self) -> WriteRoad:
        """See `Disk`."""
        if self._has_direct:
            return WriteRoad.DIRECT
        return WriteRoad.DONTCACHE if self._has_dontcache else WriteRoad.BUFFERED

    def truncate(self, file: int, size_bytes: int) -> None:
        """See `Disk`."""
        os.ftruncate(file, size_bytes)

    def read_into(self, file: int, offset: int, *into: memoryview) -> int:
        """See `Disk`. One call takes so many memories at most, and may fill less than it was given."""
        done = 0
        for first in range(0, len(into), _MOST_MEMORIES):
            rest = list(into[first : first + _MOST_MEMORIES])
            while rest:
                count = os.preadv(file, rest, offset + done)
                done += count
                if count == 0 and any(map(len, rest)):
                    return done
                _drop(rest, count)
        return done

    def sync(self, file: int) -> None:
        """See `Disk`."""
        os.fsync(file)

    def sync_directory(self, directory: int) -> None:
        """See `Disk`."""
        os.fsync(directory)

    def close(self, descriptor: int) -> None:
        """See `Disk`."""
        os.close(descriptor)

    def rename_new(self, directory: int, old: str, new: str) -> None:
        """See `Disk`. Where the file system can't rename without replacing (NFS), link() is as good."""
        if self._has_renameat2:
            at = ctypes.c_int(directory)
            if self._libc.renameat2(at, os.fsencode(old), at, os.fsencode(new), _RENAME_NOREPLACE) == 0:
                return
            code = ctypes.get_errno()
            if code not in NOT_SUPPORTED:
                raise OSError(code, os.strerror(code), old, None, new)
        os.link(old, new, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        os.unlink(old, dir_fd=directory)

    def rename_over(self, directory: int, old: str, new: str) -> None:
        """See `Disk`."""
        os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory)

    def move_over(self, directory: int, name: str, other_directory: int, other: str) -> None:
        """See `Disk`."""
        os.rename(name, other, src_dir_fd=directory, dst_dir_fd=other_directory)

    def link(self, directory: int, name: str, other_directory: int, other: str) -> None:
        """See `Disk`."""
        os.link(name, other, src_dir_fd=directory, dst_dir_fd=other_directory, follow_symlinks=False)

    def unlink(self, directory: int, name: str) -> None:
        """See `Disk`."""
        os.unlink(name, dir_fd=directory)

    def entries(self, directory: int) -> list[DirectoryEntry]:
        """See `Disk`."""
        with os.scandir(directory) as found:
            return [DirectoryEntry(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]

    def status(self, file: int) -> FileStatus:
        """See `Disk`."""
        facts = os.fstat(file)
        return FileStatus(
            size_bytes=facts.st_size,
            modified_ns=facts.st_mtime_ns,
            changed_ns=facts.st_ctime_ns,
            inode=facts.st_ino,
            is_file=stat.S_ISREG(facts.st_mode),
            num_links=facts.st_nlink,
        )

    def status_at(self, root: int, path: str, *, confined: bool) -> FileStatus:
        """See `Disk`."""
        file = self._open(root, path, os.O_PATH | os.O_CLOEXEC, confined)
        try:
            return self.status(file)
        finally:
            os.close(file)

    def is_plain_file(self, directory: int, name: str) -> bool:
        """See `Disk`."""
        return stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)

    def unlock(self, file: int) -> None:
        """See `Disk`."""
        fcntl.flock(file, fcntl.LOCK_UN)

    def try_lock(self, file: int, *, shared: bool) -> bool:
        """See `Disk`."""
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def free_bytes(self, directory: int) -> int:
        """See `Disk`."""
        facts = os.fstatvfs(directory)
        return facts.f_bavail * facts.f_frsize
