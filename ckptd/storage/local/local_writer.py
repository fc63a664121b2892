"""One object that is being written in a local store, and a lock that is held: both own open files."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from types import TracebackType

from ckptd.errors import CkptdError, ConflictError
from ckptd.storage.base import Buffer, ObjectStat
from ckptd.storage.local.around_cache import DirectFile, write_bulk
from ckptd.storage.local.disk import Disk, FileStatus
from ckptd.storage.local.local_reader import check_content
from ckptd.storage.local.os_errors import from_os_error, translated
from ckptd.storage.ranges import check_range

Place = Callable[[int, str], None]
"""Gives a synced file, by its temporary name in an opened directory, its name there; durable on return.

Raises `OSError` or an error of ours, and then the temporary file is removed.
"""


class _Phase(Enum):
    OPEN = "open"
    FINISHING = "finishing"
    FINISHED = "finished"
    GONE = "gone"


class LocalWriter:
    """The `ObjectWriter` of a local store. It owns `directory` and `file` and closes both.

    `file` is a locked temporary file named `temporary` in `directory`, to become `name` there.
    """

    def __init__(
        self,
        disk: Disk,
        key: str,
        size_bytes: int,
        directory: int,
        file: int,
        temporary: str,
        name: str,
        *,
        bulk: bool,
        describe: Callable[[str, FileStatus], ObjectStat],
    ) -> None:
        """Take over the two descriptors; call `prepare` next."""
        self.key = key
        self.size_bytes = size_bytes
        self._disk = disk
        self._directory = directory
        self._file = file
        self._temporary = temporary
        self._name = name
        self._bulk, self._describe = bulk, describe
        self._direct: DirectFile | None = None
        self._guard = threading.Lock()
        self._phase = _Phase.OPEN
        self._num_writing = 0
        _OWNERS.add(self)

    def prepare(self, *, reserves: bool = True) -> None:
        """Give the file its size and, if it `reserves` that, its space.

        A file for bulk data is opened a second time, around the page cache.

        Raises `OSError`; then `abort`.
        """
        if self._bulk:
            self._direct = self._disk.open_direct(self._directory, self._temporary)
        if reserves:
            self._disk.reserve(self._file, self.size_bytes)
        else:
            self._disk.truncate(self._file, self.size_bytes)

    def write(self, offset: int, data: Buffer) -> None:
        """See `ObjectWriter`."""
        view = memoryview(data).cast("B")
        check_range(self.key, self.size_bytes, offset, len(view))
        with self._guard:
            if self._phase is not _Phase.OPEN:
                raise ConflictError(f"this writer is {self._phase.value}", key=self.key)
            self._num_writing += 1
        try:
            with translated(self.key):
                if self._direct is not None:
                    write_bulk(self._disk, self._file, self._direct, offset, view)
                else:
                    self._disk.write(self._file, offset, view, bulk=self._bulk)
        finally:
            with self._guard:
                self._num_writing -= 1
                last_of_aborted = self._num_writing == 0 and self._is_gone()
            if last_of_aborted:
                self._close()

    def finish(
        self, *, replacing: bool = False, expected: memoryview | None = None, place: Place | None = None
    ) -> ObjectStat:
        """See `ObjectWriter`. With `replacing` an object that has the key is replaced in one step.

        With `expected`, the whole content, what was written is read back first; `CorruptionError` if it differs.
        With `place`, that gives the synced file its name.
        """
        with self._guard:
            if self._phase is not _Phase.OPEN or self._num_writing:
                what = "still being written" if self._num_writing else self._phase.value
                raise ConflictError(f"this writer is {what}", key=self.key)
            self._phase = _Phase.FINISHING
        try:
            stat = self._make_durable(replacing, expected, place)
        except OSError as error:
            ours = from_os_error(error, self.key)
            ours.add_note("nothing of this object is kept: a failed fsync may be answered with success when repeated")
            raise ours from error
        self._phase = _Phase.FINISHED
        return stat

    def _make_durable(self, replacing: bool, expected: memoryview | None, place: Place | None) -> ObjectStat:
        disk = self._disk
        renamed = False
        try:
            # Crash before this, or in it: a temporary name without a lock, which is swept. One sync is for all bytes,
            # those that went around the page cache as well: it is the disk's own cache that holds them.
            disk.sync(self._file)
            if expected is not None:
                check_content(disk, self._file, expected, self.key)
            if place is not None:
                place(self._directory, self._temporary)
            elif replacing:
                disk.rename_over(self._directory, self._temporary, self._name)
            else:
                disk.rename_new(self._directory, self._temporary, self._name)
            renamed = True
            # Crash here: readers see the object, but after a power cut it may be there or not.
            disk.sync_directory(self._directory)
            return self._describe(self.key, disk.status(self._file))
        except (OSError, CkptdError):
            with suppress(OSError):
                if not renamed:
                    disk.unlink(self._directory, self._temporary)
                elif not replacing and place is None:
                    # Remove the new name, which has not been acknowledged. A file that was replaced cannot be restored.
                    disk.unlink(self._directory, self._name)
                    disk.sync_directory(self._directory)
            raise
        finally:
            self._phase = _Phase.GONE
            self._close()

    def abort(self) -> None:
        """See `ObjectWriter`. Never waits: a write under way in another thread closes the file when it ends."""
        with self._guard:
            if self._phase is not _Phase.OPEN:
                return
            self._phase = _Phase.GONE
            idle = self._num_writing == 0
        with suppress(OSError):  # what cannot be removed now is swept when this process is gone
            self._disk.unlink(self._directory, self._temporary)
        if idle:
            self._close()

    def forget(self) -> None:
        """Close what a forked child inherited; the file stays the parent's."""
        if self._phase in (_Phase.OPEN, _Phase.FINISHING):
            self._phase = _Phase.GONE
            self._close()

    def _is_gone(self) -> bool:
        return self._phase is _Phase.GONE

    def _close(self) -> None:
        # The bytes were synced before, or are not wanted: a failing close() has nothing left to report.
        direct = () if self._direct is None else (self._direct.descriptor,)
        for descriptor in (*direct, self._file, self._directory):
            with suppress(OSError):
                self._disk.close(descriptor)


