"""Jobs on several hosts, each with its agent: in which order ranks come, go, move and come again."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from ckptd.engine.identity import SaveRef
from ckptd.errors import ConflictError, SessionAbortedError, UnavailableError
from tests.fakes.job import Rank
from tests.fakes.served_hosts import WAIT_S, served_hosts
from tests.fakes.waiting import eventually

RUN = "runs/r"


@pytest.fixture
def hosts():
    with tempfile.TemporaryDirectory(prefix="ckptd-") as base, served_hosts(Path(base), ["a", "b"]) as running:
        yield running


def job(hosts, where, *, run=RUN, life="x"):
    """Let ranks join, each by the agent of a host: "aab" are ranks 0 and 1 on a, and 2 on b."""
    engines = [hosts.agents[host].engine for host in where]
    return [Rank(engine, rank, len(where), life=life, run=run).join() for rank, engine in enumerate(engines)]


def leave(ranks):
    for rank in ranks:
        rank.coordinator.leave(rank.run, rank.member, rank.epoch)


def saved(ranks, step):
    """Let all ranks save a step, the last first; return the checkpoint."""
    for rank in reversed(ranks):
        rank.declare(step)
    for rank in ranks:
        rank.send(step)
    return ranks[0].outcome(step)


def waiting_for(hosts, run=RUN):
    views = [view for view in hosts.coordinator.engine.runs() if view.run == run]
    return "; ".join(what for view in views for save in view.saves for what in save.waiting_for)


def written_by(hosts, checkpoint, run=RUN):
    """How many shards a checkpoint has, one for each host that has bytes."""
    return len(list((hosts.base / "root" / run).glob(f"{checkpoint.prefix.rpartition('/')[2]}.data-*")))


def ended(rank, step):
    with pytest.raises(SessionAbortedError) as error:
        rank.planned[step].result(WAIT_S)
    return str(error.value)


def test_the_rank_that_all_wait_for_is_named_and_not_those_of_its_host(hosts):
    ranks = job(hosts, "aabb")
    for rank in ranks[:3]:
        rank.declare(1)
    eventually(lambda: waiting_for(hosts).startswith("rank 3 of 4 to declare"), lambda: waiting_for(hosts))
    assert "by the agent on b" in waiting_for(hosts)
    ranks[3].declare(1)
    for rank in ranks:
        rank.send(1)
    assert written_by(hosts, ranks[0].outcome(1)) == 2


def test_a_rank_that_leaves_before_it_has_declared_ends_the_save_on_all_hosts(hosts):
    ranks = job(hosts, "aabb")
    for rank in ranks[:3]:
        rank.declare(1)
    eventually(lambda: waiting_for(hosts).startswith("rank 3"), lambda: waiting_for(hosts))
    leave(ranks[3:])
    assert all("rank 3 of 4 (pid 1003 on here) is gone" in ended(rank, 1) for rank in ranks[:3])


def test_what_a_rank_gives_up_ends_the_save_on_all_hosts_and_can_be_saved_again(hosts):
    ranks = job(hosts, "aab")
    for rank in ranks[:2]:
        rank.declare(1)
    eventually(lambda: waiting_for(hosts).startswith("rank 2"), lambda: waiting_for(hosts))
    ref = SaveRef(RUN, ranks[1].epoch, 1, rank=1, incarnation=ranks[1].member.incarnation)
    ranks[1].coordinator.withdraw(ref, f"{ranks[1].member.incarnation}-1", "out of memory", "model.ckpt")
    assert "rank 1 gave up: out of memory" in ended(ranks[0], 1)
    ranks[2].declare(1)  # late: it hears of that end
    assert "rank 1 gave up: out of memory" in ended(ranks[2], 1)
    assert saved(ranks, 1).step == 1


def test_what_a_rank_gives_up_before_it_has_declared_is_told_to_the_others(hosts):
    ranks = job(hosts, "aab")
    ranks[0].declare(1)
    ranks[2].declare(1)
    eventually(lambda: waiting_for(hosts).startswith("rank 1 of 3"), lambda: waiting_for(hosts))
    ref = SaveRef(RUN, ranks[1].epoch, 1, rank=1, incarnation=ranks[1].member.incarnation)
    ranks[1].coordinator.withdraw(ref, "never-declared", "it was interrupted", "model.ckpt")
    for rank in (ranks[0], ranks[2]):
        assert "rank 1 gave up: it was interrupted" in ended(rank, 1)


def test_a_new_job_of_another_size_on_other_hosts_follows_the_old_one(hosts):
    ranks = job(hosts, "aabb")
    first = saved(ranks, 1)
    leave(ranks)
    ranks = job(hosts, "bab", life="y")  # also: rank 0 has moved
    second = saved(ranks, 2)
    leave(ranks)
    third = saved(job(hosts, "b", life="z"), 3)
    assert [written_by(hosts, each) for each in (first, second, third)] == [2, 2, 1]
    assert [each.step for each in hosts.coordinator.engine.checkpoints(RUN)] == [1, 2, 3]


def test_a_place_that_a_rank_of_another_host_holds_is_not_given_away(hosts):
    ranks = job(hosts, "ab")
    with pytest.raises(ConflictError, match="the run is in use"):
        Rank(hosts.agents["b"].engine, 0, 2, life="y").join()
    assert saved(ranks, 1).step == 1


def test_two_runs_on_the_same_agents_do_not_disturb_each_other(hosts):
    ranks, others = job(hosts, "ab"), job(hosts, "ba", run="runs/s")
    for rank in (*ranks, others[0]):
        rank.declare(1)
    for rank in ranks:
        rank.send(1)
    assert ranks[0].outcome(1).step == 1
    leave(others[1:])
    assert "rank 1 of 2" in ended(others[0], 1)
    assert saved(ranks, 2).step == 2


def test_a_request_that_is_repeated_while_the_coordinator_is_away_is_one_save(hosts):
    ranks = job(hosts, "ab")
    ranks[0].declare(1)
    eventually(lambda: waiting_for(hosts).startswith("rank 1"), lambda: waiting_for(hosts))
    hosts.coordinator.cut()
    again = ranks[0].declare(1, again=True)
    ranks[1].declare(1)
    ranks[1].declare(1, again=True)
    hosts.coordinator.mend()
    for rank in ranks:
        rank.send(1)
    assert ranks[0].outcome(1).num_shards == 2
    assert again.result(WAIT_S) == ranks[0].assignment(1)


def test_steps_that_overlap_are_published_in_their_order(hosts):
    ranks = job(hosts, "ab")
    for step in (1, 2):
        for rank in ranks:
            rank.declare(step)
    for step in (2, 1):
        for rank in ranks:
            rank.send(step)
    assert [ranks[1].outcome(step).step for step in (1, 2)] == [1, 2]
    assert hosts.coordinator.engine.latest(RUN).step == 2


def test_an_agent_that_stops_ends_what_it_has_not_written_by_name(hosts):
    ranks = job(hosts, "aab")
    for rank in ranks[:2]:
        rank.declare(1)
    ranks[2].declare(1)
    ranks[2].assignment(1)
    hosts.stop("b")
    with pytest.raises(SessionAbortedError, match="the agent on b gave up: the agent is stopping"):
        ranks[0].outcome(1)


def test_a_rank_that_leaves_while_the_coordinator_is_away_has_gone_when_that_is_back(hosts):
    ranks = job(hosts, "ab")
    hosts.coordinator.cut()
    leave(ranks[1:])
    hosts.coordinator.mend()

    def replaced():
        try:
            return Rank(hosts.agents["a"].engine, 1, 2, life="y").join()
        except (ConflictError, UnavailableError):
            return None

    assert saved([ranks[0], eventually(replaced, "a free place")], 1).num_shards == 1
