"""The whole: a job on some hosts, coordinators that come and go, and faults of every kind, until all saves are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ckptd.agent.machine import AgentMachine
from tests.simulation.bucket import DAY_S, Bucket, BucketClient
from tests.simulation.coordinator import Coordinator
from tests.simulation.hosts import Agent, Host
from tests.simulation.job import declaration
from tests.simulation.judge import BrokenPromiseError, Judge
from tests.simulation.world import Network, World

SAVE_EVERY_S = 2.0
FAULT_EVERY_S = 5.0
LONGEST_WAIT_S = 700.0  # a save's own 600 s, and what it takes to be told
TIDY_S = 300.0  # a minute is waited for writers of other hosts; then retention's turn comes several times


@dataclass
class Cast:
    """Which classes play: mutants put others in."""

    coordinator: Callable[..., Coordinator] = Coordinator
    agent: Callable[..., Agent] = Agent
    machine: Callable[..., AgentMachine] = AgentMachine
    client: Callable[..., BucketClient] = BucketClient


@dataclass
class Life:
    """One seed's history."""

    seed: object
    num_hosts: int = 3
    num_saves: int = 50
    with_faults: bool = True
    late: float = 0.0
    """How many of the requests in trouble take effect long after they were given up."""
    cast: Cast = field(default_factory=Cast)
    over_directory: bool = False

    def __post_init__(self) -> None:
        self.world = World(self.seed)
        self.network = Network(self.world)
        self.judge = Judge(self.num_hosts, self.live_keys, self.answered)
        self.bucket = self.judge.bucket = Bucket(self.world, self.judge.watch, is_directory=self.over_directory)
        self.hosts = [
            Host(
                self.world,
                self.network,
                self.bucket,
                self.judge,
                number,
                self.num_hosts,
                self.cast.machine,
                self.cast.agent,
            )
            for number in range(self.num_hosts)
        ]
        self.step = 0
        self.num_calls = 0
        self.unanswered: dict[str, int] = {}  # by step and call
        self.saved: set[str] = set()
        self.num_coordinators = 0
        self.coordinators: list[Coordinator] = []
        self.is_quiet = not self.with_faults
        self.counts: dict[str, int] = {}

    def run(self) -> Life:
        """Live through it; every broken promise is told with the last lines of the trace."""
        try:
            self.start_coordinator()
            for host in self.hosts:
                host.start_agent()
            self.world.after(1.0, None, self.save)
            if self.with_faults:
                self.world.after(FAULT_EVERY_S, None, self.fault)
                self.world.after(1.0, None, self.keep_coordinator)
            while self.step < self.num_saves or self.judge.waiting:
                self.world.run_until(self.world.now + 20.0)
                self.judge.check_waits(self.world.now, LONGEST_WAIT_S)
                self.is_quiet = self.is_quiet or self.step >= self.num_saves
            self.quiesce()
            self.end_in_a_day()
        except (BrokenPromiseError, AssertionError) as error:
            lines = "\n".join([*self.world.recent][-120:])
            raise BrokenPromiseError(f"seed {self.seed!r}: {error}\n{lines}") from error
        return self

    def quiesce(self) -> None:
        """All is well again: the next save is acknowledged."""
        self.is_quiet = True
        self.world.run_until(self.world.now + 100.0)
        before = self.judge.num_acknowledged
        self.step += 1
        self.call_save(self.step, 0)
        self.world.run_until(self.world.now + 60.0)
        if self.judge.num_acknowledged != before + self.num_hosts:
            raise BrokenPromiseError("all is well again, and a save is not acknowledged by all hosts")

    def end_in_a_day(self) -> None:
        """All processes are dead; whoever comes a day later finds, by the records, all that nobody needs.

        What it gives up then itself stays taken for another day.
        """
        for process in (*self.coordinators, *(agent for host in self.hosts for agent in host.agents)):
            process.kill()
        for _ in range(2):
            self.world.now += DAY_S
            self.start_coordinator()
            self.world.run_until(self.world.now + TIDY_S)
            self.coordinators[-1].kill()
        self.judge.check_tidy()

    # The job

    def save(self) -> None:
        if self.step >= self.num_saves:
            return
        if len(self.judge.waiting) < 3 * self.num_hosts:
            self.step += 1
            self.call_save(self.step, 0)
        self.world.after(SAVE_EVERY_S * (0.5 + self.world.rng.random()), None, self.save)

    def answered(self, request_id: str, is_saved: bool) -> None:
        """When no host waits any more, and none was told that the step is saved, it is saved again, perhaps."""
        call = request_id.partition(".")[2]
        self.unanswered[call] -= 1
        if is_saved:
            self.saved.add(call)
        if not self.unanswered[call] and call not in self.saved and self.world.rng.random() < 0.7:
            step, _, number = call.partition(".")
            self.world.after(self.world.rng.random(), None, lambda: self.call_save(int(step), int(number) + 1))

    def call_save(self, step: int, call: int) -> None:
        self.num_calls += 1
        self.unanswered[f"{step}.{call}"] = self.num_hosts
        for host in self.hosts:
            size = 16 + step % 3
            wanted = declaration(host.ranks[0], self.num_hosts, step, call, size)
            self.world.after(
                0.3 * self.world.rng.random() ** 4, None, lambda host=host, wanted=wanted: host.save(wanted)
            )

    # Coordinators

    def start_coordinator(self) -> None:
        self.num_coordinators += 1
        number = self.num_coordinators
        coordinator = self.cast.coordinator(
            self.world,
            self.network,
            self.bucket,
            f"coordinator.{number}",
            f"node{number % 3}",
            self.judge,
            self.cast.client,
        )
        self.coordinators = [each for each in self.coordinators if not each.is_dead] + [coordinator]

    def keep_coordinator(self) -> None:
        """What restarts processes: one runs, or is started, sooner or later."""
        if all(each.is_dead or each.pauses for each in self.coordinators):
            self.start_coordinator()
        self.world.after(self.world.rng.choice([1.0, 4.0, 15.0, 30.0]), None, self.keep_coordinator)

    def live_keys(self) -> list[str]:
        """The keys of shards that the present coordinator waits for."""
        return max(self.coordinators, key=lambda each: each.term_number).awaited_keys()

    # Faults

    def fault(self) -> None:
        rng = self.world.rng
        if not self.is_quiet:
            kinds = [
                self.kill_coordinator,
                self.pause_coordinator,
                self.another_coordinator,
                self.kill_agent,
                self.pause_agent,
                self.replace_agent,
                self.lose_host,
                self.cut,
                self.noise,
                self.store_trouble,
            ]
            kind = rng.choice(kinds)
            self.counts[kind.__name__] = self.counts.get(kind.__name__, 0) + 1
            kind()
            self.world.after(FAULT_EVERY_S * 2 * rng.random(), None, self.fault)
        else:
            self.heal()

    def heal(self) -> None:
        for process in (*self.coordinators, *(host.agent for host in self.hosts if host.agent is not None)):
            process.ops_until_kill = process.ops_until_pause = None
        self.network.cut.clear()
        self.network.loss = self.network.repeat = self.network.delay = 0.0
        troubles = self.bucket.troubles
        troubles.refused = troubles.unanswered = troubles.repeated = troubles.late = 0.0

    def kill_coordinator(self) -> None:
        rng = self.world.rng
        for each in self.coordinators:
            if rng.random() < 0.5:
                each.kill()
            else:
                each.ops_until_kill = rng.randrange(1, 25)

    def pause_coordinator(self) -> None:
        rng = self.world.rng
        for each in self.coordinators:
            if rng.random() < 0.3:
                each.pause(rng.choice([3.0, 30.0]))
            else:
                each.ops_until_pause = rng.randrange(1, 25)

    def another_coordinator(self) -> None:
        """What the one before has sent may still be on its way."""
        self.start_coordinator()
        if self.world.rng.random() < 0.5:
            self.noise()

    def _restart(self, host: Host, within: float) -> None:
        self.world.after(within * self.world.rng.random(), None, host.start_agent)

    def kill_agent(self) -> None:
        host = self.world.rng.choice(self.hosts)
        if host.agent is not None:
            if self.world.rng.random() < 0.5:
                host.agent.kill()
            else:
                host.agent.ops_until_kill = self.world.rng.randrange(1, 6)
        self._restart(host, self.world.rng.choice([2.0, 25.0]))

    def pause_agent(self) -> None:
        host = self.world.rng.choice(self.hosts)
        if host.agent is not None:
            host.agent.pause(self.world.rng.choice([1.0, 10.0, 30.0]))

    def replace_agent(self) -> None:
        """An agent hangs, in a request perhaps, and its place is taken meanwhile: a zombie goes on."""
        host = self.world.rng.choice(self.hosts)
        if host.agent is not None:
            host.agent.ops_until_pause = self.world.rng.randrange(1, 6)
        self._restart(host, 4.0)

    def lose_host(self) -> None:
        host = self.world.rng.choice(self.hosts)
        host.lose()
        self._restart(host, 10.0)

    def cut(self) -> None:
        """One way between a host and wherever a coordinator may be, for a while."""
        rng = self.world.rng
        host, node = rng.choice(self.hosts).name, f"node{rng.randrange(3)}"
        way = rng.choice([(host, node), (node, host)])
        self.network.cut.add(way)
        self.world.after(rng.choice([3.0, 20.0, 40.0]), None, lambda: self.network.cut.discard(way))

    def noise(self) -> None:
        rng, network = self.world.rng, self.network
        network.loss, network.repeat, network.delay = (rng.choice([0.0, 0.05, 0.3]) for _ in range(3))

        def end() -> None:
            network.loss = network.repeat = network.delay = 0.0

        self.world.after(15 * rng.random(), None, end)

    def store_trouble(self) -> None:
        rng, troubles = self.world.rng, self.bucket.troubles
        troubles.refused, troubles.unanswered, troubles.repeated = (rng.choice([0.0, 0.03, 0.3]) for _ in range(3))
        troubles.late = self.late and rng.choice([0.0, self.late])

        def end() -> None:
            troubles.refused = troubles.unanswered = troubles.repeated = troubles.late = 0.0

        self.world.after(10 * rng.random(), None, end)
