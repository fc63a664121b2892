"""Open what is below the root of a local store, and make directories with durable names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ckptd.errors import NotFoundError
from ckptd.storage.keys import check_key
from ckptd.storage.local.disk import Disk, FileStatus
from ckptd.storage.local.os_errors import from_os_error, translated


class LocalRoot:
    """A directory below which files are opened by their keys. Any thread may use it.

    Attributes:
        path: its absolute path; made with the first directory that is opened to write.
        disk: makes the system calls.
        confined: whether symbolic links may lead out of it.
        mode: its permissions, where we make it.
    """

    def __init__(self, path: str, disk: Disk, confined: bool, mode: int) -> None:
        """Remember where it is; nothing is opened or created yet."""
        self.path = path
        self.disk = disk
        self.confined = confined
        self.mode = mode
        self._durable_directories: set[tuple[str, ...]] = set()

    @contextmanager
    def opened_root(self) -> Iterator[int]:
        """Yield a descriptor of the root; raises `OSError`."""
        root = self.disk.open_root(self.path)
        try:
            yield root
        finally:
            self.disk.close(root)

    @contextmanager
    def opened(self, parts: Sequence[str]) -> Iterator[int]:
        """Yield a descriptor of a directory; raises `OSError`."""
        directory = self._open_directory(parts)
        try:
            yield directory
        finally:
            self.disk.close(directory)

    @contextmanager
    def opened_file(self, key: str) -> Iterator[tuple[int, FileStatus]]:
        """Yield a descriptor of an object, for reading, and its status; `NotFoundError` if it is none."""
        check_key(key)
        with translated(key):
            file = self.open_file(key)
            try:
                status = self.disk.status(file)
                if not status.is_file:
                    raise NotFoundError("this is a directory or a special file, not an object", key=key)
                yield file, status
            finally:
                self.disk.close(file)

    def open_file(self, key: str) -> int:
        """Open whatever is at a key for reading; raises `OSError`."""
        with self.opened_root() as root:
            return self.disk.open_file(root, key, confined=self.confined)

    def open_to_write(self, parts: tuple[str, ...]) -> int:
        """Open a directory with a durable name, creating what is missing.

        A directory that exists already is synced into its parent once, too: its maker may have died before that.
        """
        if parts not in self._durable_directories:
            self._make_durable(parts)
        try:
            return self._open_directory(parts)
        except FileNotFoundError:  # removed since then
            self._make_durable(parts)
            return self._open_directory(parts)

    def _make_durable(self, parts: tuple[str, ...]) -> None:
        self.disk.make_root(self.path, self.mode)
        for depth, name in enumerate(parts):
            with self.opened(parts[:depth]) as parent:
                with suppress(FileExistsError):
                    self.disk.make_directory(parent, name)
                self.disk.sync_directory(parent)
        self._durable_directories.add(parts)

    def _open_directory(self, parts: Sequence[str]) -> int:
        with self.opened_root() as root:
            return self.disk.open_directory(root, "/".join(parts) or ".", confined=self.confined)

    def free_bytes(self) -> int:
        """Return how many bytes an ordinary user may still write below it, be it there or not."""
        path = self.path
        while True:
            try:
                directory = self.disk.open_root(path)
                break
            except FileNotFoundError:
                path = os.path.dirname(path)  # noqa: PTH120
            except OSError as error:
                raise from_os_error(error, path) from error
        try:
            return self.disk.free_bytes(directory)
        finally:
            self.disk.close(directory)
