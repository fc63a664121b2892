"""The object store against a real server."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from ckptd.errors import ConflictError, UnavailableError
from ckptd.storage.base import BorrowingWriter, Durability, Lock, Store
from ckptd.storage.bucket.fsspec_bucket import FsspecBucket
from ckptd.storage.bucket.multipart import PART_BYTES, part_size
from ckptd.storage.bucket.notes import Note, Process, this_process
from ckptd.storage.bucket.object_store import ObjectStore
from ckptd.storage.bucket.upload_memory import Parts
from ckptd.storage.keys import UNFINISHED_SUFFIX
from ckptd.storage.locations import open_store
from ckptd.storage.pace import Pace, UploadLimits
from tests import seams
from tests.fakes.waiting import eventually
from tests.services.s3 import S3Service
from tests.services.seaweed import SeaweedFS
from tests.starts import prepared
from tests.suites.borrowing_contract import BorrowingContract, lend
from tests.suites.store_contract import StoreContract

pytestmark = pytest.mark.every_server


@pytest.fixture
def store(s3_root: str) -> ObjectStore:
    opened = open_store(s3_root)
    assert isinstance(opened, ObjectStore)
    return opened


class S3Contract(StoreContract, BorrowingContract):
    EVERY_WRITE_IS_A_VERSION = False

    @pytest.fixture
    def listed_as(self, s3_service: S3Service) -> Callable[[str], str]:
        if isinstance(s3_service.server, SeaweedFS):
            return lambda key: key.replace("\\", "/")
        return lambda key: key


class TestObjectStore(S3Contract):
    @pytest.fixture
    def store(self, s3_root: str) -> Store:
        return open_store(s3_root)

    def test_it_says_what_it_is(self, store: Store, s3_root: str) -> None:
        assert store.durability is Durability.OBJECT_STORE
        assert store.url == s3_root
        assert (store.has_locks, store.verifies_writes, store.free_bytes()) == (False, True, None)


class TestObjectStoreByS3fs(S3Contract):
    @pytest.fixture
    def store(self, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> Store:
        monkeypatch.setenv("CKPTD_S3_CLIENT", "s3fs")
        return open_store(s3_root)


class TestObjectStoreByFsspec(StoreContract):
    """Any file system of fsspec: here its own that lives in memory. Others differ in what they call things."""

    @pytest.fixture
    def store(self) -> Store:
        files = MemoryFileSystem(skip_instance_cache=True)
        return ObjectStore(FsspecBucket(files, "fsspec-memory", f"/{uuid.uuid4().hex}"), "root")

    def test_it_says_that_two_owners_are_not_kept_apart(self, store: Store) -> None:
        assert any("no conditional writes" in each for each in store.broken_promises())
        assert not store.verifies_writes


class TestLendingByFsspec(BorrowingContract):
    """A file system that keeps large objects unseen until they are whole, which the one in memory does not."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return ObjectStore(FsspecBucket(LocalFileSystem(skip_instance_cache=True), "file", str(tmp_path)), "root")


