"""`SystemDisk`: the calls of `Disk`, made to the kernel."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from contextlib import suppress

from ckptd.storage.base import Buffer
from ckptd.storage.local.confined import ConfinedOpener
from ckptd.storage.local.direct_calls import NOT_SUPPORTED, DirectCalls
from ckptd.storage.local.disk import DirectoryEntry, FileStatus, WriteMode
from ckptd.storage.local.patience import patient

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
    """The real disk. Any thread may use it; it remembers only what this kernel cannot do."""

    def __init__(self, *, newer_calls: bool = True) -> None:
        """Find the calls that Python does not offer; without `newer_calls`, use none that some kernels lack."""
        super().__init__(newer_calls=newer_calls)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._opener = ConfinedOpener(newer_calls=newer_calls)
        self._has_renameat2 = newer_calls and hasattr(self._libc, "renameat2")
        self._has_fallocate = newer_calls and hasattr(self._libc, "fallocate")
        self._has_dontcache = newer_calls and hasattr(os, "pwritev")

    @patient
    def open_root(self, path: str) -> int:
        """See `Disk`. The root itself may be reached by links: it is the operator's choice."""
        return os.open(path, _DIRECTORY_FLAGS)

    def make_root(self, path: str, mode: int) -> None:
        """See `Disk`. Syncs no directory that others made, but the root's own name, which we may have made before."""
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
            for above, name in reversed(list(enumerate(missing))):
                with suppress(FileExistsError):  # its maker may not have synced it, so we do
                    os.mkdir(name, 0o777 if above else mode, dir_fd=parent)
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

    @patient
    def _open(self, root: int, path: str, flags: int, confined: bool) -> int:
        if not confined:
            return os.open(path, flags, dir_fd=root)
        return self._opener.open(root, path, flags)

    @patient
    def open_lock_file(self, directory: int, name: str) -> int:
        """See `Disk`."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(name, flags, 0o666, dir_fd=directory)

    @patient
    def create(self, directory: int, name: str) -> int:
        """See `Disk`. The umask decides the readers, as with TensorFlow: they run in other containers."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(name, flags, 0o666, dir_fd=directory)

    def make_directory(self, directory: int, name: str) -> None:
        """See `Disk`."""
        os.mkdir(name, dir_fd=directory)

    def remove_directory(self, directory: int, name: str) -> None:
        """See `Disk`."""
        os.rmdir(name, dir_fd=directory)

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
    def write_mode(self) -> WriteMode:
        """See `Disk`."""
        if self._has_direct:
            return WriteMode.DIRECT
        return WriteMode.DONTCACHE if self._has_dontcache else WriteMode.BUFFERED

    def truncate(self, file: int, size_bytes: int) -> None:
        """See `Disk`."""
        os.ftruncate(file, size_bytes)

    def read_into(self, file: int, offset: int, *into: memoryview) -> int:
        """See `Disk`. One call takes a limited number of buffers, and may fill fewer bytes than requested."""
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

    @patient
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
