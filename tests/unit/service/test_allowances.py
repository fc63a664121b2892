"""The limits and quotas of a policy, against a daemon with a real engine, over both ways that bytes take."""

from __future__ import annotations

import time
from dataclasses import replace

import grpc
import numpy as np
import pytest

from ckptd.access import policy
from ckptd.client.checkpointer import Checkpointer
from ckptd.engine.refusals import NotNowError
from ckptd.errors import StorageFullError, UnavailableError
from ckptd.service.allowances import in_words
from ckptd.service.server import ArenaOptions, Server, ServerOptions
from ckptd.wire import addresses, methods, status
from ckptd.wire.channels import open_channel
from ckptd.wire.v1 import admin_pb2, read_pb2, watch_pb2
from tests import seams
from tests.fakes.access import OPEN
from tests.fakes.waiting import eventually
from tests.fakes.worker import Worker
from tests.unit.client.served import BOUND_S, Daemon

GRANT = {"to": "loopback", "runs": "**", "role": "admin"}
ARRAYS = {"w": np.arange(75_000.0)}  # 600 kB


class Limited(Daemon):
    """A daemon whose policy has rows besides the grant."""

    def __init__(self, root, *, arena_bytes=0, **rows):
        self.access = replace(OPEN, policy=policy.parse({"grant": [GRANT], **{k: [v] for k, v in rows.items()}}))
        super().__init__(root, arena_bytes=arena_bytes)

    def make_server(self, coordinator):
        arena = self._arena if isinstance(self._arena, ArenaOptions) else None
        return Server(coordinator, ServerOptions(listen=(self._listen,), access=self.access, arena=arena))


@pytest.fixture
def limited(tmp_path):
    started = []

    def start(**rows):
        started.append(Limited(tmp_path / "root", **rows))
        return started[-1]

    yield start
    for daemon in started:
        daemon.stop()


@pytest.fixture(params=[0, 64 << 20], ids=["streams", "memory"])
def arena_bytes(request):
    return request.param


def checkpointer(daemon, run, **more):
    return Checkpointer(daemon.address, run=run, **more)


def stub(daemon, service):
    return methods.Stub(open_channel(addresses.parse(daemon.address)), service)


def limits_of(daemon):
    reply = stub(daemon, methods.ADMIN).Status(admin_pb2.StatusRequest(), timeout=BOUND_S)
    return {(each.subject, each.what): (each.used, each.most) for each in reply.limits}


def files_of(daemon):
    return sorted(str(path) for path in daemon.root.rglob("*.data-*"))


def test_a_quota_is_checked_before_anything_is_written_and_other_runs_go_on(limited, arena_bytes):
    daemon = limited(arena_bytes=arena_bytes, quota={"runs": "r/**", "stored_bytes": 1_000_000})
    assert limits_of(daemon) == {("r/**", "stored_bytes"): (-1, 1_000_000)}
    with checkpointer(daemon, "r/a") as one, checkpointer(daemon, "r/b") as two, checkpointer(daemon, "s") as other:
        one.save(1, ARRAYS).result(BOUND_S)
        before = files_of(daemon)
        with pytest.raises(StorageFullError, match=r"600.0 kB; of the runs r/\*\* 600.0 kB are stored, .* 1\.0 MB"):
            two.save(1, ARRAYS).result(BOUND_S)
        assert files_of(daemon) == before
        other.save(1, ARRAYS).result(BOUND_S)
        [used] = {used for used, most in limits_of(daemon).values()}
        assert 600_000 <= used < 610_000
        two.save(2, {"w": np.zeros(10_000)}).result(BOUND_S)


