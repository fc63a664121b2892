"""Each rule that keeps hosts from harming each other is taken out of all processes: then something is seen to go wrong.

The same is carried out with the rule in place first, and all is well.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.faults.hosts.cases import VICTIM, Case, Trial, pause
from tests.faults.hosts.world import World
from tests.faults.hosts.worlds import over_bucket

PATIENCE_S = 40.0
LARGE = 3_000_000

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1800)]


def hung_agent_finishes_a_shard_of_an_aborted_save(world: World) -> None:
    """Nothing of it may stay."""
    Trial(world, Case("agent", "shard.finish", "stop-long")).run()
    world.go_well()


def coordinator_is_restarted_while_an_agent_uploads(world: World) -> None:
    """The save goes on."""
    world.agent(VICTIM).arm("shard.finish")
    world.save(LARGE)
    world.agent(VICTIM).comes_to("shard.finish")
    world.coordinator.kill()
    world.start_coordinator(world.coordinator.host.name)
    pause(world.lease_s / 4)
    world.agent(VICTIM).go_on()
    assert set(answers := world.answers()) == {"saved"}, answers
    world.go_well()


RULES = [
    ("tombstones", "", hung_agent_finishes_a_shard_of_an_aborted_save),
    ("spare", "age", coordinator_is_restarted_while_an_agent_uploads),
]
"""The rule, others that would hide that it is gone, and what is tried."""


@pytest.mark.parametrize(("rule", "others", "try_it"), RULES, ids=[rule for rule, _, _ in RULES])
def test_without_a_rule_something_goes_wrong(
    rule: str, others: str, try_it: Callable[[World], None], s3_services
) -> None:
    service = s3_services("seaweedfs")
    with over_bucket(service, 6.0, without=others) as world:
        try_it(world)
    with over_bucket(service, 6.0, without=f"{others} {rule}", patience_s=PATIENCE_S) as world:
        with pytest.raises((AssertionError, subprocess.TimeoutExpired)) as broken:
            for _ in range(5):
                try_it(world)
        print(f"without {rule}: {str(broken.value)[:300]}")
