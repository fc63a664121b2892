"""On the daemon's host bytes go through shared memory: saved without being sent, restored without being read."""

from __future__ import annotations

import gc
import os
import socket
import threading
import weakref

import numpy as np
import pytest

import ckptd
from ckptd.arena.lender import Lender
from ckptd.client.capture.snapshot import Snapshot
from ckptd.client.daemon.arena_link import ArenaLink
from ckptd.client.daemon.arena_rooms import ArenaRoom, ArenaRooms
from ckptd.engine.lanes.lane_writer import LaneWriter
from ckptd.errors import CorruptionError, InvalidRequestError, SessionAbortedError
from ckptd.storage.local.local_store import LocalStore
from tests import seams
from tests.fakes.waiting import eventually, never
from tests.unit.client.served import BOUND_S, Daemon

pytestmark = pytest.mark.usefixtures("memory_is_waited_for")

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "large": RANDOM.random((700, 500)),
    "odd": RANDOM.integers(0, 255, 33, np.uint8),
    "transposed": np.asfortranarray(RANDOM.random((50, 60), np.float32)),
    "words": ["some", "strings", ""],
    "scalar": 3,
    "empty": np.zeros((0, 4)),
    "no strings": np.zeros((2, 0), object),
    "after": np.complex64(2j),
}


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path / "root", arena_bytes=256 << 20, lease_s=1.0, declare_timeout_s=60.0)
    yield daemon
    daemon.stop()


@pytest.fixture(autouse=True, params=[seams.COPIED_FIRST_BYTES.value, 0], ids=["copied first", "followed"])
def _when_written(request, monkeypatch):
    """Let captures be written once they are complete, as short ones are, or behind the copy, as long ones are."""
    seams.COPIED_FIRST_BYTES.put(monkeypatch, request.param)
    if not request.param:
        seams.LONG_CAPTURE_BYTES.put(monkeypatch, 0)
        seams.LONG_STANDSTILL_BYTES.put(monkeypatch, 0)


@pytest.fixture
def connect(daemon):
    opened = []

    def connect(rank=0, world_size=1, **options):
        ckpt = ckptd.Checkpointer(
            daemon.address, run="r", rank=rank, world_size=world_size, timeout_s=BOUND_S, **options
        )
        opened.append(ckpt)
        return ckpt

    yield connect
    for ckpt in opened:
        ckpt.close()


def same(restored, arrays):
    for name, value in arrays.items():
        expected = np.array([each.encode() for each in value], object) if name == "words" else np.asarray(value)
        np.testing.assert_array_equal(restored[name], expected)


def lent(ckpt):
    return ckpt.transport.connection.seat().arenas.rooms


def test_nothing_is_sent_and_the_checkpoint_is_whole(daemon, connect, monkeypatch):
    ckpt = connect()
    seams.SEND_LANE.put(monkeypatch, lambda *_: pytest.fail("bytes were sent"))
    for step in (1, 2, 3):
        ckpt.save(step, ARRAYS).result(BOUND_S)
        report = ckptd.verify(daemon.root / f"r/model.ckpt-{step}")
        assert report.ok, report.problems
        same(ckptd.load_checkpoint(daemon.root / f"r/model.ckpt-{step}"), ARRAYS)


def load(reader):
    return {name: reader[name] for name in ARRAYS}


def test_saves_take_turns_in_two_arenas(connect):
    ckpt = connect()
    used = []
    take = ckpt.transport.rooms.room
    ckpt.transport.rooms.room = lambda size: used.append(take(size)) or used[-1]
    for step in range(4):
        ckpt.save(step, ARRAYS).result(BOUND_S)
    assert all(isinstance(room, ArenaRoom) for room in used)
    assert [room.number for room in used] == [used[0].number, used[1].number] * 2
    assert used[0].number != used[1].number


