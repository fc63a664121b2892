"""A save into shared memory is declared over the socket that lends it, and not once more over gRPC."""

from __future__ import annotations

import numpy as np
import pytest

import ckptd
from ckptd.engine.settings import Settings
from ckptd.errors import NotFoundError, SessionAbortedError
from ckptd.wire import versions
from tests import seams
from tests.unit.client.served import BOUND_S, Daemon

pytestmark = pytest.mark.usefixtures("memory_is_waited_for")

ARRAYS = {"w": np.arange(10_000.0), "words": ["a", "bc"]}


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path / "root", arena_bytes=64 << 20, lease_s=1.0, declare_timeout_s=60.0)
    yield daemon
    daemon.stop()


@pytest.fixture
def heard(monkeypatch):
    """What the daemon is told over gRPC of a save before its plan."""
    calls = []
    declare, await_plan = seams.SERVE_DECLARE.value, seams.SERVE_AWAIT_PLAN.value

    async def noting_declare(service, request, call):
        calls.append("Declare")
        await declare(service, request, call)

    async def noting_await(service, request, call):
        calls.append("AwaitPlan")
        await await_plan(service, request, call)

    seams.SERVE_DECLARE.put(monkeypatch, noting_declare)
    seams.SERVE_AWAIT_PLAN.put(monkeypatch, noting_await)
    return calls


def connect(daemon, rank=0, world_size=1, **options):
    return ckptd.Checkpointer(daemon.address, run="r", rank=rank, world_size=world_size, timeout_s=BOUND_S, **options)


def test_what_is_declared_over_shared_memory_is_declared_once(heard, daemon):
    with connect(daemon) as ckpt:
        for step in (1, 2, 3):
            ckpt.save(step, ARRAYS, meta_graph=b"graph").result(BOUND_S)
            assert ckpt.meta_graph(step) == b"graph"
    assert heard == ["AwaitPlan"] * 3
    assert ckptd.verify(daemon.root / "r").ok


def test_what_is_sent_is_declared_over_grpc(heard, daemon, monkeypatch):
    monkeypatch.setenv("CKPTD_TRANSPORT", "stream")
    with connect(daemon) as ckpt:
        ckpt.save(1, ARRAYS).result(BOUND_S)
    assert set(heard) == {"Declare"}  # again with the manifest, which it did not know


def test_differences_between_ranks_are_told_as_before(heard, daemon, caplog):
    with connect(daemon, 0, 2) as zero, connect(daemon, 1, 2) as one:
        pending = [each.save(1, {"same": np.float64(rank)}) for rank, each in enumerate((zero, one))]
        for each in pending:
            each.result(BOUND_S)
    assert heard == ["AwaitPlan"] * 2
    told = [record.message for record in caplog.records if record.name == "ckptd.client"]
    assert any("'same' is 0.0 on rank 0, 1.0 on rank 1" in line for line in told)


def test_the_end_of_a_save_that_is_never_planned_is_told_as_before(heard, daemon):
    daemon.stop()
    daemon.settings = Settings(declare_timeout_s=1.0)
    daemon.start()
    with connect(daemon, 0, 2) as ckpt:
        failure = ckpt.save(1, ARRAYS).exception(BOUND_S)
    assert isinstance(failure, SessionAbortedError)
    assert "rank 1 of 2 has not declared" in str(failure)
    assert heard == ["AwaitPlan"]


def test_an_older_daemon_hears_the_declaration_again_and_so_does_a_newer_one_from_an_older_client(
    heard, daemon, monkeypatch
):
    """Neither end says or believes that plans can be awaited: what is said then is what the version before said."""
    older = tuple(name for name in versions.CAPABILITIES if name != versions.AWAIT_PLAN)
    seams.OFFERED_CAPABILITIES.put(monkeypatch, older)
    daemon.stop()
    daemon.start()
    with connect(daemon) as ckpt:
        for step in (1, 2):
            ckpt.save(step, ARRAYS).result(BOUND_S)
    assert heard == ["Declare"] * 2
    assert ckptd.verify(daemon.root / "r").ok


def test_what_the_daemon_has_forgotten_is_declared_in_full(heard, daemon, monkeypatch):
    async def forgotten(service, request, call):
        raise NotFoundError("no trace of it")

    seams.SERVE_AWAIT_PLAN.put(monkeypatch, forgotten)
    daemon.stop()
    daemon.start()
    with connect(daemon) as ckpt:
        ckpt.save(1, ARRAYS).result(BOUND_S)
    assert heard == ["Declare"]
    assert ckptd.verify(daemon.root / "r").ok
