"""One fault at one point of a save, and what must follow: the rows of docs/many-hosts.md's table, one by one."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass

from tests.faults.hosts.stores import Bucket
from tests.faults.hosts.world import Process, World

_AGENT = (
    "send.DeclareHost receive.Go shard.begin shard.finish shard.finish.done send.PartSealed receive.SaveEnded "
    "send.HeardEnd"
)
_COORDINATOR = (
    "receive.DeclareHost step.begin.record send.Go receive.PartSealed step.commit.index step.publish.state "
    "step.settle.published send.SaveEnded receive.HeardEnd"
)
_RANK = "rank.begin rank.capture rank.capture.done rank.outcome"
_LASTING = "stop-short stop-long cut-short cut-long"
_STORE = "storekill-short storestop-short storestop-long storecut-short storecut-long"
VICTIM = "b"  # the host whose agent, ranks or cable fail: it has the ranks of the second half


@dataclass(frozen=True)
class Case:
    """`who` comes to `point`; then `fault` happens to it, or to what the fault names."""

    who: str
    point: str
    fault: str

    def __str__(self) -> str:
        return f"{self.who} {self.point} {self.fault}"


def _all(who: str, points: str, faults: str) -> list[Case]:
    return [Case(who, point, fault) for fault in faults.split() for point in points.split()]


CAMPAIGN = [
    *_all("rank", _RANK, "kill stop-short stop-long"),
    *_all("agent", _AGENT, f"kill kill-long {_LASTING}"),
    *_all("coordinator", _COORDINATOR, f"kill {_LASTING}"),
]
STORE_CAMPAIGN = [
    *_all("agent", "shard.begin shard.finish", _STORE),
    *_all("coordinator", "step.begin.record step.commit.index step.publish.state", _STORE),
]
"""What happens to a store while an agent or the coordinator is about to use it."""


@dataclass(frozen=True)
class Outcome:
    """What the ranks were told, in seconds from the fault, and from the moment at which all was well again."""

    answers: list[str]
    after_fault_s: float
    after_heal_s: float

    @property
    def is_saved(self) -> bool:
        """Whether every rank that lives was told so."""
        return set(self.answers) <= {"saved", ""}

    def check_named(self) -> None:
        """Check that every error says which host or rank it is about."""
        for answer in self.answers:
            assert answer in ("saved", "") or _NAMED.search(answer), answer


_NAMED = re.compile(r"\b(ranks? \d|agent on \w|on host-\w)")


def pause(seconds: float) -> None:
    """Let a fault last."""
    threading.Event().wait(seconds)


class Trial:
    """Carries out a case in a world that is whole, and leaves it whole."""

    def __init__(self, world: World, case: Case) -> None:
        self.world, self.case = world, case
        self.short_s, self.long_s = min(1.5, world.lease_s / 4), world.lease_s * 2
        names = {"agent": f"agent-{VICTIM}", "coordinator": world.coordinator.name}
        self.process = world.processes[names.get(case.who, f"rank-{world.num_ranks - 1}")]

    def run(self, count: int = 5000) -> Outcome:
        """Save, break, heal; return how it ended."""
        world, process = self.world, self.process
        process.arm(self.case.point)
        world.save(count)
        process.comes_to(self.case.point)
        began_at = time.monotonic()
        self.fault()
        healed_at = time.monotonic()
        answers = world.answers()
        now = time.monotonic()
        world.heal()
        return Outcome(answers, now - began_at, now - healed_at)

    def fault(self) -> None:
        what, _, how_long = self.case.fault.partition("-")
        lasts_s = {"short": self.short_s, "long": self.long_s, "": 0.0}[how_long]
        getattr(self, what)(lasts_s)

    # What may happen

    def kill(self, lasts_s: float) -> None:
        self.process.kill()
        if self.case.who == "rank":
            return
        pause(lasts_s)
        self.start_again(self.process)

    def start_again(self, process: Process) -> None:
        if self.case.who == "agent":
            self.world.start_agent(VICTIM)
        else:
            self.world.start_coordinator(process.host.name)

    def stop(self, lasts_s: float) -> None:
        pause(lasts_s)
        self.process.go_on()

    def cut(self, lasts_s: float) -> None:
        self.process.host.cut()
        self.process.go_on()
        pause(lasts_s)
        self.process.host.join()

    # To the store, while the process comes to the point

    def storekill(self, lasts_s: float) -> None:
        store = self.store
        store.kill()
        self.process.go_on()
        pause(lasts_s)
        store.start()

    def storestop(self, lasts_s: float) -> None:
        self.store.stop()
        self.process.go_on()
        pause(lasts_s)
        self.store.go_on()

    def storecut(self, lasts_s: float) -> None:
        self.world.network.cut()
        self.process.go_on()
        pause(lasts_s)
        self.world.network.join()

    @property
    def store(self) -> Bucket:
        """The bucket, which alone can fail."""
        assert isinstance(self.world.shared, Bucket)
        return self.world.shared
