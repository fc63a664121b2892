"""Does this directory keep what a store promises? Every promise is tested, on real files, which are removed after.

The same calls are made as by `LocalStore`, and the answers of the file system are checked instead of believed: a rename
that replaces although it must not, or a lock that two hold at once, would lose checkpoints silently.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from ckptd.errors import CkptdError, NotFoundError, NotPermittedError, StorageFullError, UnavailableError
from ckptd.storage.base import Durability
from ckptd.storage.findings import Finding, Outcome
from ckptd.storage.keys import LOCK_SUFFIX, UNFINISHED_SUFFIX
from ckptd.storage.local import lock_files
from ckptd.storage.local.around_cache import LEAST_DIRECT_BYTES, write_bulk
from ckptd.storage.local.disk import Disk
from ckptd.storage.local.mounts import Mount, mount_of
from ckptd.storage.local.os_errors import from_os_error
from ckptd.storage.local.system_disk import SystemDisk

_BULK_TRIAL_BYTES = LEAST_DIRECT_BYTES
_MIN_FREE_BYTES = 64 << 20
_LOW_FREE_BYTES = 2 << 30
_LOW_INODES = 1000
MAX_SKEW_S = 2.0
SLOW_SYNC_S = 0.25


def examine(root: str, disk: Disk | None = None) -> Iterator[Finding]:
    """Test the directory `root`, which must exist; yield the result of each check, in the order in which they are made.

    Nothing is left behind, unless the process dies meanwhile: then files that the next sweep removes.
    """
    disk = SystemDisk() if disk is None else disk
    mount = mount_of(root)
    yield _look_at_mount(mount)
    try:
        directory = disk.open_root(root)
    except OSError as error:
        yield _refused("write", from_os_error(error, root), "the directory cannot be opened")
        return
    try:
        trial = _Trial(disk, directory, root)
        try:
            for name, check in _CHECKS:
                finding = _carry_out(name, check, trial)
                yield finding
                if name == "write" and finding.outcome is Outcome.REFUSED:
                    return  # the others would fail likewise
        finally:
            trial.clean_up()
    finally:
        disk.close(directory)


def look_at_room(root: str) -> Iterator[Finding]:
    """Say how much space is left, in bytes and in files."""
    try:
        facts = os.statvfs(root)
    except OSError as error:
        yield _refused("space", from_os_error(error, root), "the file system does not answer")
        return
    if not facts.f_blocks:
        yield Finding("space", Outcome.OK, "this file system does not say")
        return
    free = facts.f_bavail * facts.f_frsize
    text = f"{free / 1e9:.1f} GB free of {facts.f_blocks * facts.f_frsize / 1e9:.1f} GB"
    if free < _MIN_FREE_BYTES:
        yield _refused("space", StorageFullError("the disk is full", key=root), text)
    elif free < _LOW_FREE_BYTES:
        yield Finding("space", Outcome.WARNING, f"{text}: a save that does not fit fails, and deletes nothing")
    else:
        yield Finding("space", Outcome.OK, text)
    if not facts.f_files:
        yield Finding("inodes", Outcome.OK, "this file system makes inodes as it needs them")
    elif facts.f_favail == 0:
        yield _refused("inodes", StorageFullError("no inode is left", key=root), "no more files can be made")
    else:
        low = facts.f_favail < _LOW_INODES
        yield Finding("inodes", Outcome.WARNING if low else Outcome.OK, f"{facts.f_favail} files can still be made")


def holder_of(root: str, key: str, disk: Disk | None = None) -> str | None:
    """Return the line of the process that holds the lock `key` below `root` alone, or None; nothing is changed.

    Raises:
        CkptdError: when the lock cannot be examined.
    """
    disk = SystemDisk() if disk is None else disk
    directory, _, name = key.rpartition("/")
    try:
        opened = disk.open_root(root)
        try:
            file = disk.open_file(opened, f"{directory}/.{name}{LOCK_SUFFIX}", confined=False)
        finally:
            disk.close(opened)
        try:
            if disk.try_lock(file, shared=True):
                disk.unlock(file)
                return None
            return lock_files.read_line(disk, file)
        finally:
            disk.close(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise from_os_error(error, key) from error


class _Trial:
    """The directory under trial, and the files that are made in it."""

    def __init__(self, disk: Disk, directory: int, root: str) -> None:
        self.disk = disk
        self.directory = directory
        self.root = root
        self._made: list[str] = []
        self._open: list[int] = []

    def new_name(self) -> str:
        """Return an unused name; if this process dies, the sweep takes its file for an unfinished object."""
        name = f".doctor.{secrets.token_hex(16)}{UNFINISHED_SUFFIX}"
        self._made.append(name)
        return name

    def create(self) -> tuple[str, int]:
        """Make a file, locked like one that is being written, so that no sweeper takes it meanwhile."""
        name = self.new_name()
        file = self.keep(self.disk.create(self.directory, name))
        self.disk.try_lock(file, shared=False)
        return name, file

    def keep(self, descriptor: int) -> int:
        """Close a descriptor at the end."""
        self._open.append(descriptor)
        return descriptor

    def clean_up(self) -> None:
        for name in self._made:
            with suppress(OSError):
                self.disk.unlink(self.directory, name)
        for descriptor in self._open:
            with suppress(OSError):
                self.disk.close(descriptor)


def _carry_out(name: str, check: Callable[[_Trial], tuple[Outcome, str]], trial: _Trial) -> Finding:
    try:
        outcome, detail = check(trial)
    except OSError as error:
        ours = from_os_error(error, trial.root)
        if isinstance(ours, NotFoundError):  # what some special file systems return instead of refusing
            ours = NotPermittedError("the file system refuses the operation", key=trial.root)
        return _refused(name, ours, f"{ours.reason}: {os.strerror(error.errno or 0)}")
    if outcome is Outcome.REFUSED:
        return _refused(name, UnavailableError("this file system cannot keep a promise", key=trial.root), detail)
    return Finding(name, outcome, detail)


def _refused(name: str, error: CkptdError, detail: str) -> Finding:
    return Finding(name, Outcome.REFUSED, detail, error)


def _look_at_mount(mount: Mount | None) -> Finding:
    if mount is None:
        return Finding("mount", Outcome.WARNING, "this system does not say what file system this is")
    text = f"{mount.kind}, mounted at {mount.point}"
    if mount.is_read_only:
        return _refused(
            "mount", NotPermittedError("the file system is read-only", key=mount.point), f"{text}, read-only"
        )
    if mount.durability is Durability.MEMORY:
        return Finding("mount", Outcome.WARNING, f"{text}: is in memory, and nothing in it survives a power cut")
    if mount.is_overlay:
        return Finding("mount", Outcome.WARNING, f"{text}: a container's own layer, gone with it; mount a volume")
    if mount.is_network:
        return Finding(
            "mount",
            Outcome.WARNING,
            f"{text}: a network file system; the server decides how durable it is, and readers on other hosts may see "
            "a new checkpoint some seconds late",
        )
    if "nobarrier" in mount.options or "barrier=0" in mount.options:
        return Finding("mount", Outcome.WARNING, f"{text}, without barriers: a power cut may lose what was synced")
    return Finding("mount", Outcome.OK, text)


def _write(trial: _Trial) -> tuple[Outcome, str]:
    _, file = trial.create()
    trial.disk.reserve(file, 4096)
    trial.disk.write(file, 0, b"\x5a" * 4096, bulk=False)
    found = bytearray(4096)
    if trial.disk.read_into(file, 0, memoryview(found)) != 4096 or found != b"\x5a" * 4096:
        return Outcome.REFUSED, "what was written does not read back"
    return Outcome.OK, "a file was made, given its space, written and read back"


def _sync_file(trial: _Trial) -> tuple[Outcome, str]:
    _, file = trial.create()
    trial.disk.write(file, 0, b"\x5a" * 65536, bulk=False)
    return _timed("fsync of a file", lambda: trial.disk.sync(file))


def _sync_directory(trial: _Trial) -> tuple[Outcome, str]:
    trial.create()
    return _timed("fsync of the directory", lambda: trial.disk.sync_directory(trial.directory))


def _timed(what: str, sync: Callable[[], None]) -> tuple[Outcome, str]:
    began = time.perf_counter()
    sync()
    took_s = time.perf_counter() - began
    if took_s > SLOW_SYNC_S:
        return Outcome.WARNING, f"{what} took {took_s:.2f} s: every save waits for several of them"
    return Outcome.OK, f"{what} took {took_s * 1e3:.1f} ms"


def _rename_new(trial: _Trial) -> tuple[Outcome, str]:
    (first, _), (second, _) = trial.create(), trial.create()
    taken = False
    try:
        trial.disk.rename_new(trial.directory, first, second)
    except FileExistsError:
        taken = True
    if not taken:
        return Outcome.REFUSED, "renaming onto a name that is taken replaced it: two writers could overwrite each other"
    final = trial.new_name()
    trial.disk.rename_new(trial.directory, first, final)
    names = {entry.name for entry in trial.disk.entries(trial.directory)}
    if final not in names or first in names:
        return Outcome.REFUSED, "a rename to a free name was reported as done, and was not"
    return Outcome.OK, "a rename to a free name works, and one to a taken name is refused"


def _rename_over(trial: _Trial) -> tuple[Outcome, str]:
    (first, _), (second, _) = trial.create(), trial.create()
    trial.disk.rename_over(trial.directory, first, second)
    if first in {entry.name for entry in trial.disk.entries(trial.directory)}:
        return Outcome.REFUSED, "a rename that replaces left the old name in place"
    return Outcome.OK, "one file replaces another in one step"


def _lock(trial: _Trial) -> tuple[Outcome, str]:
    name = trial.new_name()
    first, second = (trial.keep(trial.disk.open_lock_file(trial.directory, name)) for _ in range(2))
    if not trial.disk.try_lock(first, shared=False):
        return Outcome.REFUSED, "a free lock could not be taken"
    if trial.disk.try_lock(second, shared=False):
        return Outcome.REFUSED, "two held the same lock at once: two daemons could write to one run"
    trial.disk.unlock(first)
    if not trial.disk.try_lock(second, shared=False):
        return Outcome.REFUSED, "a released lock could not be taken"
    return Outcome.OK, "a lock keeps a second holder out (tried on this host only)"


def _clock(trial: _Trial) -> tuple[Outcome, str]:
    _, file = trial.create()
    trial.disk.write(file, 0, b"\0", bulk=False)
    now = time.time()
    skew_s = trial.disk.status(file).modified_ns / 1e9 - now
    if abs(skew_s) > MAX_SKEW_S:
        return Outcome.WARNING, f"the file system's clock is {skew_s:+.1f} s from this host's: ages will look wrong"
    return Outcome.OK, "this host's clock and the file system's agree"


def _bulk(trial: _Trial) -> tuple[Outcome, str]:
    name, file = trial.create()
    data = memoryview(bytes(_BULK_TRIAL_BYTES))
    trial.disk.reserve(file, len(data))
    direct = trial.disk.open_direct(trial.directory, name)
    if direct is None:
        trial.disk.write(file, 0, data, bulk=True)
    else:
        trial.keep(direct.descriptor)
        write_bulk(trial.disk, file, direct, 0, data)
    return Outcome.OK, f"large data is written {trial.disk.write_mode.description}"


_CHECKS: tuple[tuple[str, Callable[[_Trial], tuple[Outcome, str]]], ...] = (
    ("write", _write),
    ("bulk writes", _bulk),
    ("fsync file", _sync_file),
    ("fsync directory", _sync_directory),
    ("rename without replacing", _rename_new),
    ("rename replacing", _rename_over),
    ("flock", _lock),
    ("clock", _clock),
)
