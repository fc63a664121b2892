"""Ranks, agents, coordinators, cables and stores fail, one at a time, while a save of two hosts goes on.

Each host has a network, a host name and mounts of its own; see `network.py`. One case of each kind is tried at every
run, all of them by ``pytest -s -m campaign tests/faults/hosts``, which prints the table of docs/reliability.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest

from tests.fakes.waiting import eventually
from tests.faults.hosts.cases import CAMPAIGN, STORE_CAMPAIGN, VICTIM, Case, Outcome, Trial
from tests.faults.hosts.stores import Bucket, files_of, listed
from tests.faults.hosts.world import WAIT_S, World
from tests.faults.hosts.worlds import over_bucket, over_directory

LARGE = 3_000_000
"""Numbers of a rank, so many that a host's shard is an upload of several parts."""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def in_directory() -> Iterator[World]:
    """Here nothing waits for a lease to run out, so that it may be longer than a busy machine needs for anything."""
    with over_directory(40.0) as world:
        yield world


@pytest.fixture(scope="module")
def in_bucket(s3_services) -> Iterator[World]:
    """Here leases run out, perhaps also on a busy machine: saves are published, or end by name."""
    with over_bucket(s3_services("seaweedfs"), 8.0) as world:
        yield world


def tried(world: World, case: Case, count: int = 5000) -> Outcome:
    """Carry out a case, and check what always holds."""
    outcome = Trial(world, case).run(count)
    outcome.check_named()
    world.go_well()
    return outcome


def checkpoints_in(world: World) -> dict[str, object]:
    """Return the files of the checkpoints that the state file lists: each has another value when it is rewritten."""
    found = world.shared.found()
    return {name: found[name] for prefix in listed(world.shared) for name in files_of(world.shared, prefix)}


@pytest.mark.parametrize(
    "case",
    [
        Case("rank", "rank.capture", "stop-short"),
        Case("agent", "shard.finish", "kill"),
        Case("agent", "send.PartSealed", "stop-short"),
        Case("agent", "receive.Go", "cut-short"),
        Case("coordinator", "receive.PartSealed", "kill"),
        Case("coordinator", "step.commit.index", "stop-short"),
        Case("coordinator", "send.Go", "cut-short"),
    ],
    ids=str,
)
def test_a_save_goes_on_when_what_failed_is_back_within_its_lease(in_directory, case):
    assert tried(in_directory, case).is_saved


def test_a_rank_that_dies_before_it_declares_is_named(in_directory):
    outcome = tried(in_directory, Case("rank", "rank.begin", "kill"))
    assert all("rank 3" in answer for answer in outcome.answers[:3]), outcome


def test_what_is_sealed_is_not_sent_again_by_a_save_that_the_next_coordinator_goes_on_with(in_directory):
    world = in_directory
    world.agent(VICTIM).arm("shard.finish")
    world.save()
    world.agent(VICTIM).comes_to("shard.finish")
    shard = f"model.ckpt-{world.step}.data-00000-of-00002"
    sealed = eventually(lambda: world.shared.found().get(shard), "the shard of the other host")
    world.coordinator.kill()
    world.start_coordinator()
    world.agent(VICTIM).go_on()
    assert set(world.answers()) == {"saved"}
    assert world.shared.found()[shard] == sealed
    world.check()


def test_ranks_that_come_back_to_a_new_agent_one_by_one_each_declare_again(in_directory):
    world = in_directory
    world.agent(VICTIM).arm("shard.finish")
    world.save()
    world.agent(VICTIM).comes_to("shard.finish")
    last = world.rank(world.ranks_of(VICTIM)[-1])
    last.stop()
    world.agent(VICTIM).kill()
    world.agent(VICTIM).arm("shard.begin.done")
    world.start_agent(VICTIM).comes_to("shard.begin.done")
    world.agent(VICTIM).go_on()
    last.go_on()
    assert set(world.answers()) == {"saved"}
    world.check()


def test_an_agent_that_stays_away_is_named(in_bucket):
    world = in_bucket
    world.agent(VICTIM).arm("receive.Go")
    world.save()
    world.agent(VICTIM).comes_to("receive.Go")
    world.agent(VICTIM).kill()
    answers = world.answers(world.ranks_of("a"))
    assert all(f"agent on {VICTIM} is gone" in answer for answer in answers), answers
    world.heal()
    world.answers(world.ranks_of(VICTIM))
    world.go_well()


