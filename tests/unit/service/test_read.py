from __future__ import annotations

import threading

import numpy as np
import pytest
from click.testing import CliRunner

from ckptd.access.tokens import PREFIX, Token, Tokens, hash_of
from ckptd.cli.status import command as status_command
from ckptd.engine.reading.damage import DamageVerdict
from ckptd.errors import CorruptionError, InvalidRequestError, NotFoundError, UnavailableError
from ckptd.service.gate import Access
from ckptd.wire import convert, methods, status
from ckptd.wire.chunks import CHUNK_BYTES
from ckptd.wire.v1 import admin_pb2, read_pb2, watch_pb2
from tests import seams
from tests.fakes.coordinator import FakeCoordinator, checkpoint
from tests.fakes.waiting import eventually, never
from tests.unit.service.conftest import serving
from tests.unit.service.test_save import SAVE
from tests.unit.service.test_server import WAIT_S, caught

KEY = "runs/a/m-1.data-00000-of-00001"
DATA = np.random.default_rng(2).bytes(2_500_000)


@pytest.fixture
def stored(served):
    served.coordinator.store.put(KEY, DATA)
    yield served
    served.coordinator.store.delete([KEY])


def read(served, key=KEY, offset=0, size=-1):
    return served.stub(methods.READ).Read(read_pb2.ReadRequest(key=key, offset=offset, size=size), timeout=WAIT_S)


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, -1), (0, 1), (7, CHUNK_BYTES), (1, CHUNK_BYTES + 1), (2_499_999, 1), (2_500_000, -1), (5, 0)],
)
def test_a_byte_range_arrives_after_the_object_s_description(stored, offset, size):
    described, *blocks = read(stored, offset=offset, size=size)
    assert set(stored.coordinator.read_keys) == {KEY}
    stat = stored.coordinator.store.stat(KEY)
    assert (described.object_size, described.version) == (len(DATA), stat.version)
    wanted = DATA[offset:] if size == -1 else DATA[offset : offset + size]
    assert b"".join(blocks) == wanted
    assert all(isinstance(block, memoryview) and len(block) <= CHUNK_BYTES for block in blocks)


@pytest.fixture
def long(served):
    """An object of 41 messages."""
    data = np.random.default_rng(3).bytes(40 * CHUNK_BYTES + 1)
    served.coordinator.store.put(KEY, data)
    yield data
    served.coordinator.store.delete([KEY])


def test_what_is_read_ahead_arrives_in_its_order(served, long):
    _, *blocks = read(served)
    assert b"".join(blocks) == long
    assert len(blocks) == 41


def test_of_what_nobody_takes_little_is_read_ahead(served, long):
    replies = read(served)
    next(replies)  # the description
    noted = served.coordinator.read_keys
    eventually(lambda: len(noted) > 1)
    never(lambda: len(noted) > 10, "reading far ahead", within_s=0.5)  # of 22: one for the call, one for each read
    replies.cancel()


@pytest.mark.parametrize(("offset", "size"), [(2_499_999, 2), (2_500_001, -1), (1 << 62, 1), (0, 2_500_001)])
def test_a_range_beyond_the_end_is_corruption_of_that_object(stored, offset, size):
    error = caught(lambda: list(read(stored, offset=offset, size=size)))
    assert isinstance(error, CorruptionError)
    assert error.key == KEY


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0, -2)])
def test_a_negative_range_is_refused(stored, offset, size):
    assert isinstance(caught(lambda: list(read(stored, offset=offset, size=size))), InvalidRequestError)


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", ".ckptd/id", "runs/a/.ckptd/m-1.s.json", "runs//a", ""])
def test_only_objects_of_runs_may_be_read(stored, key):
    assert isinstance(caught(lambda: list(read(stored, key=key))), InvalidRequestError)


def test_what_is_not_there_is_not_found(served):
    assert isinstance(caught(lambda: list(read(served))), NotFoundError)


def test_latest_and_list_name_the_root(served):
    stub = served.stub(methods.READ)
    empty = stub.Latest(read_pb2.LatestRequest(run="runs/a"), timeout=WAIT_S)
    assert not empty.HasField("checkpoint")
    assert (empty.root, empty.root_id) == ("memory://fake", "the-root")
    served.coordinator.publish("runs/a", checkpoint(3))
    latest = stub.Latest(read_pb2.LatestRequest(run="runs/a"), timeout=WAIT_S).checkpoint
    assert convert.checkpoint_from_wire(latest) == checkpoint(3)
    (listed,) = stub.List(read_pb2.ListRequest(run="runs/a"), timeout=WAIT_S).checkpoints
    assert listed == latest


def watch(served, **fields):
    return served.stub(methods.WATCH).Watch(watch_pb2.WatchRequest(run="runs/a", **fields), timeout=WAIT_S)