def test_several_ranks_fill_one_checkpoint(daemon, connect):
    full = RANDOM.random((40, 3000))
    ranks = [connect(rank, 4) for rank in range(4)]
    for step in (1, 2):
        pending = [
            ckpt.save(
                step,
                {
                    "w": ckptd.Slice(full[rank * 10 : rank * 10 + 10], full.shape, (rank * 10, 0)),
                    "same": full[0],
                    f"own/{rank}": np.full(rank + 1, rank, np.int16),
                    f"text/{rank}": f"rank {rank}",
                },
            )
            for rank, ckpt in enumerate(ranks)
        ]
        for each in pending:
            each.result(BOUND_S)
        reader = ckptd.load_checkpoint(daemon.root / "r")
        np.testing.assert_array_equal(reader["w"], full)
        np.testing.assert_array_equal(reader["same"], full[0])
        assert [reader[f"text/{rank}"] for rank in range(4)] == [f"rank {rank}".encode() for rank in range(4)]
    for ckpt in ranks:
        np.testing.assert_array_equal(ckpt.restore(names=["w"])["w"], full)


def test_a_rank_that_sends_and_one_that_shares_make_one_checkpoint(daemon, connect, monkeypatch):
    sharing = connect(0, 2)
    monkeypatch.setenv("CKPTD_TRANSPORT", "stream")
    sending = connect(1, 2)
    pending = [ckpt.save(1, {f"t{rank}": RANDOM.random(100_000)}) for rank, ckpt in enumerate((sharing, sending))]
    for each in pending:
        each.result(BOUND_S)
    assert lent(sharing) is not None
    assert lent(sending) is None
    assert ckptd.verify(daemon.root / "r").ok


def test_a_wrong_transport_in_the_environment_is_refused(connect, monkeypatch):
    monkeypatch.setenv("CKPTD_TRANSPORT", "pigeon")
    with pytest.raises(InvalidRequestError, match="CKPTD_TRANSPORT"):
        connect()


def test_too_little_memory_means_sending(tmp_path):
    daemon = Daemon(tmp_path / "root", arena_bytes=1 << 20)
    try:
        with ckptd.Checkpointer(daemon.address, run="r", rank=0, world_size=1, timeout_s=BOUND_S) as ckpt:
            ckpt.save(1, ARRAYS).result(BOUND_S)
            assert "--arena-bytes" in ckpt.transport.connection.seat().arenas.why_not
        assert ckptd.verify(daemon.root / "r").ok
    finally:
        daemon.stop()


def test_what_a_worker_changes_afterwards_ends_that_save_alone(daemon, connect, monkeypatch):
    ckpt = connect()
    ckpt.save(1, ARRAYS).result(BOUND_S)
    gate = threading.Event()
    finish = LocalStore.create

    def slow(store, key, size):
        assert gate.wait(BOUND_S)
        return finish(store, key, size)

    seams.CREATE_ON_DISK.put(monkeypatch, slow)
    pending = ckpt.save(2, ARRAYS)
    room = next(room for room in lent(ckpt).lent.values() if room not in lent(ckpt).free)
    eventually(lambda: all(thread.name != "ckptd-sums" for thread in threading.enumerate()))
    room.data[100] ^= 1
    gate.set()
    with pytest.raises(CorruptionError, match="'large' of rank 0 is not what was captured"):
        pending.result(BOUND_S)
    ckpt.save(3, ARRAYS).result(BOUND_S)
    assert [each.step for each in ckpt.checkpoints()] == [1, 3]


def test_a_save_that_failed_keeps_nothing_of_its_capture_alive(daemon, connect, monkeypatch):
    captures = []
    begin = Lender.begin

    def watched(*arguments, **options):
        capture = begin(*arguments, **options)
        captures.append(weakref.ref(capture))
        return capture

    seams.LEND_ROOM.put(monkeypatch, watched)
    take_sums = Snapshot.sum
    seams.SUM_CAPTURE.put(monkeypatch, lambda snapshot: take_sums(snapshot) + np.uint32(1))
    ckpt = connect()
    assert isinstance(ckpt.save(1, ARRAYS).exception(BOUND_S), CorruptionError)
    eventually(lambda: gc.collect() >= 0 and captures[0]() is None, "the end of the capture")


