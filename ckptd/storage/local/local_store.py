"""A store in a directory. `system_disk.py` makes the system calls; what is called in which order is decided here.

An object begins as a file of `unfinished.py`, with a temporary name. It gets its final name when its bytes are synced,
by a rename that never replaces, and counts as stored once the directory is synced too.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from ckptd.errors import ConflictError, CorruptionError, NotFoundError, StorageFullError
from ckptd.storage.base import AccessPattern, Buffer, Durability, Lock, ObjectStat, ObjectWriter
from ckptd.storage.holds import Hold
from ckptd.storage.keys import check_directory, check_key, is_reserved, join
from ckptd.storage.local import local_holds, lock_files, unfinished
from ckptd.storage.local.disk import Disk, WriteMode
from ckptd.storage.local.local_reader import check_content, fill, read_whole
from ckptd.storage.local.local_root import LocalRoot
from ckptd.storage.local.local_writer import LocalWriter, stat_of
from ckptd.storage.local.os_errors import from_os_error, translated
from ckptd.storage.local.system_disk import SystemDisk
from ckptd.storage.local.turns import turn_at

_BULK_BYTES = 1 << 20  # an object from this size on is data that nothing reads soon
_MODE_TRIAL = "trial"  # never an object: its writer is aborted


class LocalStore:
    """A directory as a `Store`. Other processes may read and write beside it; see `ckptd.storage.base`.

    Args:
        root: the directory, made absolute at once; created with the first object.
        disk: makes the system calls.
        confined: whether symbolic links may lead out of the root. A daemon that takes keys from the network stays
            confined; a command that reads a path its own user typed follows links as any program does.
    """

    _describe = staticmethod(stat_of)

    def __init__(self, root: str, *, disk: Disk | None = None, confined: bool = True, root_mode: int = 0o777) -> None:
        """Remember where the root is; nothing is opened or created yet. `root_mode` as in `Disk.make_root`."""
        self._disk: Disk = SystemDisk() if disk is None else disk
        path = os.path.abspath(root)  # noqa: PTH100 (a Path would not survive every byte of a name)
        self._root = LocalRoot(path, self._disk, confined, root_mode)
        self._has_tried_mode = False
        self._reads_around = True

    def __repr__(self) -> str:
        return f"LocalStore({self.url!r})"

    @property
    def url(self) -> str:
        """The root's absolute path."""
        return self._root.path

    @property
    def durability(self) -> Durability:
        """Survives power loss of this host."""
        return Durability.LOCAL_DISK

    @property
    def access(self) -> AccessPattern:
        """Readers enough to keep a disk busy while others check and copy; a page is the least that it reads."""
        return AccessPattern(num_readers=4, gap_bytes=4096)

    @property
    def has_locks(self) -> bool:
        """Real ones."""
        return True

    @property
    def verifies_writes(self) -> bool:
        """A disk compares nothing; what `put` and `replace` write is read back here before it gets its name."""
        return False

    def broken_promises(self) -> Sequence[str]:
        """None."""
        return ()

    def location(self, key: str) -> str:
        """See `Store`; here the same as `local_path`."""
        check_key(key)
        return self.local_path(key)

    def local_path(self, key: str) -> str:
        """See `FileObjects`: where other programs of this host find the object."""
        return os.path.join(self._root.path, *check_directory(key))  # noqa: PTH118

    def at(self, directory: str) -> LocalStore:
        """See `NestedStore`."""
        return LocalStore(self.local_path(directory), disk=self._disk, confined=self._root.confined)

    def read_by_many(self) -> LocalStore:
        """See `SharedObjects`.

        It reads through the page cache, so that the disk is read once for all of them.
        """
        store = LocalStore(self._root.path, disk=self._disk, confined=self._root.confined)
        store._reads_around = False
        return store

    # Writing

    def write_mode(self) -> WriteMode:
        """Return how bulk data goes to the disk here; if need be it is tested, with a file that is removed again.

        Raises:
            CkptdError: when nothing can be written here at all.
        """
        if not self._has_tried_mode:
            writer = self._create(_MODE_TRIAL, _BULK_BYTES)
            try:
                writer.write(0, bytes(_BULK_BYTES))
            finally:
                writer.abort()
            self._has_tried_mode = True
        return self._disk.write_mode

    def create(self, key: str, size_bytes: int) -> ObjectWriter:
        """See `Store`. Two or three descriptors stay open until the writer finishes or aborts."""
        if size_bytes < 0:
            raise ConflictError("an object has no negative size", key=key)
        return self._create(key, size_bytes)

    def create_unreserved(self, key: str, size_bytes: int) -> ObjectWriter:
        """See `ReservingStore`."""
        return self._create(key, size_bytes, reserves=False)

    def put(self, key: str, data: Buffer) -> ObjectStat:
        """See `Store`."""
        return self._written(key, data).finish(expected=memoryview(data).cast("B"))

    def replace(self, key: str, data: Buffer, *, if_version: str | None = None) -> ObjectStat:
        """See `Store`. Versions are compared within this process; other processes are kept out by `lock`.

        When syncing the directory fails, the new bytes are visible, but whether they survive is not known.
        """
        writer = self._written(key, data)
        with turn_at(self.local_path(key)):
            try:
                self._check_version(key, if_version)
            except ConflictError:
                writer.abort()
                raise
            return writer.finish(replacing=True, expected=memoryview(data).cast("B"))

    def _check_version(self, key: str, if_version: str | None) -> None:
        if if_version is None:
            return
        try:
            found: str | None = self.stat(key).version
        except NotFoundError:
            found = None
        if found != if_version:
            raise ConflictError("changed since it was read", key=key, expected=if_version, actual=found)

    def replace_within(self, reserve: str, key: str, data: Buffer, *, if_version: str | None = None) -> ObjectStat:
        """See `SparingStore`. The reserve's file, with its blocks, becomes the object's: no directory grows.

        A file that has another name as well, such as a backup, is no reserve: only our own file changes in place.
        """
        view = memoryview(data).cast("B")
        *parents, _ = check_key(key)
        *reserve_parents, reserve_name = check_key(reserve)
        with ExitStack() as stack:
            stack.enter_context(translated(key))
            source = stack.enter_context(self._root.opened(reserve_parents))
            directory = stack.enter_context(self._root.opened(parents))
            with self._root.opened_file(reserve) as (_, found):  # `open_lock_file` would make a file
                if found.num_links != 1 or found.size_bytes < len(view):
                    raise StorageFullError("the reserved space is too small for this", key=key, expected=len(view))
            file = self._disk.open_lock_file(source, reserve_name)
            stack.callback(self._disk.close, file)
            if not self._disk.try_lock(file, shared=False):
                raise ConflictError("the reserved space is being used by another process", key=reserve)
            # Crash here, or anywhere before the rename: a reserve that holds something. Nothing reads it.
            self._disk.write(file, 0, view, bulk=False)
            self._disk.truncate(file, len(view))
            self._disk.sync(file)
            check_content(self._disk, file, view, key)
            with turn_at(self.local_path(key)):
                self._move_in(source, reserve_name, directory, key, if_version)
                # Crash here: the object is the old or the new one. The reserve's name may still lead to the new one.
                self._disk.sync_directory(directory)
                self._disk.sync_directory(source)
                return self._describe(key, self._disk.status(file))

    def _move_in(self, source: int, reserve: str, directory: int, key: str, if_version: str | None) -> None:
        self._check_version(key, if_version)
        self._disk.move_over(source, reserve, directory, check_key(key)[-1])

    def link(self, key: str, other: str) -> None:
        """See `SparingStore`."""
        *parents, name = check_key(key)
        *other_parents, other_name = check_key(other)
        with translated(other), self._root.opened(parents) as source:
            directory = self._root.open_to_write(tuple(other_parents))
            try:
                self._disk.link(source, name, directory, other_name)
                self._disk.sync_directory(directory)
            finally:
                self._disk.close(directory)

    def _written(self, key: str, data: Buffer) -> LocalWriter:
        view = memoryview(data).cast("B")
        writer = self._create(key, len(view))
        try:
            writer.write(0, view)
        except BaseException:
            writer.abort()
            raise
        return writer

    def _create(self, key: str, size_bytes: int, *, reserves: bool = True) -> LocalWriter:
        *parents, name = check_key(key)
        with translated(key):
            directory = self._root.open_to_write(tuple(parents))
            try:
                temporary, file = unfinished.new_file(self._disk, directory, name)
            except BaseException:
                self._disk.close(directory)
                raise
            bulk = size_bytes >= _BULK_BYTES
            writer = LocalWriter(
                self._disk, key, size_bytes, directory, file, temporary, name, bulk=bulk, describe=self._describe
            )
            try:
                writer.prepare(reserves=reserves)
            except BaseException:
                writer.abort()
                raise
        return writer

    def delete(self, keys: Sequence[str], *, if_version: str | None = None) -> None:
        """See `Store`. Each directory is synced once, at the end: for an order that survives power loss, call twice.

        Versions are compared before: other processes are kept out by `lock`.
        """
        if if_version is not None:
            with suppress(NotFoundError):
                found = self.stat(keys[0]).version
                if found != if_version:
                    raise ConflictError("changed since it was read", key=keys[0], expected=if_version, actual=found)
        touched: dict[tuple[str, ...], str] = {}
        for key in keys:
            *parents, name = check_key(key)
            with (
                translated(key),
                suppress(FileNotFoundError, NotADirectoryError),
                self._root.opened(parents) as directory,
            ):
                # Synced also when the name is gone already: it may have been unlinked just before a crash.
                touched[tuple(parents)] = key
                self._disk.unlink(directory, name)
        for parents_of, key in touched.items():
            with translated(key), suppress(FileNotFoundError), self._root.opened(parents_of) as directory:
                self._disk.sync_directory(directory)

    def sweep_unfinished(
        self,
        directory: str,
        *,
        given_up: Collection[str] = (),
        spare: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> Sequence[str]:
        """See `Store`. A writer's lock says whether it is alive, so `given_up` is ignored; on this host, if at all."""
        parts = check_directory(directory)
        with translated(directory), suppress(FileNotFoundError), self._root.opened(parts) as opened:
            return unfinished.sweep(self._disk, opened, directory, spare, only)
        return []

    # Reading

    def get(self, key: str, *, limit_bytes: int = 1 << 31) -> bytes:
        """See `Store`."""
        with self._root.opened_file(key) as (file, status):
            return read_whole(self._disk, file, status.size_bytes, key, limit_bytes)

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        """See `Store`."""
        views = [memory.cast("B") for memory in into]
        size = sum(map(len, views))
        with self._root.opened_file(key) as (file, status):
            done = fill(self._disk, file, offset, views, size, around=self._reads_around)
            if done < size or offset > status.size_bytes:
                raise CorruptionError(
                    "the object ends early", key=key, offset=offset + done, expected=size, actual=done
                )

    def stat(self, key: str) -> ObjectStat:
        """See `Store`."""
        check_key(key)
        with translated(key), self._root.opened_root() as root:
            status = self._disk.status_at(root, key, confined=self._root.confined)
        if not status.is_file:
            raise NotFoundError("this is a directory or a special file, not an object", key=key)
        return self._describe(key, status)

    def list(self, directory: str, *, deep: bool = True) -> Iterator[ObjectStat]:
        """See `Store`. Links are listed as what they lead to if that is a file; linked directories are not entered."""
        parts = check_directory(directory)
        try:
            with self._root.opened_root() as root, self._root.opened(parts) as opened:
                entries = self._disk.entries(opened)
                below = sorted(
                    (entry.name + "/" if entry.is_directory else entry.name)
                    for entry in entries
                    if not is_reserved(entry.name)
                )
                stats = [
                    (name, None if name.endswith("/") else self._stat_below(root, directory, name)) for name in below
                ]
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise from_os_error(error, directory) from error
        for name, stat in stats:
            if stat is not None:
                yield stat
            elif deep and name.endswith("/"):
                yield from self.list(join(directory, name[:-1]))

    def keys(self, directory: str, starts_with: str = "") -> Sequence[str]:
        """See `Store`. A link is listed whatever it leads to."""
        parts = check_directory(directory)
        try:
            with self._root.opened(parts) as opened:
                entries = self._disk.entries(opened)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise from_os_error(error, directory) from error
        return sorted(
            join(directory, entry.name)
            for entry in entries
            if entry.name.startswith(starts_with) and not entry.is_directory and not is_reserved(entry.name)
        )

    def names(self, directory: str) -> dict[str, bool]:
        """See `FileStore`."""
        with translated(directory), self._root.opened(check_directory(directory)) as opened:
            return {entry.name: entry.is_directory for entry in self._disk.entries(opened)}

    def is_file(self, name: str) -> bool:
        """See `FileStore`."""
        *parents, last = name.split("/")
        with translated(name), self._root.opened(parents) as opened:
            return self._disk.is_plain_file(opened, last)

    def put_away(self, name: str) -> str:
        """See `FileStore`."""
        *parents, last = name.split("/")
        away = f"{last}.before-{secrets.token_hex(4)}"
        with translated(name), self._root.opened(parents) as opened:
            self._disk.rename_new(opened, last, away)
            self._disk.sync_directory(opened)
        return "/".join([*parents, away])

    def _stat_below(self, root: int, directory: str, name: str) -> ObjectStat | None:
        key = join(directory, name)
        try:
            status = self._disk.status_at(root, key, confined=self._root.confined)
        except OSError:
            return None  # removed meanwhile, or a link that leads nowhere we may go
        return self._describe(key, status) if status.is_file else None

    # Holds, locks and space

    def hold(self, key: str) -> Hold | None:
        """See `HoldingObjects`."""
        check_key(key)
        return local_holds.hold(self._disk, partial(self._root.open_file, key))

    @contextmanager
    def unread(self, keys: Sequence[str]) -> Iterator[bool]:
        """See `HoldingStore`."""
        for key in keys:
            check_key(key)
        with ExitStack() as stack:
            with translated(keys[0] if keys else ""):
                is_unread = stack.enter_context(
                    local_holds.unread(self._disk, (partial(self._root.open_file, key) for key in keys))
                )
            yield is_unread

    def lock(self, key: str, *, holder: str, shared: bool = False, takes_over: bool = True) -> Lock:
        """See `Store`. The lock file ``.NAME.ckptd-lock`` stays behind: removing it would let two hold the lock."""
        return lock_files.take(self._root, key, holder=holder, shared=shared)

    def free_bytes(self) -> int | None:
        """See `Store`."""
        return self._root.free_bytes()
