"""A store in a directory that several hosts write to: NFS, Lustre, or another file system of several hosts.

A lock there may be of one host, so no promise rests on one: owners fence each other off as in a bucket, by conditional
changes, and these are made by link(); see `ckptd.storage.local.versions`. Files that are written whole and never
change, such as data shards, are as in any directory. A lock is taken all the same: where it is one of all hosts, it
keeps a second owner out at its start.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ckptd.errors import CkptdError, ConflictError, NotFoundError
from ckptd.storage.base import Buffer, Lock, ObjectStat
from ckptd.storage.keys import VERSIONS_SUFFIX, check_directory, check_key, join
from ckptd.storage.local import lock_files
from ckptd.storage.local.disk import Disk, FileStatus
from ckptd.storage.local.local_reader import read_whole
from ckptd.storage.local.local_store import LocalStore
from ckptd.storage.local.mounts import mount_of
from ckptd.storage.local.os_errors import translated
from ckptd.storage.local.unfinished import temporary_name
from ckptd.storage.local.version_files import IsSound
from ckptd.storage.local.versions import Versions, described, directory_of, object_of

_FORGOTTEN_AFTER_NS = 86_400_000_000_000  # a day, as records stay: what hung for longer is not expected back
_MOST_FORGOTTEN = 8  # at one deletion, which looks at so many

_DOUBTFUL = {
    "nocto": "files that other hosts wrote may be seen late",
    "local_lock=all": "its locks are of one host",
    "local_lock=flock": "its locks are of one host",
    "localflock": "its locks are of one host",
    "noflock": "it has no locks",
}
"""Options of NFS and Lustre under which a directory cannot be shared, and why."""


class SharedDirectory(LocalStore):
    """See the module."""

    _describe = staticmethod(described)

    def __init__(
        self,
        root: str,
        *,
        disk: Disk | None = None,
        confined: bool = True,
        root_mode: int = 0o777,
        is_sound: IsSound | None = None,
    ) -> None:
        """See `LocalStore`. What `is_sound` refuses, other programs have put among the versions of an object."""
        super().__init__(root, disk=disk, confined=confined, root_mode=root_mode)
        self._is_sound = is_sound

    def __repr__(self) -> str:
        return f"SharedDirectory({self.url!r})"

    @property
    def has_locks(self) -> bool:
        """None that owners may rely on."""
        return False

    def at(self, directory: str) -> LocalStore:
        """See `NestedStore`."""
        path = self.local_path(directory)
        return SharedDirectory(path, disk=self._disk, confined=self._root.confined, is_sound=self._is_sound)

    def broken_promises(self) -> Sequence[str]:
        """See `Store`. What this rests on is tried, with files that are removed again."""
        doubts = list(doubtful_options(self.url))
        key = f".ckptd/trial-{secrets.token_hex(8)}"
        other = f"{key}-other"
        try:
            first = self.put(key, b"first")
            second = self.replace(key, b"second", if_version=first.version)
            self.put(other, b"third")
            with suppress(ConflictError):
                self.link(other, key)
                doubts.append("a hard link replaces what is there: then two owners may change the same")
            with suppress(ConflictError):
                self.replace(key, b"third", if_version=first.version)
                doubts.append("what has changed since it was read can be replaced")
            if self.stat(key).version != second.version or self.get(key) != b"second":
                doubts.append("what was written is not what is read")
        except CkptdError as error:
            doubts.append(f"conditional changes by hard links cannot be made: {error}")
        finally:
            with suppress(CkptdError):
                self._remove_trial(other)
                self._remove_trial(key)
        return doubts

    def _remove_trial(self, key: str) -> None:
        *parents, name = check_key(key)
        with translated(key), self._root.opened(parents) as directory:
            with suppress(FileNotFoundError), self._root.opened([*parents, directory_of(name)]) as chain:
                for entry in self._disk.entries(chain):
                    self._disk.unlink(chain, entry.name)
            with suppress(FileNotFoundError):
                self._disk.remove_directory(directory, directory_of(name))
            with suppress(FileNotFoundError):
                self._disk.unlink(directory, name)

    # Small objects

    def put(self, key: str, data: Buffer) -> ObjectStat:
        """See `Store`."""
        return self._place(key, data, is_new=True)

    def replace(self, key: str, data: Buffer, *, if_version: str | None = None) -> ObjectStat:
        """See `Store`. Versions are compared among all hosts."""
        return self._place(key, data, if_version=if_version)

    def _versions(self, key: str) -> Versions:
        return Versions(self._root, key, self._is_sound)

    def _place(self, key: str, data: Buffer, *, is_new: bool = False, if_version: str | None = None) -> ObjectStat:
        versions = self._versions(key)
        writer = self._written(key, data)
        return writer.finish(
            expected=memoryview(data).cast("B"),
            place=lambda directory, name: versions.place(directory, name, is_new=is_new, if_version=if_version),
        )

    def _move_in(self, source: int, reserve: str, directory: int, key: str, if_version: str | None) -> None:
        versions, temporary = self._versions(key), temporary_name(check_key(key)[-1])
        self._disk.move_over(source, reserve, directory, temporary)
        try:
            versions.place(directory, temporary, if_version=if_version)
        finally:
            with suppress(OSError):
                self._disk.unlink(directory, temporary)

    def get(self, key: str, *, limit_bytes: int = 1 << 31) -> bytes:
        """See `Store`."""
        with self._looked_at(key) as (file, status):
            return read_whole(self._disk, file, status.size_bytes, key, limit_bytes)

    def stat(self, key: str) -> ObjectStat:
        """See `Store`."""
        with self._looked_at(key) as (_, status):
            return described(key, status)

    @contextmanager
    def _looked_at(self, key: str) -> Iterator[tuple[int, FileStatus]]:
        versions = self._versions(key)
        with translated(key), versions.looked_at() as seen:
            if seen.file is None or seen.status is None:
                raise NotFoundError("there is no such object", key=key)
            if not seen.status.is_file:
                raise NotFoundError("this is a directory or a special file, not an object", key=key)
            yield seen.file, seen.status

    def delete(self, keys: Sequence[str], *, if_version: str | None = None) -> None:
        """See `Store`."""
        if if_version is not None and keys:
            self._bury(keys[0], if_version)
            keys = keys[1:]  # what is there now was put there since
        plain: list[str] = []
        has_versions = self._with_versions(keys)
        for key in keys:
            if key in has_versions:
                super().delete(plain)
                plain = []
                self._bury(key)
            else:
                plain.append(key)
        super().delete(plain)
        for key in self._with_versions(keys) - has_versions:  # a former owner was about to change it
            self._bury(key)

    def _bury(self, key: str, if_version: str | None = None) -> None:
        with translated(key):
            buried_ns = self._versions(key).bury(if_version)
        if buried_ns is not None:
            self._forget_some(key.rpartition("/")[0], buried_ns - _FORGOTTEN_AFTER_NS)

    def _forget_some(self, directory: str, before_ns: int) -> None:
        """Remove what is left of a few objects that were deleted long ago. Never raises `OSError`."""
        with suppress(OSError), self._root.opened(check_directory(directory)) as opened:
            names = {entry.name for entry in self._disk.entries(opened)}
            had_versions = {object_of(name) for name in names if name.endswith(VERSIONS_SUFFIX)}
            gone = sorted(had_versions - names)
            for name in random.sample(gone, min(len(gone), _MOST_FORGOTTEN)):
                with suppress(OSError):
                    self._versions(join(directory, name)).forget(before_ns)

    def _with_versions(self, keys: Sequence[str]) -> set[str]:
        found: dict[tuple[str, ...], set[str]] = {}
        for key in keys:
            *parents, _ = check_key(key)
            if tuple(parents) not in found:
                with translated(key):
                    try:
                        with self._root.opened(parents) as opened:
                            names = {entry.name for entry in self._disk.entries(opened) if entry.is_directory}
                    except (FileNotFoundError, NotADirectoryError):
                        names = set()
                found[tuple(parents)] = names
        return {key for key in keys if directory_of(check_key(key)[-1]) in found[check_key(key)[:-1]]}

    # Locks

    def lock(self, key: str, *, holder: str, shared: bool = False, takes_over: bool = True) -> Lock:
        """See `Store`. It says by its time since when this owner is one, by the clock of the file system."""
        lock = lock_files.take(self._root, key, holder=holder, shared=shared)
        with translated(key):
            lock.taken_at = lock.noted_at()
        return lock


def doubtful_options(path: str) -> Iterator[str]:
    """Yield why the way in which a directory is mounted here does not let hosts share it, in words."""
    mount = mount_of(path)
    for option in sorted(_DOUBTFUL.keys() & (mount.options if mount is not None else set())):
        yield f"{path} is mounted with {option}: {_DOUBTFUL[option]}"
