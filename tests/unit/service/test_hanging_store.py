"""A store that hangs for one run: the calls of other runs are answered, and so is a status."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from ckptd.client.checkpointer import Checkpointer
from ckptd.engine.priority import Priority
from ckptd.errors import CkptdError, NotFoundError, SessionAbortedError, UnavailableError
from ckptd.service.flow import Limits
from ckptd.service.pools import Pools
from ckptd.service.store_facts import StoreFacts
from ckptd.storage.local.local_store import LocalStore
from ckptd.storage.memory import MemoryStore
from ckptd.wire import addresses, methods
from ckptd.wire.channels import open_channel
from ckptd.wire.v1 import admin_pb2, read_pb2
from tests.fakes.waiting import eventually
from tests.unit.client.saving.test_ends_of_saves import Failing
from tests.unit.client.served import BOUND_S, Daemon

ARRAYS = {"w": np.arange(1000, dtype=np.float32)}


class Hanging(Failing):
    """Also for what a status looks at."""

    is_frozen = threading.Event()

    def read_into(self, key, offset, *into):
        self._fail(0, f"read {key}")
        return self._inner.read_into(key, offset, *into)

    def free_bytes(self):
        if self.is_frozen.is_set():
            assert self._released.wait(60)
        return self._inner.free_bytes()


@pytest.fixture
def hanging(tmp_path):
    store = Hanging(LocalStore(str(tmp_path / "root")))
    daemon = Daemon(tmp_path / "root", store=store, threads=4)
    daemon.store = store
    yield daemon
    store.is_frozen.clear()
    store.go_on()
    daemon.stop()


def status_of(daemon):
    with open_channel(addresses.parse(daemon.address)) as channel:
        return methods.Stub(channel, methods.ADMIN).Status(admin_pb2.StatusRequest(), timeout=BOUND_S)


def test_one_runs_hanging_store_stops_no_other_run(hanging):
    stuck = [Checkpointer(hanging.address, run="stuck", rank=rank, world_size=24, timeout_s=60.0) for rank in range(24)]
    parts = [{f"w{rank}": ARRAYS["w"]} for rank in range(24)]
    with Checkpointer(hanging.address, run="other") as other:
        other.save(1, ARRAYS).result()
        for pending in [each.save(1, part) for each, part in zip(stuck, parts, strict=True)]:
            pending.result(BOUND_S)
        hanging.store.hang("finish stuck/model.ckpt-2.data")  # of 24 shards, which is more than there are threads
        waiting = [each.save(2, part) for each, part in zip(stuck, parts, strict=True)]
        eventually(lambda: any(run.run == "stuck" and run.saves for run in status_of(hanging).runs))
        for step in (2, 3):
            assert other.save(step, ARRAYS).result(BOUND_S).step == step
        assert other.latest().step == 3
        hanging.store.go_on()
        for pending in waiting:
            pending.result(BOUND_S)
    for each in stuck:
        each.close()


def test_a_status_is_answered_from_memory_and_names_the_store_that_hangs(hanging):
    with Checkpointer(hanging.address, run="r") as checkpointer:
        checkpointer.save(1, ARRAYS).result()
        assert status_of(hanging).free_bytes > 0
        hanging.store.hang("put r/model.ckpt-2.index")
        hanging.store.is_frozen.set()
        pending = checkpointer.save(2, ARRAYS)
        eventually(
            lambda: (
                [what for run in status_of(hanging).runs for save in run.saves for what in save.waiting_for]
                == ["the store, which puts the index in place"]
            )
        )
        reply = status_of(hanging)
        assert reply.free_bytes > 0
        assert any("hangs: it has not answered for" in warning for warning in reply.warnings)
        hanging.store.is_frozen.clear()
        hanging.store.go_on()
        pending.result(BOUND_S)
        eventually(lambda: not any("hangs" in warning for warning in status_of(hanging).warnings))


def test_a_save_whose_record_the_store_does_not_take_ends_at_its_timeout(hanging):
    with Checkpointer(hanging.address, run="r", timeout_s=6.0) as checkpointer:
        checkpointer.save(1, ARRAYS).result(BOUND_S)
        hanging.store.hang("put r/.ckptd/model.ckpt-2.")
        pending = checkpointer.save(2, ARRAYS)
        with pytest.raises(SessionAbortedError, match="it waited for the store, which notes what is planned") as told:
            pending.result(BOUND_S)
        assert any("not removed yet, as the store does not answer" in note for note in told.value.__notes__)
        hanging.store.go_on()
        eventually(
            lambda: "it waited for the store, which notes what is planned" in status_of(hanging).runs[0].last_error
        )
        assert [each.step for each in checkpointer.checkpoints()] == [1]
        assert checkpointer.save(2, ARRAYS).result(BOUND_S).step == 2


def test_a_status_names_a_bucket_that_does_not_answer(tmp_path):
    store, pools, time_s = MemoryStore(), Pools(control_threads=2, data_threads=2, priority=Priority()), [100.0]
    error: list[CkptdError] = [UnavailableError("nothing came for a while")]

    def stat(key):
        raise error[0]

    store.stat = stat
    facts = StoreFacts(store, pools, now=lambda: time_s[0])
    assert asyncio.run(facts.look())[1] == f"{store.url} hangs: it has not answered for 0 s: nothing came for a while"
    time_s[0] += 65.0
    assert "it has not answered for 65 s" in asyncio.run(facts.look())[1]
    error[0] = NotFoundError("there is no such object")
    assert asyncio.run(facts.look())[1] == ""
    pools.close()


def test_several_that_look_at_once_are_told_the_same(tmp_path):
    pools = Pools(control_threads=1, data_threads=1, priority=Priority())
    facts = StoreFacts(LocalStore(str(tmp_path)), pools)

    async def look():
        return await asyncio.gather(*[facts.look() for _ in range(5)])

    [told] = {(each.write_mode, complaint) for each, complaint in asyncio.run(look())}
    assert told[1] == ""
    pools.close()


def test_readers_of_a_run_that_hangs_leave_streams_to_other_runs(hanging):
    for run in ("stuck", "other"):
        with Checkpointer(hanging.address, run=run) as checkpointer:
            checkpointer.save(1, ARRAYS).result()
    hanging.store.hang("read stuck/")
    with open_channel(addresses.parse(hanging.address)) as channel:
        stub = methods.Stub(channel, methods.READ)
        stuck = read_pb2.ReadRequest(key="stuck/model.ckpt-1.index", size=-1)
        # A call that hangs lasts longer than what is asked beside it may take, on a slow machine too.
        num_taken = Limits().read_streams // 2
        calls = [stub.Read(stuck, timeout=2 * BOUND_S) for _ in range(num_taken)]
        for call in calls:
            next(call)  # it has begun; calls of one channel may arrive in any order, so those that wait come later
        calls += [stub.Read(stuck, timeout=2 * BOUND_S) for _ in range(num_taken + 8)]
        other = read_pb2.ReadRequest(key="other/model.ckpt-1.index", size=-1)
        assert len(list(stub.Read(other, timeout=BOUND_S))) >= 2
        for call in calls:
            call.cancel()
    hanging.store.go_on()