@pytest.mark.parametrize(
    "case",
    [
        Case("coordinator", "step.publish.state", "storestop-short"),
        Case("agent", "shard.begin", "storecut-short"),
    ],
    ids=str,
)
def test_a_store_that_fails_loses_nothing(in_bucket, case):
    tried(in_bucket, case, LARGE if case.who == "agent" else 5000)


def test_a_coordinator_that_hung_has_no_effect_when_another_has_the_root(in_bucket):
    world = in_bucket
    zombie = world.coordinator
    zombie.arm("step.commit.index")
    world.save()
    zombie.comes_to("step.commit.index")
    other = world.start_coordinator("l" if zombie.host.name == "k" else "k")
    world.answers()
    world.save()
    world.answers()
    before = checkpoints_in(world)
    zombie.go_on()
    zombie.popen.wait(WAIT_S)  # it finds that it has been replaced, and ends
    assert checkpoints_in(world) == before
    assert other.is_alive
    world.go_well()


def test_what_a_coordinator_that_hung_notes_when_another_has_the_root_is_swept_by_that(in_bucket):
    world = in_bucket
    zombie = world.coordinator
    zombie.arm("step.begin.record")
    world.save()
    zombie.comes_to("step.begin.record")
    other = world.start_coordinator("l" if zombie.host.name == "k" else "k")
    assert set(world.answers()) == {"saved"}
    before = world.records()
    zombie.go_on()  # its request was on its way: it notes a save that nobody knows of
    [late] = eventually(lambda: world.records() - before, zombie.told, within_s=WAIT_S)
    zombie.popen.wait(WAIT_S)
    eventually(lambda: world.shared.get(late) is None or world.is_tombstone(late), other.told, within_s=WAIT_S)
    world.go_well()


def test_of_two_coordinators_the_later_one_has_the_root(in_bucket):
    world = in_bucket
    first = world.coordinator
    second = world.start_coordinator("l" if first.host.name == "k" else "k")
    world.save()
    world.answers()
    first.popen.wait(WAIT_S)
    assert second.is_alive
    world.go_well()


@pytest.mark.campaign  # its ranks notice after 20 s that it does not answer
def test_an_agent_that_hung_has_no_effect_when_its_host_has_another(in_bucket):
    world = in_bucket
    zombie = world.agent(VICTIM)
    zombie.arm("shard.finish")
    world.save()
    zombie.comes_to("shard.finish")
    world.start_agent(VICTIM)
    world.answers()
    before = checkpoints_in(world)
    zombie.go_on()
    eventually(lambda: "another life of the agent" in zombie.told(), zombie.told)
    assert checkpoints_in(world) == before
    zombie.end()
    world.go_well()


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_every_fault_at_every_point_over_a_directory():
    with over_directory(6.0) as world:
        campaign(world, CAMPAIGN)


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("server", ["seaweedfs", "ceph"])
def test_every_fault_at_every_point_over_a_bucket(s3_services, server):
    of_store = [each for each in STORE_CAMPAIGN if server == "seaweedfs" or "storestop" not in each.fault]
    with over_bucket(s3_services(server), 6.0) as world:
        campaign(world, [*of_store, *CAMPAIGN])


def campaign(world: World, cases: Sequence[Case]) -> None:
    """Try all cases, and print what became of each."""
    broken = []
    for number, case in enumerate(cases):
        began_at = time.monotonic()
        try:
            outcome = tried(world, case, LARGE if isinstance(world.shared, Bucket) and number % 4 == 0 else 5000)
        except AssertionError as error:
            broken.append(f"{case}: {str(error)[:2000]}")
            print(f"{case} | BROKEN after {time.monotonic() - began_at:.0f} s: {str(error)[:2000]}", flush=True)
            world.start_anew()
        else:
            told = "saved" if outcome.is_saved else min(set(outcome.answers) - {"saved", ""})
            print(f"{case} | {outcome.after_fault_s:.1f} s, {outcome.after_heal_s:.1f} s | {told}", flush=True)
    assert not broken
