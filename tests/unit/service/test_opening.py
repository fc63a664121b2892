"""A run whose store does not answer holds up the calls about it, and no others."""

from __future__ import annotations

import grpc
import pytest

from ckptd.engine.saves.coordinator import Coordinator
from ckptd.errors import UnavailableError
from ckptd.wire import methods, status
from ckptd.wire.v1 import read_pb2
from tests import seams
from tests.unit.engine.saves.test_runs import SlowRun
from tests.unit.service.conftest import serving

WAIT_S = 60.0
MORE_THAN_THREADS = 40


@pytest.fixture
def slow():
    """A server over a store in which one run cannot be looked at."""
    store = SlowRun()
    coordinator = Coordinator(store)
    coordinator.open()
    with serving(coordinator) as running:
        yield store, running.stub(methods.READ)
        store.go_on.set()
    coordinator.close()


def latest(read, run):
    return read.Latest.future(read_pb2.LatestRequest(run=run), timeout=WAIT_S)


def test_calls_about_a_slow_run_hold_no_thread_that_others_need(slow):
    store, read = slow
    waiting = [latest(read, "slow/run") for _ in range(MORE_THAN_THREADS)]
    assert store.reached.wait(WAIT_S)
    for number in range(5):
        assert not latest(read, f"quick/{number}").result(WAIT_S).HasField("checkpoint")
    assert not any(call.done() for call in waiting)
    store.go_on.set()
    assert not any(call.result(WAIT_S).HasField("checkpoint") for call in waiting)


def test_who_waits_too_long_is_told_why(slow, monkeypatch):
    seams.SERVED_OPENING_S.put(monkeypatch, 0.1)
    _, read = slow
    with pytest.raises(grpc.RpcError) as refused:
        latest(read, "slow/run").result(WAIT_S)
    error = status.from_wire(refused.value)
    assert isinstance(error, UnavailableError)
    assert "'slow/run' is still being opened after 0.1 s" in str(error)
