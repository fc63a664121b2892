from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from ckptd.errors import (
    CkptdError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    NotPermittedError,
    StorageFullError,
    UnavailableError,
)
from ckptd.storage.base import Durability
from ckptd.storage.local.local_store import LocalStore
from ckptd.storage.local.system_disk import SystemDisk
from tests.fakes.descriptors import num_open
from tests.fakes.disk import PowerCut, SimulatedDisk
from tests.suites.store_contract import StoreContract, write_object

WAIT_S = 60
SPAWN = multiprocessing.get_context("spawn")


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(str(tmp_path / "not" / "there yet"))


class TestLocalStoreOnASimulatedDisk(StoreContract):
    @pytest.fixture
    def store(self) -> LocalStore:
        return LocalStore("/some/root", disk=SimulatedDisk())


class _OldKernel(SystemDisk):
    """What a file system and kernel without the newer calls leave us."""

    def __init__(self) -> None:
        super().__init__(newer_calls=False)


class TestLocalStoreOnAnOldKernel(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(str(tmp_path), disk=_OldKernel())


DISKS = [SystemDisk, _OldKernel]


@pytest.mark.parametrize("disk", DISKS)
@pytest.mark.parametrize("target", ["/etc", "../outside"])
def test_no_link_leads_out_of_the_root(tmp_path: Path, disk: type[SystemDisk], target: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "passwd").write_bytes(b"secret")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(target)
    (tmp_path / "root" / "file").symlink_to(f"{target}/passwd")
    store = LocalStore(str(tmp_path / "root"), disk=disk())
    for call in (
        lambda: store.get("link/passwd"),
        lambda: store.get("file"),
        lambda: store.put("link/new", b""),
        lambda: store.create("link/new", 1),
        lambda: store.put("link/deeper/new", b""),
        lambda: store.lock("link/daemon", holder=""),
    ):
        with pytest.raises(CkptdError) as caught:
            call()
        assert isinstance(caught.value, (NotPermittedError, NotFoundError)), caught.value
    with suppress(CkptdError):  # an old kernel cannot tell the link from a missing directory
        store.delete(["link/passwd"])
    assert list(store.list("")) == []
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["passwd"]


def test_a_link_that_stays_inside_the_root_is_followed(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    store.put("runs/mnist/k", b"here")
    (tmp_path / "runs" / "newest").symlink_to("mnist")
    (tmp_path / "runs" / "link").symlink_to("mnist/k")
    assert store.get("runs/newest/k") == b"here"
    assert [each.key for each in store.list("runs")] == ["runs/link", "runs/mnist/k"]


def test_a_user_who_typed_a_path_may_follow_links_anywhere(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "abc").write_bytes(b"here")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "k").symlink_to("../blobs/abc")
    store = LocalStore(str(tmp_path / "snapshot"), confined=False)
    assert store.get("k") == b"here"
    assert [(each.key, each.size_bytes) for each in store.list("")] == [("k", 4)]


def test_objects_are_plain_files_at_their_local_path(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "root"))
    store.put("a/b", b"here")
    assert store.local_path("a/b") == store.location("a/b") == str(tmp_path / "root" / "a" / "b")
    assert Path(store.local_path("a/b")).read_bytes() == b"here"
    assert store.url == str(tmp_path / "root")
    assert store.durability is Durability.LOCAL_DISK
    assert store.free_bytes()


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        LocalStore(str(tmp_path)).put("k", b"")
        for root in ("above/root", "above"):  # made, and found
            LocalStore(str(tmp_path / root), root_mode=0o700).put("k", b"")
    finally:
        os.umask(before)
    assert [(tmp_path / path).stat().st_mode & 0o777 for path in ("above", "above/root")] == [0o750, 0o700]
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o640


def test_opening_a_store_creates_nothing(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "root"))
    assert list(store.list("")) == []
    assert store.free_bytes()
    assert store.sweep_unfinished("") == []
    store.delete(["k"])
    with pytest.raises(NotFoundError):
        store.get("k")
    assert not (tmp_path / "root").exists()


def test_special_files_and_directories_are_no_objects(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    store = LocalStore(str(tmp_path))
    assert list(store.list("")) == []
    for key in ("pipe", "directory"):
        for call in (store.get, store.stat):
            with pytest.raises(NotFoundError):
                call(key)
    with pytest.raises(ConflictError):
        store.put("directory", b"")
    with pytest.raises(ConflictError):
        store.delete(["directory"])


def test_offsets_past_four_gigabytes(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path), disk=_OldKernel())  # without fallocate the file is sparse
    size, at = (5 << 30) + 3, (1 << 32) + 7
    try:
        writer = store.create("k", size)
    except StorageFullError:
        assert (store.free_bytes() or 0) < size
        return
    writer.write(at, b"far away")
    writer.write(size - 3, b"end")
    assert writer.finish().size_bytes == size
    into = bytearray(10)
    store.read_into("k", at - 1, memoryview(into))
    assert into == b"\0far away\0"
    store.read_into("k", size - 3, memoryview(into)[:3])
    assert into[:3] == b"end"


