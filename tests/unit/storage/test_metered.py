"""A store whose disk is metered does what it did, and its meter hears of each request and how it ended."""

from __future__ import annotations

import errno
from collections import Counter

import pytest

from ckptd.errors import CkptdError, ConflictError
from ckptd.storage.bucket.bucket import Bucket
from ckptd.storage.capabilities import DiskStore, FileStore
from ckptd.storage.local.disk import Disk
from ckptd.storage.local.local_store import LocalStore
from ckptd.storage.local.system_disk import SystemDisk
from ckptd.storage.locations import open_store
from ckptd.storage.metered import OF_BUCKET, OF_DISK, Operation, Result, metered


class Heard:
    """A meter that counts."""

    def __init__(self):
        self.counts, self.repeats, self.seconds = Counter(), Counter(), 0.0

    def operated(self, operation, result, seconds):
        self.counts[operation, result] += 1
        self.seconds += seconds

    def repeated(self, cause):
        self.repeats[cause] += 1


@pytest.fixture
def heard():
    return Heard()


def test_each_request_to_the_disk_is_told_with_how_it_ended(tmp_path, heard):
    store = open_store(str(tmp_path / "root"), meter=heard)
    store.put("a/b", b"bytes")
    assert store.get("a/b") == b"bytes"
    with pytest.raises(ConflictError):
        store.put("a/b", b"others")
    store.delete(["a/b"])
    for operation in (Operation.WRITE, Operation.FSYNC, Operation.RENAME, Operation.GET, Operation.DELETE):
        assert heard.counts[operation, Result.OK] >= 1, operation
    assert heard.counts[Operation.RENAME, Result.REFUSED] == 1
    assert not any(result is Result.FAILED for _, result in heard.counts)
    assert heard.seconds > 0


def test_what_a_store_can_do_is_what_it_could_do_before_also_that_of_a_directory_in_it(tmp_path, heard):
    store = open_store(str(tmp_path), meter=heard)
    assert isinstance(store, FileStore)
    assert isinstance(store, DiskStore)
    assert store.write_mode() is LocalStore(str(tmp_path)).write_mode()
    store.at("deep").put("x", b"")
    assert heard.counts[Operation.RENAME, Result.OK] == 1


def test_a_disk_that_fails_is_told_as_failed(tmp_path, heard):
    class NoSync(SystemDisk):
        def sync(self, file):
            raise OSError(errno.EIO, "broken")

    store = LocalStore(str(tmp_path), disk=metered(NoSync(), OF_DISK, heard))
    with pytest.raises(CkptdError):
        store.put("x", b"1")
    assert heard.counts[Operation.FSYNC, Result.FAILED] == 1
    assert heard.counts[Operation.RENAME, Result.OK] == 0


def test_without_a_meter_nothing_is_in_between():
    disk = SystemDisk()
    assert metered(disk, OF_DISK, None) is disk


@pytest.mark.parametrize(("contract", "operations"), [(Disk, OF_DISK), (Bucket, OF_BUCKET)])
def test_what_is_timed_are_methods_of_the_contract(contract, operations):
    assert all(callable(getattr(contract, name)) for name in operations)
