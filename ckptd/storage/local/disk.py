"""The operating-system calls that a local store is made of, as a contract: `Disk`.

`LocalStore` decides what is called in which order; a `Disk` does it. `SystemDisk` calls the kernel. Tests use a
simulated disk that forgets whatever was not synced, so the order is proved without pulling plugs. All errors are
`OSError`.

Directories and files are given as descriptors, and paths lead from a root's descriptor. That is what keeps names
inside the root: every path is resolved below the root's descriptor in one step (see `confined`), so no symbolic link
that appears between a check and a use can lead outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ckptd.storage.base import Buffer
from ckptd.storage.local.around_cache import DirectFile


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What the file system knows about one open file. Times are in nanoseconds of wall-clock time."""

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


class WriteMode(Enum):
    """How bulk data goes to the disk, from the fastest to the slowest."""

    DIRECT = "direct"  # around the page cache, see `around_cache`
    DONTCACHE = "dontcache"  # through pages of the cache that are released at once
    BUFFERED = "buffered"  # through the page cache, as any program's data

    @property
    def description(self) -> str:
        """For people."""
        return {
            WriteMode.DIRECT: "around the page cache (O_DIRECT)",
            WriteMode.DONTCACHE: "through the page cache, which keeps nothing of it (RWF_DONTCACHE)",
            WriteMode.BUFFERED: "through the page cache, which costs more processor time than the other ways",
        }[self]


class Disk(Protocol):
    """What a local store needs from the operating system. Every number returned is a descriptor to be closed."""

    def open_root(self, path: str) -> int:
        """Open the directory that all other paths start from."""

    def make_root(self, path: str, mode: int) -> None:
        """Create the root, if need be, and whatever leads to it; on return all these names are durable.

        `mode` is that of the root, less the umask's; what leads to it has what the umask leaves.
        """

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

    def remove_directory(self, directory: int, name: str) -> None:
        """Remove a directory, which must be empty."""

    def reserve(self, file: int, size_bytes: int) -> None:
        """Give a new file its size, and its space where the file system can. ENOSPC at once if it can't fit."""

    def write(self, file: int, offset: int, data: Buffer, *, bulk: bool) -> None:
        """Write all of `data` at `offset`. `bulk`: it will not be read soon, so keep it out of the page cache."""

    def open_direct(self, directory: int, name: str) -> DirectFile | None:
        """Open a file once more, to write around the page cache; None where the file system is known to refuse."""

    def write_direct(self, file: DirectFile, offset: int, data: memoryview) -> int:
        """Write `data`, aligned as `file` says, around the page cache; no more durable than any write.

        Returns how much was written: all, or less where the file system turns out to refuse; then the rest is for
        `write`.
        """

    @property
    def write_mode(self) -> WriteMode:
        """The fastest way for bulk data that was not refused yet."""

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
        """Say whether at least half of a range is in the page cache; also True if that is unknown."""

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
        """Describe what is at a path, without the right to read it."""

    def is_plain_file(self, directory: int, name: str) -> bool:
        """Say whether a name in a directory is a file, and no link to one."""

    def try_lock(self, file: int, *, shared: bool) -> bool:
        """Take an advisory lock on an open file without waiting; it lasts until `unlock` or the process's end."""

    def unlock(self, file: int) -> None:
        """Release the lock, even when a forked child still has the file open."""

    def free_bytes(self, directory: int) -> int:
        """Say how many bytes an ordinary user may still write here."""
