"""A save whose shards agents on three hosts write: receipts commit it, and only those that count."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from ckptd.engine.catalog import records
from ckptd.engine.hosts.messages import AgentLife
from ckptd.engine.lanes.plan import plan
from ckptd.engine.layout import Assignment
from ckptd.engine.reading.bundle import Bundle
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.saves.session import Phase
from ckptd.errors import ConflictError, NotFoundError, SessionAbortedError
from ckptd.storage.memory import MemoryStore
from tests.fakes.agents import RUN, WAIT_S, HostJob
from tests.fakes.clock import HandClock
from tests.fakes.ranks import six_on_three_hosts


@pytest.fixture
def job() -> Iterator[HostJob]:
    coordinator = Coordinator(MemoryStore(), clock=HandClock())
    coordinator.open()
    yield HostJob(coordinator, *six_on_three_hosts())
    coordinator.close()


def owed(job: HostJob) -> list[int | None]:
    saves = job.coordinator.saves_of(RUN)
    assert saves is not None
    return list(saves.owed_bytes().values())


def test_receipts_of_all_hosts_commit_a_checkpoint_that_reads_back(job, caplog):
    caplog.set_level(logging.INFO, "ckptd")
    planned = job.planned(5)
    size = plan(job.ranks.manifests, 1, hosts=job.hosts).size_bytes
    assert planned.num_shards == 3
    [view] = job.coordinator.runs()[0].saves
    assert 0 < view.crossing_bytes < view.size_bytes
    for host in "abc":
        assert job.coordinator.phase(planned.save) is Phase.FILLING
        receipt = job.write(planned, host)
        for _ in range(2):
            job.coordinator.agents.take(planned.save, receipt)
    checkpoint = job.coordinator.outcome(planned.save).result(WAIT_S)
    assert (checkpoint.num_shards, checkpoint.size_bytes) == (3, size)
    bundle = Bundle.open(job.coordinator.store, f"{RUN}/model.ckpt-5")
    for name, array in job.ranks.arrays.items():
        assert np.array_equal(bundle.read(name), array), name
    job.coordinator.agents.take(planned.save, receipt)  # late: it is published
    assert "% of its bytes cross hosts" in caplog.text


def test_what_a_host_owes_is_told_by_its_agent(job):
    planned = job.planned(5)
    [before] = owed(job)
    agents, life = job.coordinator.agents, job.lives["b"]
    agents.progress(planned.save, life, 0)
    [after] = owed(job)
    assert 0 < after < before
    agents.begins_anew(planned.save, life)
    assert owed(job) == [before]


def test_a_rank_whose_part_is_in_its_hosts_memory_may_go(job):
    planned = job.planned(5)
    agents = job.coordinator.agents
    for host in "ab":
        agents.captured(planned.save, job.lives[host], job.ranks_of(host))
    job.coordinator.leave(RUN, job.members[0], job.epoch)
    assert job.coordinator.phase(planned.save) is Phase.FILLING
    job.coordinator.leave(RUN, job.members[4], job.epoch)
    with pytest.raises(SessionAbortedError, match="rank 4 of 6 .*still owed"):
        job.coordinator.outcome(planned.save).result(WAIT_S)


def test_a_rank_of_an_agents_host_is_told_no_lanes_as_its_agent_is_told_what_to_write(job):
    for rank, declared in enumerate(job.declare(5)):
        assignment = declared.result(WAIT_S)
        assert (assignment.save.rank, assignment.save.incarnation) == (rank, job.members[rank].incarnation)
        assert assignment.num_shards == 3
        assert not assignment.lanes


def test_a_host_that_is_lost_before_its_parts_for_others_arrived_ends_the_save(job):
    planned = job.planned(5)
    agents = job.coordinator.agents
    layout, ranks = agents.layout_of(planned.save), agents.guests_of(planned.save)
    assert {rank: guest.host for rank, guest in ranks.items()} == dict(enumerate(job.hosts))
    agents.take(planned.save, job.write(planned, "c"))
    agents.gone = lambda: {"c": 3.0}
    job.coordinator.tick()
    with pytest.raises(SessionAbortedError, match=r"the agent on c is gone 3 s; ranks 4-5 owed \d"):
        job.coordinator.outcome(planned.save).result(WAIT_S)
    assert {layout.host_of(shard) for rank in job.ranks_of("c") for shard in layout.shards_of[rank]} > {"c"}


def test_a_host_whose_parts_for_others_arrived_may_go(job):
    planned = job.planned(5)
    agents = job.coordinator.agents
    agents.take(planned.save, job.write(planned, "c"))
    for host in "ab":  # they tell what they have of other hosts' ranks
        agents.progress(planned.save, job.lives[host], 0, [(rank, 0) for rank in range(6)])
    agents.gone = lambda: {"c": 3.0}
    job.coordinator.tick()
    assert job.coordinator.phase(planned.save) is Phase.FILLING


def test_a_former_life_of_an_agent_has_no_effect(job):
    planned = job.planned(5)
    receipt = job.write(planned, "a")
    job.lives["a"] = AgentLife("a", "a-2")
    agents = job.coordinator.agents
    for tell in (
        lambda: agents.take(planned.save, receipt),
        lambda: agents.failed(planned.save, receipt.by, "it is confused"),
        lambda: agents.captured(planned.save, receipt.by, [0, 1]),
    ):
        with pytest.raises(ConflictError, match="a former life of the agent on a is not believed"):
            tell()
    assert job.coordinator.phase(planned.save) is Phase.FILLING
    agents.take(planned.save, replace(receipt, by=job.lives["a"]))


def test_a_receipt_for_another_hosts_shard_does_not_count(job):
    planned = job.planned(5)
    receipt = job.write(planned, "a")
    for shard, host in ((1, "a"), (0, "b"), (7, "a")):
        with pytest.raises(NotFoundError, match="is not for the agent on"):
            job.coordinator.agents.take(planned.save, replace(receipt, shard=shard, by=job.lives[host]))
    with pytest.raises(NotFoundError, match="host 'd' writes no shard"):
        job.coordinator.agents.share(planned.save, "d")


def test_what_an_agent_gives_up_ends_the_save_and_its_shards_are_gone(job):
    planned = job.planned(5)
    receipt = job.write(planned, "a")
    agents = job.coordinator.agents
    agents.take(planned.save, receipt)
    agents.failed(planned.save, job.lives["b"], "rank 3 is gone")
    with pytest.raises(SessionAbortedError, match="the agent on b gave up: rank 3 is gone"):
        job.coordinator.outcome(planned.save).result(WAIT_S)
    with pytest.raises(SessionAbortedError):
        agents.take(planned.save, receipt)
    assert [stat.key for stat in job.coordinator.store.list(RUN) if ".data-" in stat.key] == []


def test_an_aborted_attempts_number_stays_taken_until_every_writer_knows_its_end(job):
    agents, store = job.coordinator.agents, job.coordinator.store
    agents.term = 4
    planned = job.planned(5)
    [record] = records.load(store, RUN).found
    layout = plan(job.ranks.manifests, 1, hosts=job.hosts)
    assert (record.writers, record.term, record.layout_digest) == (("a", "b", "c"), 4, layout.digest.hex())
    agents.failed(planned.save, job.lives["b"], "rank 3 is gone")
    with pytest.raises(SessionAbortedError):
        job.coordinator.outcome(planned.save).result(WAIT_S)
    again = job.declare(5, attempt=2)[0].result(WAIT_S)
    assert isinstance(again, Assignment)
    assert again.num_shards == 4
    for host in "abc":
        assert len(records.load(store, RUN).found) == 2
        agents.heard_end(planned.save, job.lives[host])
    assert [each.save_id for each in records.load(store, RUN).found] == [again.save.save_id]
    for host in "abc":
        agents.take(again.save, job.write(again, host))
    assert job.coordinator.outcome(again.save).result(WAIT_S).num_shards == 4


def test_ranks_without_an_agent_send_to_the_coordinator_and_to_nothing_else(job):
    for rank in (4, 5):
        job.members[rank] = replace(job.members[rank], host="")
    job.hosts[4:] = ["", ""]
    planned = job.planned(5)
    for host in "ab":
        job.coordinator.agents.take(planned.save, job.write(planned, host))
    layout = plan(job.ranks.manifests, 1, hosts=job.hosts)
    assert {layout.shard_hosts[shard] for rank in (4, 5) for shard in layout.shards_of[rank]} == {""}
    job.send(planned, 2)
    assert job.coordinator.outcome(planned.save).result(WAIT_S).num_shards == 3
