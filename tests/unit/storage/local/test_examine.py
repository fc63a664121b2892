from __future__ import annotations

import errno
import os

import pytest

from ckptd.errors import NotPermittedError, StorageFullError, UnavailableError
from ckptd.storage.base import Durability
from ckptd.storage.findings import Outcome
from ckptd.storage.local.examine import examine, holder_of, look_at_room
from ckptd.storage.local.local_store import LocalStore
from ckptd.storage.local.mounts import mount_of
from ckptd.storage.local.system_disk import SystemDisk
from tests import seams


def outcomes(root, disk=None):
    return {finding.name: finding for finding in examine(str(root), disk)}


def test_a_sound_directory_passes_and_nothing_is_left_in_it(tmp_path):
    found = outcomes(tmp_path)
    assert [name for name, each in found.items() if each.outcome is Outcome.REFUSED] == []
    assert {"write", "fsync file", "fsync directory", "rename without replacing", "flock", "clock"} <= set(found)
    assert list(tmp_path.iterdir()) == []


class ReplacingDisk(SystemDisk):
    """A file system whose rename without replacing replaces."""

    def rename_new(self, directory, old, new):
        self.rename_over(directory, old, new)


class LocklessDisk(SystemDisk):
    """A file system on which every lock is granted."""

    def try_lock(self, file, *, shared):
        return True


class UnsyncableDisk(SystemDisk):
    """A file system that cannot sync directories."""

    def sync_directory(self, directory):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


class ReadOnlyDisk(SystemDisk):
    """A file system that takes no files."""

    def create(self, directory, name):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


class ForgetfulDisk(SystemDisk):
    """A disk that reads back zeros."""

    def read_into(self, file, offset, *into):
        for memory in into:
            memory[:] = bytes(len(memory))
        return sum(map(len, into))


@pytest.mark.parametrize(
    ("disk", "check", "error"),
    [
        (ReplacingDisk(), "rename without replacing", UnavailableError),
        (LocklessDisk(), "flock", UnavailableError),
        (UnsyncableDisk(), "fsync directory", UnavailableError),
        (ReadOnlyDisk(), "write", NotPermittedError),
        (ForgetfulDisk(), "write", UnavailableError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, SystemDisk) else None,
)
def test_a_promise_that_is_not_kept_is_noticed(disk, check, error, tmp_path):
    found = outcomes(tmp_path, disk)
    assert [name for name, each in found.items() if each.outcome is Outcome.REFUSED] == [check]
    assert isinstance(found[check].error, error)
    assert list(tmp_path.iterdir()) == []


def test_a_slow_sync_and_a_strange_clock_are_worth_a_warning(tmp_path, monkeypatch):
    seams.SLOW_SYNC_S.put(monkeypatch, -1.0)
    seams.MAX_SKEW_S.put(monkeypatch, -1.0)
    found = outcomes(tmp_path)
    for check in ("fsync file", "fsync directory", "clock"):
        assert found[check].outcome is Outcome.WARNING


def test_a_full_disk_is_refused(tmp_path, monkeypatch):
    facts = os.statvfs(tmp_path)
    full = os.statvfs_result((*facts[:3], 0, 0, facts[5], 0, 0, *facts[8:10]))
    monkeypatch.setattr(os, "statvfs", lambda root: full)
    found = {finding.name: finding for finding in look_at_room(str(tmp_path))}
    assert isinstance(found["space"].error, StorageFullError)
    if facts.f_files:
        assert isinstance(found["inodes"].error, StorageFullError)


def test_the_holder_of_a_lock_is_read_without_disturbing_it(tmp_path):
    assert holder_of(str(tmp_path), ".ckptd/lock") is None
    store = LocalStore(str(tmp_path))
    with store.lock(".ckptd/lock", holder="somebody, pid 7"):
        assert holder_of(str(tmp_path), ".ckptd/lock") == "somebody, pid 7"
        assert holder_of(str(tmp_path), ".ckptd/lock") == "somebody, pid 7"
    assert holder_of(str(tmp_path), ".ckptd/lock") is None


TABLE = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
23 22 0:5 / /dev/shm rw,nosuid - tmpfs tmpfs rw,size=1g
24 22 0:40 / /data\\040sets rw - nfs4 server:/export rw,vers=4.2
25 22 0:41 / /over rw - overlay overlay rw,lowerdir=/l
26 22 8:2 / /frozen ro - xfs /dev/sdb ro
27 22 8:3 / /risky rw - ext4 /dev/sdc rw,nobarrier
this line is not one
"""


@pytest.mark.parametrize(
    ("path", "kind", "trait"),
    [
        ("/somewhere", "ext4", None),
        ("/dev/shm/x", "tmpfs", "memory"),
        ("/dev/shmoo", "ext4", None),
        ("/data sets/run", "nfs4", "is_network"),
        ("/over", "overlay", "is_overlay"),
        ("/frozen/a", "xfs", "is_read_only"),
    ],
)
def test_the_file_system_of_a_path_is_the_innermost_mount(path, kind, trait):
    mount = mount_of(path, TABLE)
    assert mount.kind == kind
    assert (mount.durability is Durability.MEMORY) == (trait == "memory")
    for each in ("is_network", "is_overlay", "is_read_only"):
        assert getattr(mount, each) == (trait == each)


@pytest.mark.parametrize(
    ("point", "outcome", "said"),
    [
        ("/dev/shm", Outcome.WARNING, "power cut"),
        ("/data sets", Outcome.WARNING, "network"),
        ("/over", Outcome.WARNING, "container"),
        ("/risky", Outcome.WARNING, "barriers"),
        ("/frozen", Outcome.REFUSED, "read-only"),
        ("/", Outcome.OK, "ext4"),
    ],
)
def test_what_a_file_system_cannot_promise_is_said(point, outcome, said, tmp_path, monkeypatch):
    seams.EXAMINED_MOUNT.put(monkeypatch, lambda root: mount_of(point, TABLE))
    finding = outcomes(tmp_path)["mount"]
    assert finding.outcome is outcome
    assert said in finding.detail