def test_a_watcher_hears_the_newest_and_then_each_newer_one(served):
    served.coordinator.publish("runs/a", checkpoint(1))
    events = watch(served)
    assert next(events).checkpoint.step == 1
    for step in (5, 2):  # a run that was set back saves lower steps again
        served.coordinator.publish("runs/a", checkpoint(step))
        assert next(events).checkpoint.step == step
    events.cancel()


def test_a_watcher_that_comes_back_is_not_told_what_it_knows(served):
    served.coordinator.publish("runs/a", checkpoint(1))
    events = watch(served, after_save_id="s1")
    other = watch(served)
    next(other)
    eventually(lambda: len(served.coordinator.listeners["runs/a"]) == 2)
    served.coordinator.publish("runs/a", checkpoint(2))
    assert next(events).checkpoint.step == 2
    events.cancel()
    other.cancel()


def test_watchers_that_go_are_forgotten_and_the_rest_is_told_of_the_end():
    with serving() as served:
        served.coordinator.publish("runs/a", checkpoint(1))
        stays, goes = watch(served), watch(served)
        next(stays)
        next(goes)
        assert served.server.hub.num_watchers == 2
        goes.cancel()
        eventually(lambda: served.server.hub.num_watchers == 1)
        assert len(served.coordinator.listeners["runs/a"]) == 1
        served.stop()
        assert isinstance(caught(lambda: next(stays)), UnavailableError)


def test_status_shows_runs_and_whom_a_save_waits_for(served):
    served.coordinator.join("runs/a", type("M", (), {"rank": 0, "world_size": 2, "incarnation": "i"})(), None)
    served.coordinator.publish("runs/a", checkpoint(1))
    served.coordinator.plan(SAVE)
    reply = served.stub(methods.ADMIN).Status(admin_pb2.StatusRequest(), timeout=WAIT_S)
    (run,) = reply.runs
    assert (run.run, run.epoch, run.world_size, list(run.connected_ranks)) == ("runs/a", 7, 2, [0])
    assert run.latest.step == 1
    (save,) = run.saves
    assert (save.phase, save.size_bytes, save.received_bytes) == ("filling", 100, 40)
    assert save.crossing_bytes == 88
    assert list(save.waiting_for) == ["rank 1 of 2: 60 B of 100 B"]
    assert list(save.needed_ranks) == [1]
    assert reply.free_bytes == -1
    assert not reply.draining
    told = CliRunner().invoke(status_command, [served.listening[0]])
    assert "runs/a: 88% of the bytes of step 1 cross hosts" in told.output


def test_operators_pin_and_delete(served):
    served.coordinator.publish("runs/a", checkpoint(4))
    stub = served.stub(methods.ADMIN)
    for pinned in (True, False):
        reply = stub.Pin(admin_pb2.PinRequest(run="runs/a", step=4, pinned=pinned), timeout=WAIT_S)
        assert reply.checkpoint.pinned is pinned
    assert served.coordinator.pinned == [("runs/a", 4, True), ("runs/a", 4, False)]
    error = caught(lambda: stub.Delete(admin_pb2.DeleteRequest(run="runs/a", step=9), timeout=WAIT_S))
    assert isinstance(error, NotFoundError)
    assert isinstance(
        caught(lambda: stub.Delete(admin_pb2.DeleteRequest(run="runs/a", step=-1), timeout=WAIT_S)), InvalidRequestError
    )


def test_an_identity_that_lets_much_be_read_again_waits_for_itself_alone(monkeypatch):
    seams.MOST_DAMAGE_CHECKS.put(monkeypatch, 2)
    coordinator, go_on = FakeCoordinator(), threading.Event()

    def in_catalog(run, work):
        assert run == "honest" or go_on.wait(WAIT_S)
        return DamageVerdict(is_confirmed=False, reason="")

    coordinator.in_catalog = in_catalog
    names = ("flood", "honest")
    known = Tokens({name: Token(name, hash_of(f"{PREFIX}{name}"), 0.0) for name in names})
    with serving(coordinator, access=Access(tokens=known)) as served:
        check, other = (served.stub(methods.READ, token=f"{PREFIX}{name}").CheckDamage for name in names)
        flood = [check.future(read_pb2.CheckDamageRequest(run=f"r/{n}", key="r/m-1"), timeout=WAIT_S) for n in range(3)]
        [refused] = eventually(lambda: [each for each in flood if each.done()])
        assert "token:flood has 2 readings of damage under way" in str(status.from_wire(refused.exception()))
        assert not other(read_pb2.CheckDamageRequest(run="honest", key="honest/m-1"), timeout=WAIT_S).confirmed
        go_on.set()
        assert not any(each.result().confirmed for each in flood if each is not refused)