def test_a_capture_that_fails_ends_the_save_and_leaves_the_next_in_peace(connect, monkeypatch):
    ckpt = connect()
    with monkeypatch.context() as patched:
        seams.COPY_PIECE.put(patched, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ckpt.save(1, ARRAYS)
    ckpt.save(2, ARRAYS).result(BOUND_S)
    assert [each.step for each in ckpt.checkpoints()] == [2]


def test_after_a_restart_of_the_daemon_what_was_captured_is_sent(daemon, connect, monkeypatch):
    ckpt = connect()
    ckpt.save(1, ARRAYS).result(BOUND_S)
    held = threading.Event()
    create = LocalStore.create
    seams.CREATE_ON_DISK.put(monkeypatch, lambda *arguments: held.set() or (_ for _ in ()).throw(OSError("gone")))
    pending = ckpt.save(2, ARRAYS)
    assert held.wait(BOUND_S)
    daemon.stop()
    seams.CREATE_ON_DISK.put(monkeypatch, create)
    daemon.start()
    assert isinstance(pending.exception(BOUND_S), SessionAbortedError) or pending.result().step == 2
    ckpt.save(3, ARRAYS).result(BOUND_S)
    assert ckptd.verify(daemon.root / "r").ok
    assert lent(ckpt) is not None


def test_a_restore_takes_from_memory_what_is_still_there(daemon, connect, monkeypatch):
    ckpt = connect()
    ckpt.save(1, ARRAYS).result(BOUND_S)
    ckpt.save(2, {**ARRAYS, "odd": np.zeros(33, np.uint8)}).result(BOUND_S)
    other = connect_reader(daemon)
    read = []
    read_into = LocalStore.read_into

    def counted(store, key, offset, *into):
        read.append((key, sum(map(len, into))))
        read_into(store, key, offset, *into)

    seams.READ_FROM_DISK.put(monkeypatch, counted)
    with other:
        same(other.restore(1), ARRAYS)
        # What lies between the lengths and the payload of strings is the daemon's own.
        assert sum(size for _, size in read) <= 16
        for step in (3, 4):
            ckpt.save(step, ARRAYS).result(BOUND_S)
        read.clear()
        same(other.restore(1), ARRAYS)
        assert sum(size for _, size in read) > ARRAYS["large"].nbytes


def connect_reader(daemon):
    return ckptd.Checkpointer(daemon.address, run="r", rank=0, world_size=1, timeout_s=BOUND_S)


def test_what_is_overwritten_while_it_is_restored_is_read_from_the_store(daemon, connect, monkeypatch):
    ckpt = connect()
    ckpt.save(1, ARRAYS).result(BOUND_S)
    room = next(iter(lent(ckpt).lent.values()))
    rooms = [room for room in lent(ckpt).lent.values() if room.segment.generation]
    copy = np.copyto

    def overwritten(to, source, **options):
        for room in rooms:
            room.segment.begin()
            room.data[:] = 0xEE
        copy(to, source, **options)

    monkeypatch.setattr(np, "copyto", overwritten)
    with connect_reader(daemon) as other:
        same(other.restore(1), ARRAYS)
    del room


def test_memory_that_holds_other_bytes_than_were_saved_is_passed_by(daemon, connect):
    ckpt = connect()
    ckpt.save(1, ARRAYS).result(BOUND_S)
    for room in lent(ckpt).lent.values():
        room.data[:] = 0xEE
    with connect_reader(daemon) as other:
        same(other.restore(1), ARRAYS)
        same({"large": other.reader(1)["large"]}, {"large": ARRAYS["large"]})


def test_bytes_that_are_staged_are_not_copied(daemon, connect, monkeypatch):
    ckpt = connect()
    copied = []
    copy = seams.COPY_PIECE.value
    seams.COPY_PIECE.put(monkeypatch, lambda source, to: copied.append(len(to)) or copy(source, to))
    for step in (1, 2, 3):
        staged = ckpt.staging("w", (300, 400), np.float32)
        assert ckpt.staging("w", (300, 400), np.float32) is staged
        staged[:] = step
        ckpt.save(step, {"w": staged, "step": step}).result(BOUND_S)
    assert sum(copied) == 3 * 8
    for step in (1, 2, 3):
        reader = ckptd.load_checkpoint(daemon.root / f"r/model.ckpt-{step}")
        assert (reader["w"] == step).all()
        assert reader["step"] == step
    assert ckptd.verify(daemon.root / "r").ok


def test_what_is_staged_and_changed_by_mistake_is_never_saved(daemon, connect, monkeypatch):
    ours, other = connect(0, 2), connect(1, 2)
    # From then on both have memory that the daemon lends: what is staged elsewhere would be copied.
    for pending in [ours.save(0, {"ours": np.ones(3)}), other.save(0, {"others": np.ones(3)})]:
        pending.result(BOUND_S)
    copying = threading.Event()
    copy = seams.COPY_PIECE.value
    seams.COPY_PIECE.put(monkeypatch, lambda *both: copying.wait(BOUND_S) and copy(*both))
    staged = ours.staging("staged", (1000, 1000), np.float32)
    staged[:] = 1
    pending = [ours.save(1, {"staged": staged})]
    saving = threading.Thread(target=lambda: pending.append(other.save(1, {"copied": np.ones((100, 1000))})))
    saving.start()
    staged[:] = 2  # the daemon waits for the other rank
    copying.set()
    saving.join(BOUND_S)
    assert isinstance(pending[0].exception(BOUND_S), CorruptionError)
    assert pending[1].exception(BOUND_S)
    assert [each.step for each in ours.checkpoints()] == [0]


def test_what_is_staged_and_changed_only_while_it_is_written_is_noticed_or_not_there(daemon, connect, monkeypatch):
    """Summed before and after the write it would be the same: what is summed has to be what is written."""
    take = LaneWriter.take
    ckpt = connect()
    staged = ckpt.staging("staged", (1000, 1000), np.float32)
    staged[:] = 1

    def changed(lane, position, data, **options):
        staged[:] = 2
        try:
            return take(lane, position, data, **options)
        finally:
            staged[:] = 1

    seams.TAKE_LANE.put(monkeypatch, changed)
    if not ckpt.save(1, {"staged": staged}).exception(BOUND_S):
        assert (ckptd.load_checkpoint(daemon.root / "r")["staged"] == 1).all()


def test_the_daemon_sums_a_long_capture_after_its_rank_has(daemon, connect, monkeypatch):
    seams.LONG_CAPTURE_BYTES.put(monkeypatch, 0)
    summing, order = threading.Event(), []
    take_sums, sum_block = Snapshot.sum, LaneWriter.sum

    def sum_of_rank(snapshot):
        assert summing.wait(BOUND_S)
        order.append("rank")
        return take_sums(snapshot)

    seams.SUM_CAPTURE.put(monkeypatch, sum_of_rank)
    seams.SUM_LANE.put(monkeypatch, lambda *given: order.append("daemon") or sum_block(*given))
    ckpt = connect()
    pending = ckpt.save(1, ARRAYS)
    eventually(lambda: list((daemon.root / "r").rglob("*.data-*")))
    never(lambda: order, "a sum before the rank's")
    summing.set()
    pending.result(BOUND_S)
    assert order[0] == "rank"
    assert "daemon" in order


def test_what_is_staged_for_one_save_survives_another_that_comes_first(daemon, connect):
    ckpt = connect()
    staged = ckpt.staging("w", (2_000_000,), np.uint8)
    staged[:] = 2
    ckpt.save(1, {"w": np.ones(2_000_000, np.uint8)}).result(BOUND_S)
    assert ckpt.staging("w", (2_000_000,), np.uint8) is staged
    ckpt.save(2, {"w": staged}).result(BOUND_S)
    assert ckpt.staging("w", (2_000_000,), np.uint8) is not staged
    for step in (1, 2):
        assert (ckptd.load_checkpoint(daemon.root / f"r/model.ckpt-{step}")["w"] == step).all()


def test_a_stage_grows_and_nothing_is_lost(daemon, connect):
    ckpt = connect()
    arrays = {f"t{n}": ckpt.staging(f"t{n}", (1000, 500), np.float64) for n in range(6)}
    for n, array in enumerate(arrays.values()):
        array[:] = n
    ckpt.save(1, arrays).result(BOUND_S)
    reader = ckptd.load_checkpoint(daemon.root / "r")
    assert all((reader[f"t{n}"] == n).all() for n in range(6))


@pytest.mark.parametrize("dtype", [object, "S5", ">f4", "datetime64[s]"])
def test_what_cannot_be_staged_is_refused(connect, dtype):
    with pytest.raises(InvalidRequestError):
        connect().staging("w", (3,), dtype)


def test_memory_is_ready_before_the_first_save(daemon, connect):
    ckpt = connect()
    ckpt.prepare(ARRAYS)
    eventually(lambda: lent(ckpt) is not None and len(lent(ckpt).free) == 2, "the memory")
    ckpt.save(1, ARRAYS).result(BOUND_S)
    assert ckptd.verify(daemon.root / "r").ok


def test_a_forked_child_does_not_keep_the_connection():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    link = ArenaLink(ours)
    child = os.fork()
    if not child:
        os._exit(1 if link.is_alive else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert link.is_alive
    ours.close()
    theirs.close()


def test_who_comes_back_in_the_middle_of_his_own_save_fills_other_memory(daemon, connect):
    ckpt = connect()
    ckpt.save(1, ARRAYS).result(BOUND_S)
    lender = daemon.server.arenas.lender
    arena = next(iter(lender.arenas.values()))
    eventually(lambda: arena.capture is None, "the end of the first save in the daemon")
    arena.capture = object()
    try:
        before = lent(ckpt)
        again = ArenaRooms(before.link, "r", before.epoch, 0, ckpt.transport.connection.member.incarnation)
        taken = again.take(1000)
        assert taken.number != arena.id
        assert again.take(1000) is None
    finally:
        arena.capture = None


def test_a_save_without_bytes_works_as_well(connect):
    assert connect().save(1, {"e": np.zeros((0, 3))}).result(BOUND_S).step == 1


def test_the_status_tells_who_shares_memory(daemon, connect):
    ckpt = connect()
    ckpt.save(1, ARRAYS).result(BOUND_S)
    usage = daemon.server.arenas.lender.usage()["r"]
    assert usage.ranks == {0}
    assert usage.num_arenas == 2
    ckpt.close()
    eventually(lambda: not daemon.server.arenas.lender.usage()["r"].ranks, "the end of the connection")


def test_memory_is_lent_again_after_the_daemon_was_short_of_descriptors(daemon, connect, monkeypatch):
    listener = daemon.server.arenas.listener
    left = [3]

    class Short:
        def accept(self):
            if left[0]:
                left[0] -= 1
                raise OSError(24, "Too many open files")
            return listener.accept()

    seams.ACCEPT_PAUSE_S.put(monkeypatch, 0.01)
    accepting = threading.Thread(target=daemon.server.arenas.accept_from, args=(Short(),), daemon=True)
    accepting.start()
    eventually(lambda: left[0] == 0)
    connect().save(1, ARRAYS).result(BOUND_S)
    assert accepting.is_alive()
    daemon.stop()
    accepting.join(BOUND_S)
    assert not accepting.is_alive()