class Elsewhere:
    """Notes that are written while this is in force come from another host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def lock(self, store: Store, key: str, *, shared: bool = False) -> Lock:
        with self._monkeypatch.context() as elsewhere:
            elsewhere.setattr("socket.gethostname", lambda: "elsewhere")
            return store.lock(key, holder="somebody elsewhere", shared=shared)


def test_a_lock_of_another_host_keeps_out_only_who_does_not_take_over(
    s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, elsewhere = open_store(s3_root), Elsewhere(monkeypatch)
    assert isinstance(store, ObjectStore)
    elsewhere.lock(store, "run/lock")
    with pytest.raises(ConflictError, match="cannot tell whether it is alive") as caught:
        store.lock("run/lock", holder="me", takes_over=False)
    assert caught.value.actual == store.holder_of("run/lock") == "somebody elsewhere"
    assert caught.value.may_take_over
    with store.lock("run/lock", holder="me"):
        assert store.holder_of("run/lock") == "me"
    assert store.holder_of("run/lock") is None


def test_shared_locks_of_two_hosts_share(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(s3_root)
    first = Elsewhere(monkeypatch).lock(store, "lock", shared=True)
    with store.lock("lock", holder="me", shared=True, takes_over=False):
        pass
    first.release()
    store.lock("lock", holder="me", takes_over=False).release()


def test_the_lock_of_a_process_that_is_dead_keeps_nobody_out(s3_root: str) -> None:
    script = (
        "import os, sys; from ckptd.storage.locations import open_store\n"
        "open_store(sys.argv[1]).lock('lock', holder='soon dead'); os.kill(os.getpid(), 9)"
    )
    assert prepared.run([sys.executable, "-c", script, s3_root], timeout=120, check=False).returncode == -9
    open_store(s3_root).lock("lock", holder="me", takes_over=False).release()


def test_only_the_first_bucket_that_is_opened_has_botocores_descriptions_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    open_store("s3://one")
    monkeypatch.setattr("botocore.loaders.JSONFileLoader.load_file", lambda *_: pytest.fail("parsed again"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:2")
    assert open_store("s3://two").url == "s3://two"


def test_the_parts_of_a_huge_object_are_large_enough() -> None:
    assert part_size(0) == part_size(10_000 * PART_BYTES) == PART_BYTES
    for size_bytes in (10_000 * PART_BYTES + 1, 5 << 40):
        assert -(-size_bytes // part_size(size_bytes)) <= 10_000


@pytest.mark.parametrize("how", ["copied", "lent"])
def test_writers_share_a_limited_amount_of_memory(s3_root: str, how: str) -> None:
    opened = open_store(s3_root)
    assert isinstance(opened, ObjectStore)
    parts = Parts(limit_bytes=3 * PART_BYTES, num_senders=2)
    store = ObjectStore(opened.bucket, opened.root, parts=parts)
    most: list[int] = []

    def write(number: int) -> None:
        writer = store.create(f"big{number}", 4 * PART_BYTES)
        assert isinstance(writer, BorrowingWriter)
        for at in range(0, writer.size_bytes, 1 << 20):
            if how == "lent":
                lend(writer, at, memoryview(bytes([number]) * (1 << 20)))
            else:
                writer.write(at, bytes([number]) * (1 << 20))
            most.append(parts.out_bytes)
        writer.finish()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(2)))
    assert max(most) <= 3 * PART_BYTES
    assert parts.out_bytes == 0
    for number in range(2):
        assert store.get(f"big{number}") == bytes([number]) * (4 * PART_BYTES)


def test_half_filled_parts_of_many_writers_do_not_wait_for_each_other_for_ever(s3_root: str) -> None:
    opened = open_store(s3_root)
    assert isinstance(opened, ObjectStore)
    store = ObjectStore(opened.bucket, opened.root, parts=Parts(limit_bytes=2 * PART_BYTES, num_senders=2))
    writers = [store.create(f"o{number}", PART_BYTES + 1) for number in range(4)]
    for writer in writers:
        writer.write(PART_BYTES, b"z")  # their last parts, and nothing can be sent yet
        writer.write(0, b"a")
    for writer in writers:
        writer.finish()
    assert [store.stat(f"o{number}").size_bytes for number in range(4)] == [PART_BYTES + 1] * 4


def test_one_of_many_hosts_sends_parts_of_the_size_that_it_was_told(s3_root: str) -> None:
    store = open_store(s3_root)
    assert isinstance(store, ObjectStore)
    pace = Pace()
    for limits, num_parts in ((UploadLimits(), 3), (UploadLimits(2 * PART_BYTES, 1, 1000.0), 2)):
        pace.follow(limits, 0.5)
        writer = store.create_paced(f"in-{num_parts}", 2 * PART_BYTES + 1, pace)
        writer.write(0, bytes(2 * PART_BYTES + 1))
        assert writer.finish().version.strip('"').endswith(f"-{num_parts}")


class TestUploadsThatNobodyNoted:
    """Their writer was killed between two requests: so nobody knows their ids, but they are listed."""

    def begin(self, store: ObjectStore, key: str) -> None:
        store.bucket.create_upload(f"{store.root}/{key}", {})

    def left(self, store: ObjectStore) -> list[str]:
        return sorted(each.key.removeprefix(f"{store.root}/") for each in store.bucket.uploads(store.root))

    def test_they_stay_for_an_hour_and_are_then_swept(
        self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.begin(store, "run/shard")
        now = store.bucket.now()
        for age_s, swept in ((3500.0, []), (3700.0, ["run/shard"]), (3700.0, [])):
            monkeypatch.setattr(store.bucket, "now", lambda age_s=age_s: now + age_s)
            assert store.sweep_unfinished("run") == swept
        assert self.left(store) == []

    def test_only_those_of_the_directory_itself_are_swept(
        self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for key in ("run/shard", "run/deeper/shard", "running/shard", "shard"):
            self.begin(store, key)
        seams.SWEPT_BY_AGE_S.put(monkeypatch, -60.0)
        assert store.sweep_unfinished("run", only=["run/another"]) == []
        assert store.sweep_unfinished("run") == ["run/shard"]
        assert self.left(store) == ["run/deeper/shard", "running/shard", "shard"]
        assert store.sweep_unfinished("") == ["shard"]

    def test_one_that_is_noted_and_under_way_is_left_alone_however_old(
        self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writer = store.create("run/shard", 2 * PART_BYTES)
        writer.write(0, bytes(PART_BYTES))
        # The upload begins before its note is written.
        eventually(lambda: list(store.bucket.list(f"{store.root}/run/.", deep=False)), "the note of the upload")
        seams.SWEPT_BY_AGE_S.put(monkeypatch, -60.0)
        assert store.sweep_unfinished("run") == []
        assert self.left(store) == ["run/shard"]
        writer.abort()
        assert self.left(store) == []


class TestUploadsThatAreSpared:
    """Those of saves under way: writers on other hosts fill them, about which this process may be wrong."""

    def test_neither_age_nor_a_writer_that_seems_dead_ends_one(
        self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bucket = store.bucket
        keys = ["run/alive", "run/of-a-twin", "run/unnoted"]
        uploads = {key: bucket.create_upload(f"{store.root}/{key}", {}) for key in keys}
        strangers = {
            "run/alive": Process("another-host", "boot", 7, 7),
            "run/of-a-twin": replace(this_process(), boot_id="of another host of this name"),
        }
        for key, process in strangers.items():
            note = Note(process=process, key=key, upload_id=uploads[key])
            name = key.rpartition("/")[2]
            bucket.put(f"{store.root}/run/.{name}.{'0f' * 16}{UNFINISHED_SUFFIX}", note.encode())
        later = bucket.now() + 100_000.0
        monkeypatch.setattr(bucket, "now", lambda: later)
        assert store.sweep_unfinished("run", spare=keys) == []
        assert {each.upload_id for each in bucket.uploads(store.root)} == set(uploads.values())
        assert sorted(store.sweep_unfinished("run", given_up=keys, spare=keys[:2])) == keys[2:]
        assert sorted(store.sweep_unfinished("run")) == keys[:2]
        assert list(bucket.list(store.root, deep=True)) == []


class TestAnUploadBesideItsObject:
    """Left by a gateway of Ceph that was killed while it completed it: to abort it would delete the object's parts."""

    def test_noted_or_not_it_stays_as_long_as_its_object(
        self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upload_id = store.bucket.create_upload(f"{store.root}/run/noted", {})
        store.give_up_upload(store.note_upload("run/noted", upload_id))
        store.bucket.create_upload(f"{store.root}/run/old", {})
        seams.SWEPT_BY_AGE_S.put(monkeypatch, -60.0)
        for key in ("run/noted", "run/old"):
            store.put(key, b"the object")
        assert store.sweep_unfinished("run") == []
        assert len(list(store.bucket.uploads(store.root))) == 2
        store.delete(["run/noted", "run/old"])
        assert sorted(store.sweep_unfinished("run")) == ["run/noted", "run/old"]
        assert list(store.bucket.uploads(store.root)) == []
        assert list(store.bucket.list(store.root, deep=True)) == []

    def test_a_writer_that_finds_its_object_leaves_a_note_of_the_upload(
        self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def complete_by_half(key: str, *_: object, **__: object) -> str:
            store.bucket.put(key, b"x" * 2 * PART_BYTES, metadata=noted)
            raise UnavailableError("the server failed", key=key)

        noted = store.write_metadata()
        monkeypatch.setattr(store, "write_metadata", lambda: noted)
        writer = store.create("run/shard", 2 * PART_BYTES)
        writer.write(0, b"x" * 2 * PART_BYTES)
        monkeypatch.setattr(store.bucket, "complete_upload", complete_by_half)
        assert writer.finish().size_bytes == 2 * PART_BYTES
        assert store.sweep_unfinished("run") == []
        assert len(list(store.bucket.uploads(store.root))) == 1
        store.delete(["run/shard"])
        assert store.sweep_unfinished("run") == ["run/shard"]
        assert list(store.bucket.uploads(store.root)) == []

    def test_one_that_the_server_does_not_let_go_of_keeps_nobody_from_starting(
        self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(key: str, upload_id: str) -> None:
            raise UnavailableError("locked by a gateway that is dead", key=key)

        upload_id = store.bucket.create_upload(f"{store.root}/run/shard", {})
        store.give_up_upload(store.note_upload("run/shard", upload_id))
        with monkeypatch.context() as locked:
            locked.setattr(store.bucket, "abort_upload", refuse)
            assert store.sweep_unfinished("run") == []
        assert store.sweep_unfinished("run") == ["run/shard"]
