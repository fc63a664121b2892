"""One host of the simulation: its ranks, and the lives of its agent, which run the real machine."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ckptd.agent.effects import Effect, Fill, Find, Send, Stop, Tell
from ckptd.agent.machine import AgentMachine
from ckptd.engine.catalog import term
from ckptd.engine.hosts.messages import AgentLife, Go, HostDeclaration, Receipt
from ckptd.errors import CkptdError, ConflictError, NotFoundError
from ckptd.format.crc32c import crc32c
from ckptd.storage.base import Durability
from tests.simulation.bucket import Bucket, BucketClient, BucketWriter
from tests.simulation.job import ROOT_ID, Join, Joined, member
from tests.simulation.judge import Judge, bytes_of
from tests.simulation.world import Network, Process, World

TICK_S = 1.0
TRIES = 5


def sums_of(data: bytes) -> bytes:
    return struct.pack("<I", crc32c(data))


class Host:
    """A host: what its ranks have captured outlives its agent, and ends with the host."""

    def __init__(
        self,
        world: World,
        network: Network,
        bucket: Bucket,
        judge: Judge,
        number: int,
        num_hosts: int,
        machine: Callable[..., AgentMachine],
        agent: Callable[..., Agent],
    ) -> None:
        self.name = f"h{number}"
        self.ranks, self.num_hosts = (number,), num_hosts
        self.captured: dict[str, HostDeclaration] = {}
        self.called_at: dict[str, float] = {}
        self.world, self.network, self.bucket, self.judge = world, network, bucket, judge
        self.machine, self.new_agent = machine, agent
        self.num_lives = 0
        self.boot = "first"
        self.agent: Agent | None = None
        self.agents: list[Agent] = []

    def start_agent(self) -> None:
        """Start its agent, anew; a former one may still run, as it hangs."""
        self.num_lives += 1
        self.agent = self.new_agent(self, self.num_lives)
        self.agents.append(self.agent)

    def save(self, declaration: HostDeclaration) -> None:
        """Its ranks call `save`."""
        self.captured[declaration.request_id] = declaration
        self.called_at[declaration.request_id] = self.world.now
        self.judge.declared(declaration.request_id, self.world.now)
        if self.agent is not None:
            agent = self.agent
            agent.run(lambda: agent.declare(declaration))

    def told(self, tell: Tell) -> None:
        if self.captured.pop(tell.request_id, None) is not None:
            self.world.log(f"{self.name} is told: {tell.request_id} {tell.outcome}")
            self.judge.told(tell.request_id, tell.outcome, self.world.now)

    def lose(self) -> None:
        """The host is gone, with all its processes and what its ranks had captured; it starts anew."""
        for agent in self.agents:
            agent.kill()
        self.agents.clear()
        self.boot = f"after {self.num_lives}"
        for request_id in self.captured:
            self.judge.dropped(request_id)
        self.captured.clear()


class Agent(Process):
    """One life of a host's agent: carries out what its machine says."""

    def __init__(self, host: Host, life: int) -> None:
        super().__init__(host.world, f"{host.name}.{life}", host.name)
        self.home = host
        self.store = BucketClient(host.bucket, self)
        self.machine = host.machine(
            AgentLife(host.name, f"{host.name}.{life}", self.world.now, host.boot), ROOT_ID, members=set(host.ranks)
        )
        self.coordinator = ""
        self.has_joined = False
        self.stopped: set[str] = set()
        self.sealed: set[str] = set()
        self.filling: dict[str, tuple[Go, HostDeclaration]] = {}
        host.network.listen(self.name, self, self.hear)
        for declaration in list(host.captured.values()):  # its ranks find the new agent, and declare again
            self.after(self.world.rng.random(), lambda again=declaration: self.declare(again, is_retry=True))
        self.after(0.0, self.tick)

    def declare(self, declaration: HostDeclaration, *, is_retry: bool = False) -> None:
        if declaration.request_id in self.home.captured:
            now = self.world.now
            waited_s = now - self.home.called_at[declaration.request_id]
            self.carry_out(self.machine.declare(declaration, now, is_retry=is_retry, waited_s=waited_s))

    def tick(self) -> None:
        self.carry_out(self.machine.tick(self.world.now))
        if not self.machine.is_attached:
            self.has_joined = False
        elif not self.has_joined:
            self._say(Join(self.home.name, member(self.home.ranks[0], self.home.num_hosts)))
        self.after(TICK_S, self.tick)

    def hear(self, source: str, message: Any) -> None:
        if isinstance(message, Joined):
            self.has_joined = message.term == self.machine.highest_term
            return
        was = self.machine.highest_term
        effects = self.machine.hear(message, self.world.now)
        if effects and message.term < was:
            self.home.judge.obeyed_former(self.name, message)
        self.carry_out(effects)

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Find():
                    self._find()
                case Send(message):
                    self._say(message)
                case Fill(go, declaration):
                    self.world.log(f"{self.name} fills {go.key} of {go.save}")
                    if go.save in self.sealed:
                        self.home.judge.written_again(self.name, go.key)
                    self.stopped.discard(go.save)
                    self.filling[go.save] = (go, declaration)
                    self.after(0.2 * self.world.rng.random(), lambda go=go, of=declaration: self._fill(go, of, 1))
                case Stop(save):
                    self.stopped.add(save)
                    self.after(0.05, lambda save=save: self.machine.stopped(save))
                case Tell():
                    if self.home.agent is self:  # ranks are connected to one agent only
                        self.home.told(effect)

    def _say(self, message: object) -> None:
        if self.coordinator:
            self.home.network.send(self, self.name, self.coordinator, message)

    def _find(self) -> None:
        try:
            found = term.look(self.store)
        except CkptdError:
            return
        if found is not None:
            self.coordinator = found.addresses[0]

    def _fill(self, go: Go, declaration: HostDeclaration, attempt: int) -> None:
        """Write the shard; what could not be told apart is tried again, as a new object."""
        if go.save in self.stopped:
            return
        data = bytes_of(declaration)
        own = Receipt(
            go.save, self.machine.life, go.shard or 0, go.key, len(data), "", Durability.OBJECT_STORE, sums_of(data)
        )

        def again(error: CkptdError) -> None:
            if attempt < TRIES:
                self.after(0.5 * attempt, lambda: self._fill(go, declaration, attempt + 1))
            else:
                reason = f"the store refused {go.key} to {self.home.name} {attempt} times: {error}"
                self.carry_out(self.machine.fill_failed(go.save, reason, self.world.now))

        def finish(writer: BucketWriter) -> None:
            if go.save in self.stopped:
                writer.abort()
                return
            try:
                version = writer.finish().version
            except ConflictError:
                self.key_is_taken(own)
            except CkptdError as error:
                again(error)
            else:
                self.sealed.add(go.save)
                self.carry_out(self.machine.filled(replace(own, version=version), self.world.now))

        try:
            writer = self.store.create(go.key, len(data))
        except CkptdError as error:
            again(error)
        else:
            writer.write(0, data)
            self.machine.progress(go.request_id, 0)
            self.after(self.world.rng.choice([0.05, 0.5, 6.0]) * self.world.rng.random(), lambda: finish(writer))

    def write_again(self, own: Receipt) -> None:
        """Write a shard once more, after its key was found taken."""
        for save, (go, declaration) in self.filling.items():
            if save == own.save:
                self._fill(go, declaration, 1)

    def key_is_taken(self, own: Receipt) -> None:
        """Look at what is there: a former life may have sealed it, or an earlier try that got no answer."""
        try:
            version, data = self.store.stat(own.key).version, self.store.get(own.key)
            found = replace(own, size_bytes=len(data), version=version, sums=sums_of(data))
        except NotFoundError:
            found = None
        except CkptdError:
            self.after(1.0, lambda: self.key_is_taken(own))
            return
        self.carry_out(self.machine.found_taken(own, found, self.world.now))