class LocalLock:
    """A held lock: an open, locked file."""

    def __init__(self, disk: Disk, file: int) -> None:
        """Take over the descriptor."""
        self.taken_at: float | None = None
        self.taken_from: tuple[str, ...] = ()
        self._disk = disk
        self._file: int | None = file
        _OWNERS.add(self)

    def noted_at(self) -> float:
        """Return when its holder was noted, by the clock of the file system. Raises `OSError`; not after `release`."""
        assert self._file is not None, "released"
        return self._disk.status(self._file).modified_ns / 1e9

    def release(self) -> None:
        """See `Lock`."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                self._disk.unlock(file)
            with suppress(OSError):
                self._disk.close(file)

    def forget(self) -> None:
        """Close what a forked child inherited. Not `unlock`: that would end the parent's lock."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                self._disk.close(file)

    def __enter__(self) -> LocalLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


# A forked child, such as a data loader's worker, has our files open, and so our locks: they would outlive us.
_OWNERS: weakref.WeakSet[LocalWriter | LocalLock] = weakref.WeakSet()


def _forget_all() -> None:
    for owner in list(_OWNERS):
        owner.forget()


os.register_at_fork(after_in_child=_forget_all)


def stat_of(key: str, status: FileStatus) -> ObjectStat:
    """Describe a file as an object. Every new content has a new inode or new times, so also a new version."""
    version = f"{status.inode:x}-{status.modified_ns:x}-{status.changed_ns:x}-{status.size_bytes:x}"
    return ObjectStat(key, status.size_bytes, status.modified_ns / 1e9, version)
