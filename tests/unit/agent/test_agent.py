"""An agent behind its server, with a coordinator behind another: what it passes on, and what it says of the rest."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import grpc
import numpy as np
import pytest

import ckptd
from ckptd.engine.identity import Member, RunOptions, SaveRef
from ckptd.errors import ConflictError, NotFoundError, SessionAbortedError, UnavailableError
from ckptd.wire import methods, status
from ckptd.wire.convert import MAX_META_GRAPH_BYTES
from ckptd.wire.v1 import admin_pb2, read_pb2
from tests.fakes.served_hosts import WAIT_S, served_hosts
from tests.fakes.waiting import eventually

W = {"w": np.arange(1000.0)}


@pytest.fixture
def hosts():
    with tempfile.TemporaryDirectory(prefix="ckptd-") as base, served_hosts(Path(base), ["a"]) as running:
        yield running


def save(ckpt, step):
    return ckpt.save(step, W).result(WAIT_S)


def retired(hosts, checkpoint):
    """Wait until retention has done what it does because of a save, as the agent tells."""
    save = SaveRef("r", 0, checkpoint.step, checkpoint.save_id, incarnation="anyone")
    hosts.agents["a"].engine.retired(save).result(WAIT_S)


def test_what_is_read_through_an_agent_is_not_deleted_and_what_is_not_read_is(hosts):
    agent, coordinator, run = hosts.agents["a"], hosts.coordinator.engine, hosts.base / "root" / "r"
    with ckptd.Checkpointer(agent.address, "r", max_to_keep=1, timeout_s=WAIT_S) as ckpt:
        save(ckpt, 1)
        request = read_pb2.ReadRequest(key="r/model.ckpt-1.index", size=-1)
        assert list(agent.stub(methods.READ).Read(request, timeout=WAIT_S))
        eventually(lambda: coordinator.in_catalog("r", lambda stored: stored.in_use()), "the reader", within_s=WAIT_S)
        retired(hosts, save(ckpt, 2))
        assert (run / "model.ckpt-1.index").exists()
        retired(hosts, save(ckpt, 3))
        assert (run / "model.ckpt-1.index").exists()
        assert not (run / "model.ckpt-2.index").exists()


def test_ranks_of_a_host_that_say_more_together_than_a_message_holds_save_together(hosts):
    address, graph = hosts.agents["a"].address, bytes(MAX_META_GRAPH_BYTES - 1)
    with contextlib.ExitStack() as stack:
        ranks = [
            stack.enter_context(ckptd.Checkpointer(address, "r", rank=rank, world_size=2, timeout_s=WAIT_S))
            for rank in range(2)
        ]
        for step in (1, 2):
            pending = [rank.save(step, {f"w{at}": W["w"]}, meta_graph=graph) for at, rank in enumerate(ranks)]
            saved = [each.result(WAIT_S) for each in pending]
            assert saved[0] == saved[1]
    assert (hosts.base / "root/r/model.ckpt-2.meta").stat().st_size == len(graph)


def test_an_agent_says_where_members_are_evicted_and_runs_repaired(hosts):
    admin = hosts.agents["a"].stub(methods.ADMIN)
    for call, request, command in (
        (admin.Evict, admin_pb2.EvictRequest(run="r"), "ckptd evict"),
        (admin.Repair, admin_pb2.RepairRequest(run="r"), "ckptd repair"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call(request, timeout=WAIT_S)
        told = str(status.from_wire(refused.value, address="here"))
        assert f"`{command} … --address {hosts.coordinator.address}`" in told


def test_what_the_coordinator_refuses_is_told_as_it_was_there(hosts):
    admin = hosts.agents["a"].stub(methods.ADMIN)
    with ckptd.Checkpointer(hosts.agents["a"].address, "r", timeout_s=WAIT_S) as ckpt:
        save(ckpt, 1)
    for request, error in (
        (admin_pb2.PinRequest(run="r", step=7, pinned=True), NotFoundError),
        (admin_pb2.PinRequest(run="nothing/there", step=7, pinned=True), NotFoundError),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            admin.Pin(request, timeout=WAIT_S)
        assert isinstance(status.from_wire(refused.value, address="here"), error)
    with pytest.raises(grpc.RpcError) as refused:
        admin.Delete(admin_pb2.DeleteRequest(run="r", step=1), timeout=WAIT_S)
    told = status.from_wire(refused.value, address="here")
    assert isinstance(told, ConflictError)
    assert "latest" in str(told)


def test_ranks_of_an_agent_that_another_of_its_name_has_replaced_are_told_so_at_once(hosts):
    first = hosts.agents["a"]
    with (
        ckptd.Checkpointer(first.address, "r", rank=0, world_size=2, timeout_s=WAIT_S) as rank,
        ckptd.Checkpointer(first.address, "r", rank=1, world_size=2, timeout_s=WAIT_S),
    ):
        waiting = rank.save(1, W)
        eventually(lambda: first.engine.saves_of("r").views(), "the save", within_s=WAIT_S)
        hosts.start("a", "another")
        with pytest.raises(UnavailableError, match="cannot tell whether .* was saved: another agent of a has attended"):
            waiting.result(WAIT_S)
        with pytest.raises(SessionAbortedError, match="step 2 .* another agent of a has attended since"):
            rank.save(2, W).result(WAIT_S)


def test_ranks_whose_calls_come_after_the_agents_end_are_told_to_repeat_them_and_those_that_go_are_no_error(hosts):
    agent = hosts.agents["a"].engine
    member = Member(0, 1, "r0", "a")
    epoch = agent.join("r", member, RunOptions())
    assert agent.close()
    with pytest.raises(UnavailableError, match="the agent on a ends"):
        agent.withdraw(SaveRef("r", epoch, 1, rank=0, incarnation="r0"), "q1", "it raised", "ValueError")
    assert agent.disconnect("r", member, epoch) is None
