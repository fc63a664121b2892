"""A coordinator dies at every operation on its bucket while agents on three hosts write a save; the next one ends it.

The agents live on. They declare again, and tell their receipts again: what is sealed is not written again, the save is
published once, and nothing of another attempt stays.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from typing import Any

import numpy as np
import pytest

from ckptd.engine.catalog.elsewhere import TAKEN_S, WAIT_S
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.hosts.messages import Receipt
from ckptd.engine.layout import Assignment
from ckptd.engine.reading.bundle import Bundle
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.errors import CkptdError, NotFoundError, UnavailableError
from tests.fakes.agents import RUN, HostJob, SharedBucket
from tests.fakes.agents import WAIT_S as MOST_S
from tests.fakes.clock import HandClock
from tests.fakes.hooked_store import HookedStore
from tests.fakes.ranks import six_on_three_hosts

HOSTS = "abc"


class Agents:
    """What the agents hold of step 5: what they were told to write, and the receipts of what they have written."""

    def __init__(self) -> None:
        self.planned: Assignment | None = None
        self.receipts: dict[str, Receipt] = {}

    def save(self, job: HostJob) -> Checkpoint:
        """Declare, or declare again; write what has no receipt yet, and tell all receipts."""
        agents = job.coordinator.agents
        planned = job.declare(5)[0].result(MOST_S)
        if isinstance(planned, Checkpoint):
            return planned
        if self.planned is None or self.planned.save.save_id != planned.save.save_id:
            self.planned, self.receipts = planned, {}
        for host in HOSTS:
            if host not in self.receipts:
                self.receipts[host] = job.write(planned, host)
            agents.take(planned.save, self.receipts[host])
        return job.coordinator.outcome(planned.save).result(MOST_S)

    def outcome(self, job: HostJob) -> Checkpoint | None:
        """Look whether the save that they know was published."""
        if self.planned is None:
            return None
        try:
            return job.coordinator.outcome(self.planned.save).result(MOST_S)
        except NotFoundError:
            return None


class Death:
    """Of a coordinator: from the operation `at` on nothing of it reaches the bucket, or no answer comes back."""

    def __init__(self, at: int) -> None:
        self._left = at
        self.is_armed = False

    def __call__(self, number: int, what: str) -> None:
        self._left -= self.is_armed
        if self._left <= 0:
            raise UnavailableError("the coordinator has died")


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_next_life_ends_a_save_wherever_its_coordinator_died(when):
    for at in count(1):
        clock, death, agents = HandClock(), Death(at), Agents()
        bucket: Any = SharedBucket(clock.wall_s)
        hooked: Any = HookedStore(bucket, **{when: death})
        former, later = Coordinator(hooked, clock=clock), Coordinator(bucket, clock=clock)
        former.open()
        job = HostJob(former, *six_on_three_hosts(), store=bucket)
        save_four(job)
        death.is_armed, published = True, None
        with suppress(CkptdError):
            published = agents.save(job)
        known, sealed = agents.planned, dict(agents.receipts)

        later.open()
        after = HostJob(later, *six_on_three_hosts(), store=bucket)
        checkpoint = agents.outcome(after) or agents.save(after)
        assert published is None or published.save_id == checkpoint.save_id
        if known is not None:
            assert checkpoint.save_id == known.save.save_id, "it went on"
            assert sealed.items() <= agents.receipts.items(), "nothing sealed was written again"
        bundle = Bundle.open(bucket, f"{RUN}/model.ckpt-5")
        for name, array in job.ranks.arrays.items():
            assert np.array_equal(bundle.read(name), array), (at, name)
        for seconds in (WAIT_S, TAKEN_S):
            clock.advance(seconds)
            later.tick()
            assert later.settle(MOST_S)
        assert later.latest(RUN) == checkpoint
        assert checkpoint.num_shards == len([key for key in bucket.keys(RUN) if "model.ckpt-5.data-" in key])
        later.close()
        former.close()
        if published is not None:
            break
    assert at == 4, "the record, the index and the state file, then it is published"


def save_four(job: HostJob) -> None:
    """Save a step, so that there is a state file: it keeps a former owner out."""
    planned = job.planned(4)
    for host in HOSTS:
        job.coordinator.agents.take(planned.save, job.write(planned, host))
    job.coordinator.outcome(planned.save).result(MOST_S)