def test_what_was_stored_before_a_restart_counts_and_what_is_deleted_for_good_does_not(limited, tmp_path):
    with checkpointer(first := limited(), "r/a") as before:
        before.save(1, ARRAYS).result(BOUND_S)
        before.save(2, {"w": np.zeros(3)}).result(BOUND_S)
    first.stop()
    daemon = limited(quota={"runs": "r/**", "stored_bytes": 1_000_000})
    with checkpointer(daemon, "r/b") as two:
        with pytest.raises(StorageFullError):
            two.save(1, ARRAYS).result(BOUND_S)
        admin = stub(daemon, methods.ADMIN)
        admin.Delete(admin_pb2.DeleteRequest(run="r/a", step=1), timeout=BOUND_S)
        with pytest.raises(StorageFullError, match="can be undeleted counts"):
            two.save(2, ARRAYS).result(BOUND_S)
        admin.Undelete(admin_pb2.UndeleteRequest(run="r/a", step=1), timeout=BOUND_S)
        admin.Delete(admin_pb2.DeleteRequest(run="r/a", step=1, for_good=True), timeout=BOUND_S)
        two.save(3, ARRAYS).result(BOUND_S)


def test_retention_makes_room_within_a_quota(limited):
    daemon = limited(quota={"runs": "**", "stored_bytes": 1_300_000})
    with checkpointer(daemon, "r", max_to_keep=1) as one:
        for step in range(1, 6):
            one.save(step, ARRAYS).result(BOUND_S)


def test_saves_beyond_a_limit_wait_for_one_to_end(limited, arena_bytes):
    daemon = limited(arena_bytes=arena_bytes, limit={"to": "*", "saves": 1})
    with (
        checkpointer(daemon, "a", rank=0, world_size=2) as zero,
        checkpointer(daemon, "a", rank=1, world_size=2) as one,
        checkpointer(daemon, "b", timeout_s=BOUND_S) as other,
        checkpointer(daemon, "c", timeout_s=3.0) as impatient,
    ):
        first = zero.save(1, ARRAYS)
        eventually(lambda: limits_of(daemon) == {("loopback", "saves"): (1, 1)})
        with pytest.raises(UnavailableError, match=r"loopback has 1 save under way, .* allows it 1 at once"):
            impatient.save(1, ARRAYS).result(BOUND_S)
        waiting = other.save(1, ARRAYS)
        one.save(1, ARRAYS).result(BOUND_S)  # its other rank is no save of its own
        first.result(BOUND_S)
        assert waiting.result(BOUND_S).step == 1
        assert limits_of(daemon) == {("loopback", "saves"): (0, 1)}


def test_a_run_too_many_cannot_be_joined_until_another_is_left(limited):
    daemon = limited(limit={"to": "loopback", "runs": 1})
    with checkpointer(daemon, "a") as one:
        one.save(1, ARRAYS).result(BOUND_S)
        with checkpointer(daemon, "b", timeout_s=3.0) as two, pytest.raises(UnavailableError, match="joined 1 run,"):
            two.save(1, ARRAYS).result(BOUND_S)
    with checkpointer(daemon, "b") as two:
        two.save(1, ARRAYS).result(BOUND_S)


def test_a_watcher_too_many_is_refused_and_the_others_hear_on(limited):
    daemon = limited(limit={"to": "loopback", "watchers": 2})
    watch = stub(daemon, methods.WATCH).Watch
    with checkpointer(daemon, "a") as one:
        one.save(1, ARRAYS).result(BOUND_S)
        watching = [watch(watch_pb2.WatchRequest(run="a"), timeout=BOUND_S) for _ in range(2)]
        for each in watching:
            assert next(each).checkpoint.step == 1
        with pytest.raises(grpc.RpcError) as refused:
            next(watch(watch_pb2.WatchRequest(run="a"), timeout=BOUND_S))
        assert "loopback has 2 watchers" in str(status.from_wire(refused.value))
        one.save(2, ARRAYS).result(BOUND_S)
        for each in watching:
            assert next(each).checkpoint.step == 2
            each.cancel()


def test_more_cannot_be_claimed_than_the_limit_allows(limited, arena_bytes):
    daemon = limited(arena_bytes=arena_bytes, limit={"to": "loopback", "claimed_bytes": 500_000})
    with checkpointer(daemon, "a") as one:
        with pytest.raises(UnavailableError, match=r"has 600.0 kB; loopback has claimed 0 B .* allows it 500.0 kB"):
            one.save(1, ARRAYS).result(BOUND_S)
        assert not files_of(daemon)
        for step in range(2, 6):
            one.save(step, {"w": np.zeros(50_000)}).result(BOUND_S)


