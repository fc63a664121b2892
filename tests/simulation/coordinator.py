"""One life of a coordinator: the engine and the attendance of agents as they are, on the threads of nobody.

What a daemon does on pools of threads is here an event for each piece of work, soon after the one that submitted it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ckptd.engine.catalog.term import Term
from ckptd.engine.hosts.messages import AgentLife, Attached, Beat, DeclareHost, FromCoordinator, Hello
from ckptd.engine.lanes.elsewhere import RemoteShard
from ckptd.engine.saves.attended import AttendedHosts
from ckptd.engine.saves.coordinator import Coordinator as Engine
from ckptd.engine.settings import Settings
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError
from tests.simulation.bucket import Bucket, BucketClient
from tests.simulation.job import OPTIONS, RUN, Join, Joined, manifests_of
from tests.simulation.judge import Judge
from tests.simulation.world import Network, Process, World, WorldClock

SETTINGS = Settings(declare_timeout_s=30.0, stall_timeout_s=30.0, idle_s=float("inf"))
LEASE_S = 15.0
TICK_S = 1.0
SOON_S = 0.001


class Events:
    """A pool without threads: each piece of work is an event of its process, a moment later."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def open(self) -> None:
        """There is nothing to start."""

    def submit(self, work: Callable[..., None], *arguments: object) -> None:
        process = self._process
        process.after(SOON_S * process.world.rng.random(), partial(work, *arguments))

    def settle(self, timeout_s: float) -> bool:
        return True

    def close(self) -> None:
        """What was submitted is done if its process lives."""


class Coordinator(Process):
    """See the module."""

    def __init__(
        self,
        world: World,
        network: Network,
        bucket: Bucket,
        name: str,
        host: str,
        judge: Judge,
        client: Callable[..., BucketClient] = BucketClient,
    ) -> None:
        super().__init__(world, name, host)
        self.network, self.judge = network, judge
        self.store: Any = client(bucket, self)
        self.clock = WorldClock(world)
        self.is_open = False
        self.term_number = 0
        self.engine: Engine | None = None
        self.after(0.0, self.open)

    # Its life

    def open(self) -> None:
        engine = Engine(
            self.store,
            settings=SETTINGS,
            clock=self.clock,
            holder=self.name,
            pools=lambda most, name, priority: Events(self),
            new_id=lambda: f"{self.world.rng.getrandbits(64):016x}",
        )
        self.term = Term(self.store, self.clock, holder=self.name, addresses=[self.host])
        try:
            engine.open()
            self.term_number = self.term.take()
        except ConflictError:
            self.kill()
        except CkptdError:
            self.after(1.0, self.open)
        else:
            self.world.log(f"{self.name} has term {self.term_number - 1_000_000}")
            self.judge.took_root(self, self.term_number)
            self.network.listen(self.host, self, self.hear)
            self.engine, self.hosts = engine, AttendedHosts(engine, term=self.term, lease_s=LEASE_S)
            self._watch_beliefs(engine)
            is_first = len(self.judge.owners) == 1
            self.after(0.0 if is_first else self.world.rng.choice([0.0, 0.0, 3.0, 12.0]), self.begin)

    def _watch_beliefs(self, engine: Engine) -> None:
        """Let the judge know of each agent whose word counts."""
        is_present = engine.agents.is_present

        def believes(agent: AgentLife) -> bool:
            is_believed = is_present(agent)
            if is_believed:
                self.judge.believed(self.term_number, agent)
            return is_believed

        engine.agents.is_present = believes

    def begin(self) -> None:
        """Hear agents, and open the run: till now it has its former owner."""
        assert self.engine is not None
        self.is_open = True
        self.engine.when_open(RUN)
        self.tick()

    def tick(self) -> None:
        assert self.engine is not None
        self.engine.tick()
        self.hosts.tick()
        is_taken_over = any(self.engine.taken_over()[0])
        if self.hosts.is_fenced or is_taken_over:
            self.world.log(f"{self.name} is fenced off")
            self.kill()
        self.after(TICK_S, self.tick)

    # Messages

    def hear(self, source: str, message: Any) -> None:
        if not self.is_open:
            return
        if isinstance(message, Join):
            Events(self).submit(self._join, source, message)
            return
        self._take_manifests(message)
        try:
            if isinstance(message, Hello):
                answer = self.hosts.attend(message, partial(self._tell, source), lambda said: said)
                if isinstance(answer, Attached):
                    self.judge.attended(answer.term, message.agent)
                self._tell(source, answer)
                return
            answer = self.hosts.hear(message, lambda said: said)
        except InvalidRequestError as error:
            self.world.log(f"{self.name}: {error}")
            return
        if isinstance(message, Beat) or not isinstance(answer, Attached):
            self._tell(source, answer)

    def _join(self, source: str, message: Join) -> None:
        try:
            self.hosts.place(message.host, RUN, message.member, OPTIONS)
        except CkptdError as error:
            self.world.log(f"{self.name}: {error}")  # the agent asks again
        else:
            self.network.send(self, self.host, source, Joined(self.term_number))

    def _tell(self, source: str, message: FromCoordinator, run: str = "") -> None:
        self.network.send(self, self.host, source, message)

    def _take_manifests(self, message: Any) -> None:
        """Agents send the manifests ahead of a declaration that names them; at times they are too late with it."""
        assert self.engine is not None
        said = [message.declaration] if isinstance(message, DeclareHost) else []
        said += [each.declaration for each in message.saves] if isinstance(message, Hello) else []
        for manifest in manifests_of(said):
            if not self.engine.manifests.knows(manifest.digest) and self.world.rng.random() < 0.9:
                self.engine.manifests.add(manifest)

    # What the judge looks at

    def awaited_keys(self) -> list[str]:
        """The keys of the shards that it waits for."""
        saves = None if self.engine is None else self.engine.saves_of(RUN)
        under_way = [] if saves is None else [save for save in saves.live() if not save.session.is_over]
        shards = [shard for save in under_way for shard in save.plan.shards if isinstance(shard, RemoteShard)]
        return [shard.key for shard in shards if not shard.finish()]