def test_large_objects_survive_the_way_around_the_page_cache(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    store = LocalStore(str(tmp_path))
    write_object(store, "k", data)
    assert store.get("k") == data


def test_a_dead_writers_rubbish_is_swept_and_a_living_ones_is_not(tmp_path: Path) -> None:
    ready, done = SPAWN.Pipe()
    child = SPAWN.Process(target=_hold_a_writer, args=(str(tmp_path), done))
    child.start()
    try:
        assert ready.poll(WAIT_S)
        ready.recv()
        store = LocalStore(str(tmp_path))
        assert list(store.list("")) == []
        assert store.sweep_unfinished("run") == []
        assert len(list((tmp_path / "run").iterdir())) == 1
        child.kill()
        child.join(WAIT_S)
        assert store.sweep_unfinished("") == []
        assert store.sweep_unfinished("run") == ["run/shard.0"]
        assert list((tmp_path / "run").iterdir()) == []
    finally:
        child.kill()
        child.join(WAIT_S)


def _hold_a_writer(root: str, ready: Connection) -> None:
    writer = LocalStore(root).create("run/shard.0", 100)
    writer.write(0, b"x")
    ready.send("ready")
    threading.Event().wait(WAIT_S)


def test_sweeping_takes_only_names_of_its_own_pattern(tmp_path: Path) -> None:
    mine = f".shard.{'0f' * 16}.ckptd-tmp"
    others = [".shard.ckptd-tmp", "shard.tempstate123", f"x.{'0f' * 16}.ckptd-tmp", f".shard.{'0F' * 16}.ckptd-tmp"]
    for name in [mine, *others]:
        (tmp_path / name).write_bytes(b"")
    assert LocalStore(str(tmp_path)).sweep_unfinished("", spare=["shard"]) == []
    assert LocalStore(str(tmp_path)).sweep_unfinished("", only=["another"]) == []
    assert LocalStore(str(tmp_path)).sweep_unfinished("", spare=["run/shard"]) == ["shard"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_a_lock_is_held_between_processes_and_dies_with_its_process(tmp_path: Path) -> None:
    ready, done = SPAWN.Pipe()
    child = SPAWN.Process(target=_hold_a_lock, args=(str(tmp_path), done))
    child.start()
    try:
        assert ready.poll(WAIT_S)
        pid = ready.recv()
        with pytest.raises(ConflictError) as caught:
            LocalStore(str(tmp_path)).lock("daemon", holder="second")
        assert caught.value.actual == f"ckptd serve, pid {pid}"
        child.kill()
        child.join(WAIT_S)
        LocalStore(str(tmp_path)).lock("daemon", holder="second").release()
    finally:
        child.kill()
        child.join(WAIT_S)


def _hold_a_lock(root: str, ready: Connection) -> None:
    lock = LocalStore(root).lock("daemon", holder=f"ckptd serve, pid {os.getpid()}")
    ready.send(os.getpid())
    threading.Event().wait(WAIT_S)
    lock.release()


def test_a_forked_child_does_not_inherit_locks_and_writers(tmp_path: Path) -> None:
    ready, done = SPAWN.Pipe()
    parent = SPAWN.Process(target=_lock_and_fork, args=(str(tmp_path), done))
    parent.start()
    try:
        assert ready.poll(WAIT_S)
        child = ready.recv()
        store = LocalStore(str(tmp_path))
        with pytest.raises(ConflictError):  # the child let go of its copy only
            store.lock("daemon", holder="second")
        parent.kill()
        assert parent.pid
        os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)  # join would wait for the child, too
        os.kill(child, 0)  # the child lives on
        store.lock("daemon", holder="second").release()
        assert store.sweep_unfinished("run") == ["run/shard.0"]
        os.kill(child, signal.SIGKILL)
    finally:
        parent.kill()
        parent.join(WAIT_S)


def _lock_and_fork(root: str, ready: Connection) -> None:
    store = LocalStore(root)
    lock, writer = store.lock("daemon", holder="first"), store.create("run/shard.0", 100)
    child = os.fork()
    if child == 0:
        ready.send(os.getpid())
    threading.Event().wait(WAIT_S)
    lock.release()
    writer.abort()


def test_aborting_while_another_thread_writes_closes_nothing_under_it(tmp_path: Path) -> None:
    class SlowDisk(SystemDisk):
        def write(self, file: int, offset: int, data: bytes | bytearray | memoryview, *, bulk: bool) -> None:
            writing.set()
            assert aborted.wait(WAIT_S)
            super().write(file, offset, data, bulk=bulk)  # EBADF, or another's file, had abort closed it

    writing, aborted = threading.Event(), threading.Event()
    store = LocalStore(str(tmp_path), disk=SlowDisk())
    writer = store.create("k", 4)
    open_before = num_open(tmp_path)
    errors: list[BaseException] = []

    def write() -> None:
        try:
            writer.write(0, b"data")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    assert writing.wait(WAIT_S)
    writer.abort()
    aborted.set()
    thread.join(WAIT_S)
    assert errors == []
    assert num_open(tmp_path) == open_before - 2
    assert list(tmp_path.iterdir()) == []


ERRNOS = [
    (errno.ENOSPC, StorageFullError),
    (errno.EDQUOT, StorageFullError),
    (errno.EIO, UnavailableError),
    (errno.EACCES, NotPermittedError),
    (errno.EPERM, NotPermittedError),
    (errno.EROFS, NotPermittedError),
    (errno.EFBIG, StorageFullError),
    (errno.ESTALE, UnavailableError),
]


@pytest.mark.parametrize(("code", "kind"), ERRNOS)
def test_an_error_of_the_disk_at_any_operation_is_ours_and_names_the_key(code: int, kind: type[CkptdError]) -> None:
    for number in range(1, 100):
        disk = SimulatedDisk(fails_at=number, error=code)
        store = LocalStore("/root", disk=disk)
        caught: CkptdError | None = None
        try:
            write_object(store, "run/shard", b"data")
        except CkptdError as error:
            caught = error
        if caught is None:
            assert number > len(disk.operations)
            return
        assert (type(caught), caught.key) == (kind, "run/shard")
        assert isinstance(caught.__cause__, OSError)
        assert not [path for path in disk.content() if "run/" in path and "ckptd-tmp" not in path]
        write_object(store, "run/shard", b"again")
        assert store.get("run/shard") == b"again"
    pytest.fail("the sweep never came to its end")


def test_a_failed_fsync_is_never_answered_with_success_later() -> None:
    probe = SimulatedDisk()
    write_object(LocalStore("/root", disk=probe), "k", b"data")
    at = probe.operations.index("sync") + 1
    disk = SimulatedDisk(fails_at=at)
    writer = LocalStore("/root", disk=disk).create("k", 4)
    writer.write(0, b"data")
    with pytest.raises(UnavailableError):
        writer.finish()
    with pytest.raises(ConflictError):
        writer.finish()
    assert disk.operations.count("sync") == 1
    assert disk.content() == {}


def test_a_full_disk_is_reported_before_the_first_byte() -> None:
    disk = SimulatedDisk()
    store = LocalStore("/root", disk=disk)
    store.put("small", b"")
    disk.full_from = len(disk.operations) + 2  # the name still fits, the space does not
    with pytest.raises(StorageFullError) as caught:
        store.create("large", 1000)
    assert caught.value.key == "large"
    assert list(disk.content()) == ["/root/small"]


def test_a_directory_left_unsynced_by_a_dead_process_is_synced_by_the_next() -> None:
    dying = SimulatedDisk()
    LocalStore("/root", disk=dying).put("a", b"")
    dying.dies_at = len(dying.operations) + 2  # the directory is made, not synced: only this process dies
    with pytest.raises(PowerCut):
        LocalStore("/root", disk=dying).put("run/k", b"")
    dying.dead, dying.dies_at = False, None
    LocalStore("/root", disk=dying).put("run/k", b"kept")
    for crash in dying.crashes():
        assert LocalStore("/root", disk=dying.reboot(crash)).get("run/k") == b"kept"


def test_what_was_put_replaced_or_deleted_survives_any_crash() -> None:
    disk = SimulatedDisk()
    store = LocalStore("/root", disk=disk)
    store.put("run/a", b"a")
    write_object(store, "run/b", b"b")
    store.replace("run/c", b"old")
    store.replace("run/c", b"new")
    store.put("run/d", b"d")
    store.delete(["run/d"])
    for crash in disk.crashes():
        after = LocalStore("/root", disk=disk.reboot(crash))
        assert {each.key: after.get(each.key) for each in after.list("")} == {
            "run/a": b"a",
            "run/b": b"b",
            "run/c": b"new",
        }


def test_a_name_too_long_for_the_file_system_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError):
        LocalStore(str(tmp_path)).put("x" * 300, b"")