def test_who_calls_too_often_is_refused_by_name_and_a_save_gets_through_all_the_same(limited):
    daemon = limited(limit={"to": "loopback", "requests_per_s": 20})
    read = stub(daemon, methods.READ)
    began = time.monotonic()
    calls = [read.List.future(read_pb2.ListRequest(run="a"), timeout=BOUND_S) for _ in range(200)]
    refused = [status.from_wire(each) for call in calls if (each := call.exception()) is not None]
    took_s = time.monotonic() - began
    assert 200 - 20 * (took_s + 2) <= len(refused) < 200  # those of a second may come at once
    assert all(
        "loopback calls too often: the daemon's policy allows it 20 requests a second" in str(e) for e in refused
    )
    assert {type(each) for each in refused} <= {NotNowError, UnavailableError}
    with checkpointer(daemon, "a") as one:
        assert one.save(1, ARRAYS).result(BOUND_S).step == 1


def test_bytes_above_a_rate_are_delayed_in_and_out_and_status_tells_of_them(limited, arena_bytes):
    daemon = limited(arena_bytes=arena_bytes, limit={"to": "loopback", "bytes_per_s": 4_000_000})
    with checkpointer(daemon, "a") as one:
        began = time.monotonic()
        for step in range(1, 3):
            one.save(step, {"w": np.full(300_000, float(step))}).result(BOUND_S)  # 2.4 MB
        one.save(3, {"w": np.zeros(10)}).result(BOUND_S)
    assert time.monotonic() - began > 0.1  # of 4.8 MB the 4 of one second may come at once
    assert set(limits_of(daemon)) == {("loopback", "bytes_per_s")}
    began = time.monotonic()
    request = read_pb2.ReadRequest(key="a/model.ckpt-2.data-00000-of-00001", size=-1)
    for _ in range(3):  # all of it is more than may come at once, however much time went by before
        assert sum(map(len, list(stub(daemon, methods.READ).Read(request, timeout=BOUND_S))[1:])) == 2_400_000
    assert time.monotonic() - began > 0.4


def test_what_is_most_of_the_free_disk_is_not_reserved_before_it_comes_but_saved(limited, monkeypatch):
    reserved, reserve = [], seams.RESERVE_ON_DISK.value

    def spied(disk, file, size_bytes):
        reserved.append(size_bytes)
        reserve(disk, file, size_bytes)

    seams.RESERVE_ON_DISK.put(monkeypatch, spied)
    seams.FREE_ON_DISK.put(monkeypatch, lambda *_: 1_000_000)
    daemon = limited()  # its policy has grants, so there may be others
    with checkpointer(daemon, "a") as one:
        one.save(1, {"w": np.arange(90_000.0)}).result(BOUND_S)  # 720 kB of the free 1 MB
        one.save(2, {"w": np.arange(100_000.0)}).result(BOUND_S)
        assert 720_000 in reserved
        assert 800_000 not in reserved
        assert one.restore(2)["w"][-1] == 99_999


@pytest.mark.parametrize(
    ("known", "said"),
    [({"r/**", "secret/*"}, "r/**, secret/*"), ({"r/**"}, "r/** and others")],
    ids=["all of them", "some of them"],
)
def test_a_quota_names_its_reader_no_pattern_of_others(known, said):
    assert in_words(("r/**", "secret/*"), known.__contains__) == said


def test_new_runs_come_slowly_after_many_and_those_that_are_there_at_once(limited, monkeypatch):
    daemon = limited()
    with checkpointer(daemon, "a") as one:
        one.save(1, ARRAYS).result(BOUND_S)
    daemon.stop()
    daemon.start()
    seams.NEW_RUNS_AT_ONCE.put(monkeypatch, 0)
    with open_channel(addresses.parse(daemon.address)) as channel, pytest.raises(grpc.RpcError) as refused:
        Worker(channel, 0, 1, run="b").join()
    assert "loopback makes runs too fast" in str(status.from_wire(refused.value))
    with checkpointer(daemon, "a") as one:
        one.save(2, ARRAYS).result(BOUND_S)
