"""A disk that forgets what was not synced.

The model, harsher than any one real file system: a file's bytes are durable when the file was synced; a name is durable
when its directory was synced; of the changes that were not synced, any subset may have reached the platter, in any
order across and within directories. A file whose bytes were not synced comes back empty, as zeros, torn, or whole.

One disk can also die at its n-th operation, fail there with an errno, or lie about syncing. An fsync that failed once
is answered with success when repeated, and nothing gets durable by it: as Linux does.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Iterator

from ckptd.storage.local.around_cache import UNIT_BYTES, DirectFile, address_of
from ckptd.storage.local.disk import DirectoryEntry, FileStatus, WriteMode
from tests.fakes.disk_nodes import Change, Crash, Directory, File, Unsynced, after_crash, status_of, walk


class PowerCut(BaseException):
    """The machine is off. Not an `Exception`: no code of ours may catch it and go on."""


DIRECT_MEMORY_BYTES = 512

SPENDING = ("create", "make_directory", "reserve", "write", "write_direct", "lock_file")
"""The operations that a full disk refuses."""


class SimulatedDisk:
    """A `ckptd.storage.local.disk.Disk` in memory. Every operation that changes something has a number, from 1 on."""

    def __init__(
        self,
        *,
        dies_at: int | None = None,
        fails_at: int | None = None,
        full_from: int | None = None,
        error: int = errno.EIO,
        syncs_files: bool = True,
        syncs_directories: bool = True,
        wall_s: Callable[[], float] | None = None,
        has_direct: bool = True,
        writes_direct_through: int | None = None,
    ) -> None:
        self.dies_at = dies_at
        self.fails_at = fails_at
        self.full_from = full_from
        self.error = error
        self.syncs_files = syncs_files
        self.syncs_directories = syncs_directories
        self.has_direct = has_direct
        self.writes_direct_through = writes_direct_through
        self.caches_reads = False
        self.direct_reads: list[tuple[int, int]] = []
        self.operations: list[str] = []
        self.dead = False
        self._wall_s = wall_s
        self._guard = threading.RLock()
        self._top = Directory()
        self._pending: list[Change] = []
        self._open: dict[int, File | Directory] = {}
        self._next_descriptor = 3
        self._next_inode = 1
        self._ticks = 0

    # What tests ask

    def crashes(self, seed: int = 0) -> Iterator[Crash]:
        """Choose from the ways to lose power now: nothing kept, all, each change alone lost or kept, some at random."""
        count = len(self._pending)
        everything = frozenset(range(count))
        yield Crash(everything, Unsynced.LOST)
        yield Crash(frozenset(), Unsynced.LOST)
        if any(file.dirty for file in self._files()):
            for unsynced in (Unsynced.KEPT, Unsynced.TORN, Unsynced.ZEROS):
                yield Crash(everything, unsynced)
        rng = random.Random(seed)
        singles = range(count) if count <= 10 else sorted(rng.sample(range(count), 10))
        if count > 1:
            for single in singles:
                yield Crash(everything - {single}, Unsynced.LOST)
                yield Crash(frozenset({single}), Unsynced.KEPT)
        if count > 2:
            for _ in range(3):
                kept = frozenset(change for change in range(count) if rng.random() < 0.5)
                yield Crash(kept, rng.choice(list(Unsynced)))

    def reboot(self, crash: Crash | None = None) -> SimulatedDisk:
        """Return the disk as it is after `crash` (or after a clean shutdown): all that it holds is durable."""
        after = SimulatedDisk(wall_s=self._wall_s)
        after._next_inode = self._next_inode
        after._ticks = self._ticks
        copies: dict[int, File | Directory] = {}

        def copy(node: File | Directory) -> File | Directory:
            if id(node) not in copies:
                copies[id(node)] = copy_directory(node) if isinstance(node, Directory) else copy_file(node)
            return copies[id(node)]

        def copy_directory(directory: Directory) -> Directory:
            names = dict(directory.entries if crash is None else directory.durable)
            if crash is not None:
                for number, change in enumerate(self._pending):
                    if change.directory is directory and number in crash.kept:
                        change.apply(names)
            below = {name: copy(node) for name, node in names.items()}
            return Directory(below, dict(below))

        def copy_file(file: File) -> File:
            data = after_crash(file, Unsynced.KEPT if crash is None else crash.unsynced)
            times = {"changed_ns": file.changed_ns, "modified_ns": file.modified_ns}
            return File(file.inode, bytearray(data), data, num_links=0, **times)

        top = copy(self._top)
        assert isinstance(top, Directory)
        after._top = top
        for _, node in walk("", top):
            if isinstance(node, File):
                node.num_links += 1
        return after

    @property
    def num_open(self) -> int:
        """How many descriptors are open."""
        return len(self._open)

    def content(self) -> dict[str, bytes]:
        """Return every file as programs see it now: path → bytes."""
        return {path: bytes(node.data) for path, node in walk("", self._top) if isinstance(node, File)}

    def paths(self) -> list[str]:
        """Return every path, directories with a slash at the end."""
        return [path if isinstance(node, File) else path + "/" for path, node in walk("", self._top)]

    def add_file(self, path: str, data: bytes) -> None:
        """Put a file there, durably, as another program would have done long ago."""
        *parents, name = path.strip("/").split("/")
        here = self._top
        for parent in parents:
            below = here.entries.setdefault(parent, Directory())
            assert isinstance(below, Directory)
            here.durable[parent] = below
            here = below
        now = self._now_ns()
        file = File(self._new_inode(), bytearray(data), data, changed_ns=now, modified_ns=now)
        here.entries[name] = here.durable[name] = file

    def _files(self) -> list[File]:
        """Return the files that some crash could leave under some name."""
        found = [node for _, node in walk("", self._top) if isinstance(node, File)]
        return found + [change.node for change in self._pending if isinstance(change.node, File)]

    # What every operation passes through

    def _begin(self, kind: str, what: str = "") -> None:
        if self.dead:
            raise PowerCut
        self.operations.append(f"{kind} {what}".strip())
        number = len(self.operations)
        if number == self.dies_at:
            self.dead = True
            raise PowerCut
        if number == self.fails_at:
            raise OSError(self.error, os.strerror(self.error))
        if self.full_from is not None and number >= self.full_from and kind in SPENDING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _alive(self) -> None:
        if self.dead:
            raise PowerCut

    def _change(self, change: Change) -> None:
        change.apply(change.directory.entries)
        self._pending.append(change)

    def _now_ns(self) -> int:
        self._ticks += 1
        return int((self._wall_s() if self._wall_s else 0) * 1_000_000_000) + self._ticks

    def _new_inode(self) -> int:
        self._next_inode += 1
        return self._next_inode

    def _descriptor(self, node: File | Directory) -> int:
        self._next_descriptor += 1
        self._open[self._next_descriptor] = node
        return self._next_descriptor

    def _file(self, descriptor: int) -> File:
        node = self._open.get(descriptor)
        if not isinstance(node, File):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return node

    def _directory(self, descriptor: int) -> Directory:
        node = self._open.get(descriptor)
        if not isinstance(node, Directory):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return node

    def _find(self, start: Directory, path: str) -> File | Directory:
        node: File | Directory = start
        for name in path.split("/"):
            if name in ("", "."):
                continue
            if not isinstance(node, Directory):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            if name not in node.entries:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            node = node.entries[name]
        return node

    # The operations of `Disk`

    def open_root(self, path: str) -> int:
        with self._guard:
            self._alive()
            node = self._find(self._top, path)
            if not isinstance(node, Directory):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            return self._descriptor(node)

    def make_root(self, path: str, mode: int) -> None:
        with self._guard:
            here = self._top
            for name in path.strip("/").split("/"):
                if name not in here.entries:
                    self._begin("make_directory", name)
                    self._change(Change(here, name, Directory()))
                self._sync_directory(here, name)
                below = here.entries[name]
                assert isinstance(below, Directory)
                here = below

    def open_directory(self, root: int, path: str, *, confined: bool) -> int:
        with self._guard:
            self._alive()
            node = self._find(self._directory(root), path)
            if not isinstance(node, Directory):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            return self._descriptor(node)

    def open_file(self, root: int, path: str, *, confined: bool) -> int:
        with self._guard:
            self._alive()
            return self._descriptor(self._find(self._directory(root), path))

    def open_lock_file(self, directory: int, name: str) -> int:
        with self._guard:
            self._alive()
            if name in self._directory(directory).entries:
                return self._descriptor(self._find(self._directory(directory), name))
            return self._create("lock_file", directory, name)

    def create(self, directory: int, name: str) -> int:
        with self._guard:
            return self._create("create", directory, name)

    def _create(self, kind: str, directory: int, name: str) -> int:
        self._begin(kind, name)
        within = self._directory(directory)
        if name in within.entries:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        now = self._now_ns()
        file = File(self._new_inode(), changed_ns=now, modified_ns=now)
        self._change(Change(within, name, file))
        return self._descriptor(file)

    def make_directory(self, directory: int, name: str) -> None:
        with self._guard:
            self._alive()
            within = self._directory(directory)
            if name in within.entries:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
            self._begin("make_directory", name)
            self._change(Change(within, name, Directory()))

    def remove_directory(self, directory: int, name: str) -> None:
        with self._guard:
            self._begin("remove_directory", name)
            within = self._directory(directory)
            removed = self._find(within, name)
            assert isinstance(removed, Directory)
            if removed.entries:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), name)
            self._change(Change(within, name, None))

    def reserve(self, file: int, size_bytes: int) -> None:
        with self._guard:
            self._begin("reserve")
            self._resize(self._file(file), size_bytes)

    def truncate(self, file: int, size_bytes: int) -> None:
        with self._guard:
            self._begin("truncate")
            self._resize(self._file(file), size_bytes)

    def _resize(self, file: File, size_bytes: int) -> None:
        del file.data[size_bytes:]
        file.data.extend(bytes(size_bytes - len(file.data)))
        file.dirty = True

    def write(self, file: int, offset: int, data: bytes | bytearray | memoryview, *, bulk: bool) -> None:
        with self._guard:
            node = self._file(file)
            has_room = offset + len(data) <= len(node.durable)  # what was synced before has its blocks
            self._begin("overwrite" if has_room else "write", f"{len(data)} bytes")
            self._put(node, offset, data)

    def _put(self, node: File, offset: int, data: bytes | bytearray | memoryview) -> None:
        node.data.extend(bytes(max(0, offset + len(data) - len(node.data))))
        node.data[offset : offset + len(data)] = data
        node.dirty = True
        node.changed_ns = node.modified_ns = self._now_ns()

    def open_direct(self, directory: int, name: str) -> DirectFile | None:
        with self._guard:
            self._alive()
            if not self.has_direct:
                return None
            return DirectFile(self._descriptor(self._find(self._directory(directory), name)), DIRECT_MEMORY_BYTES)

    def write_direct(self, file: DirectFile, offset: int, data: memoryview) -> int:
        """As durable as any write: not at all before the sync. What is out of line would be refused: a test's failure.

        With `writes_direct_through` the file system refuses at that byte of the file, as some do only when written to.
        """
        with self._guard:
            assert (offset % UNIT_BYTES, len(data) % UNIT_BYTES, address_of(data) % DIRECT_MEMORY_BYTES) == (0, 0, 0)
            through = self.writes_direct_through
            if not self.has_direct or (through is not None and offset + len(data) > through):
                self.has_direct = False
                data = data[: max(0, (through or 0) - offset)]
            if len(data):
                self._begin("write_direct", f"{len(data)} bytes")
                self._put(self._file(file.descriptor), offset, data)
            return len(data)

    @property
    def write_mode(self) -> WriteMode:
        return WriteMode.DIRECT if self.has_direct else WriteMode.BUFFERED

    def read_into(self, file: int, offset: int, *into: memoryview) -> int:
        with self._guard:
            self._alive()
            done = 0
            for memory in into:
                data = self._file(file).data[offset + done : offset + done + len(memory)]
                memory[: len(data)] = data
                done += len(data)
            return done

    def open_direct_again(self, file: int) -> DirectFile | None:
        with self._guard:
            self._alive()
            if not self.has_direct:
                return None
            return DirectFile(self._descriptor(self._file(file)), DIRECT_MEMORY_BYTES)

    def read_direct(self, file: DirectFile, offset: int, into: memoryview) -> int:
        with self._guard:
            assert (offset % UNIT_BYTES, len(into) % UNIT_BYTES, address_of(into) % DIRECT_MEMORY_BYTES) == (0, 0, 0)
            if not self.has_direct:
                return 0
            self.direct_reads.append((offset, len(into)))
            return self.read_into(file.descriptor, offset, into)

    def is_cached(self, file: int, offset: int, size_bytes: int) -> bool:
        return self.caches_reads

    def sync(self, file: int) -> None:
        with self._guard:
            node = self._file(file)
            try:
                self._begin("sync")
            except OSError:
                node.sync_failed = True
                raise
            if self.syncs_files and not node.sync_failed:
                node.durable = bytes(node.data)
                node.dirty = False

    def sync_directory(self, directory: int) -> None:
        with self._guard:
            self._sync_directory(self._directory(directory))

    def _sync_directory(self, directory: Directory, what: str = "") -> None:
        self._begin("sync_directory", what)
        if not self.syncs_directories:
            return
        rest = []
        for change in self._pending:
            if change.directory is directory:
                change.apply(directory.durable)
            else:
                rest.append(change)
        self._pending = rest

    def close(self, descriptor: int) -> None:
        with self._guard:
            self._alive()
            node = self._open.pop(descriptor, None)
            if node is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            if isinstance(node, File):
                node.locks.pop(descriptor, None)

    def rename_new(self, directory: int, old: str, new: str) -> None:
        with self._guard:
            self._begin("rename_new", new)
            if new in self._directory(directory).entries:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
            self._rename(self._directory(directory), old, new)

    def rename_over(self, directory: int, old: str, new: str) -> None:
        with self._guard:
            self._begin("rename_over", new)
            self._rename(self._directory(directory), old, new)

    def _rename(self, directory: Directory, old: str, new: str) -> None:
        node = directory.entries.get(old)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), old)
        replaced = directory.entries.get(new)
        if isinstance(replaced, File):
            replaced.num_links -= 1
        if isinstance(node, File):
            node.changed_ns = self._now_ns()
        self._change(Change(directory, new, node, old))

    def move_over(self, directory: int, name: str, other_directory: int, other: str) -> None:
        with self._guard:
            self._begin("move_over", other)
            source, within = self._directory(directory), self._directory(other_directory)
            node, replaced = self._find(source, name), within.entries.get(other)
            assert isinstance(node, File)
            if isinstance(replaced, File):
                replaced.num_links -= 1
            node.changed_ns = self._now_ns()
            self._change(Change(within, other, node))
            self._change(Change(source, name, None))

    def link(self, directory: int, name: str, other_directory: int, other: str) -> None:
        with self._guard:
            self._begin("link", other)
            node = self._find(self._directory(directory), name)
            within = self._directory(other_directory)
            if other in within.entries:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), other)
            assert isinstance(node, File)
            node.num_links += 1
            self._change(Change(within, other, node))

    def unlink(self, directory: int, name: str) -> None:
        with self._guard:
            self._alive()
            within = self._directory(directory)
            node = within.entries.get(name)
            if node is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            self._begin("unlink", name)
            if isinstance(node, Directory):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
            node.num_links -= 1
            self._change(Change(within, name, None))

    def entries(self, directory: int) -> list[DirectoryEntry]:
        with self._guard:
            self._alive()
            within = self._directory(directory).entries
            return [DirectoryEntry(name, isinstance(node, Directory)) for name, node in within.items()]

    def status(self, file: int) -> FileStatus:
        with self._guard:
            self._alive()
            return status_of(self._open[file])

    def status_at(self, root: int, path: str, *, confined: bool) -> FileStatus:
        with self._guard:
            self._alive()
            return status_of(self._find(self._directory(root), path))

    def is_plain_file(self, directory: int, name: str) -> bool:
        with self._guard:
            self._alive()
            return status_of(self._find(self._directory(directory), name)).is_file

    def try_lock(self, file: int, *, shared: bool) -> bool:
        with self._guard:
            self._alive()
            node = self._file(file)
            others = [held for holder, held in node.locks.items() if holder != file]
            if others and not (shared and all(others)):
                return False
            node.locks[file] = shared
            return True

    def unlock(self, file: int) -> None:
        with self._guard:
            self._alive()
            self._file(file).locks.pop(file, None)

    def free_bytes(self, directory: int) -> int:
        self._alive()
        return 1 << 30
