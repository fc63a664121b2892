"""For agents of other hosts: they attend, tell what their hosts hold and have written, and hear what to write."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Protocol

from ckptd.access.callers import Caller
from ckptd.access.roles import Right
from ckptd.engine.hosts.memories import InMemory, Where
from ckptd.engine.hosts.messages import (
    AgentLife,
    Attached,
    Beat,
    DeclareHost,
    FromAgent,
    FromCoordinator,
    Hello,
    HostDeclaration,
)
from ckptd.engine.hosts.views import HostsView
from ckptd.engine.identity import Declaration, Member, RunOptions
from ckptd.engine.refusals import NotNowError
from ckptd.errors import CkptdError, InvalidRequestError, NotPermittedError
from ckptd.service.allowances import Allowances
from ckptd.service.calls import Behaviour, Call
from ckptd.service.guarded_server import is_of_a_peer_gone
from ckptd.service.opening import Openings
from ckptd.service.outbox import Outbox
from ckptd.service.pools import Pools
from ckptd.service.recorder import Recorder
from ckptd.wire import agents, convert, memories
from ckptd.wire.parts import MOST_SAID_BYTES, Joined, in_parts
from ckptd.wire.v1 import agent_pb2

_log = logging.getLogger("ckptd.service")

_TICK_S = 0.2
_HELLO_S = 30.0
_MOST_HOSTS = 65_536  # whose identities are remembered


ToAgent = Callable[[FromCoordinator, str], None]
Stamp = Callable[[Declaration], Declaration]
Beginning = Callable[[str, Declaration], AbstractContextManager[None]]


class Attending(Protocol):
    """The hosts whose agents attend: what `ckptd.engine.saves.attended` has."""

    def admit(self, hello: Hello) -> None:
        """Let an agent pass that may attend; raises why it may not. May block."""

    def attend(self, hello: Hello, send: ToAgent, stamp: Stamp) -> FromCoordinator:
        """Let an agent attend."""

    def parted(self, host: str, send: ToAgent) -> None:
        """Note that an agent is told nothing by `send` any more."""

    def hear(self, message: FromAgent, stamp: Stamp) -> FromCoordinator:
        """Take what an agent says."""

    def place(self, agent: str, run: str, member: Member, options: RunOptions) -> int:
        """Give a rank of an agent's host its place."""

    def runs(self) -> Mapping[str, Collection[str]]:
        """Return the runs in which ranks of each host have places."""

    def limit(self, beginning: Beginning) -> None:
        """Have each declaration of an agent made inside `beginning`, which may refuse it for now."""

    def depart(self, agent: str, run: str, member: Member, epoch: int, *, for_good: bool) -> None:
        """Hear that a rank has gone."""

    def view(self) -> HostsView:
        """Describe the hosts for operators."""

    def neighbours(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return the hosts whose agents are alive, and where other agents reach them."""

    def offer(self, agent: AgentLife, saves: Sequence[InMemory]) -> list[str]:
        """Hear what a host has in memory; return the saves among these that are no checkpoints any more."""

    def where(self, prefix_key: str) -> Where:
        """Return which hosts have parts of a checkpoint in memory."""

    def tick(self) -> None:
        """End the saves of hosts whose agents are gone."""


class AgentService:
    """Behaviours of `AgentService`. Belongs to one event loop."""

    def __init__(
        self,
        hosts: Attending | None,
        pools: Pools,
        openings: Openings,
        recorder: Recorder,
        ending: asyncio.Event,
        allowances: Allowances,
    ) -> None:
        """`hosts` is None where no agents may attend."""
        self._hosts, self._pools, self._openings, self._ending = hosts, pools, openings, ending
        self._recorder, self._allowances = recorder, allowances
        self._callers: dict[str, Caller] = {}  # by host: which attends for it
        if hosts is not None:
            hosts.limit(self._beginning)
            allowances.of_agents = self._runs_by_caller
        self._identities: dict[str, str] = {}  # by host: the identity that attended for it first
        self._ticking: asyncio.Task[None] | None = None
        self._outbox: Outbox[agent_pb2.CoordinatorMessage] = Outbox()

    def behaviours(self) -> dict[str, Behaviour]:
        """Return what answers each method."""
        return {
            "Attend": self.attend,
            "Tell": self.tell,
            "Place": self.place,
            "Depart": self.depart,
            "Neighbours": self.neighbours,
            "Offer": self.offer,
            "Where": self.where,
        }

    def _beginning(self, host: str, declaration: Declaration) -> AbstractContextManager[None]:
        caller = self._callers.get(host)
        return nullcontext() if caller is None else self._allowances.beginning(caller, declaration)

    def _runs_by_caller(self) -> dict[Caller, set[str]]:
        """Return the runs that each identity has joined by agents."""
        found: dict[Caller, set[str]] = {}
        for host, runs in ({} if self._hosts is None else self._hosts.runs()).items():
            if (caller := self._callers.get(host)) is not None:
                found.setdefault(caller, set()).update(runs)
        return found

    def start(self) -> None:
        """Begin to look for agents that are gone."""
        if self._hosts is not None:
            self._ticking = asyncio.create_task(self._tick(self._hosts))

    def stop(self) -> None:
        """Look no more."""
        if self._ticking is not None:
            self._ticking.cancel()

    async def _tick(self, hosts: Attending) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            hosts.tick()

    def _known(self) -> Attending:
        if self._hosts is None:
            raise InvalidRequestError("this daemon writes all of its checkpoints itself, and takes no agents")
        return self._hosts

    def _check_host(self, host: str, call: Call) -> None:
        """Let only the agent of a host speak for it: that which the policy names, or else the first that has.

        The policy holds whatever this coordinator has heard; who was first, a restart forgets.
        """
        caller, named = str(call.caller), call.policy.may_attend(call.caller, host)
        if named:
            return
        if named is False:
            raise NotPermittedError(f"{caller} is not the agent of {host}: the policy gives it other hosts")
        if host not in self._identities and len(self._identities) >= _MOST_HOSTS:
            raise NotNowError("the agents of too many hosts have attended")
        if self._identities.setdefault(host, caller) != caller:
            raise NotPermittedError(f"{caller} is not the agent of {host}: another identity has attended for it")

    @staticmethod
    def _check_runs(said: Iterable[HostDeclaration], call: Call) -> None:
        for each in said:
            if not call.may(Right.AGENT, each.run):
                raise NotPermittedError(f"{call.caller} is no agent for run {each.run!r}: that needs the role `agent`")

    async def attend(self, call: Call) -> None:
        """Let an agent attend, hear it, and tell it what there is, until it goes or attends anew."""
        joined: Joined[agent_pb2.AgentMessage] = Joined(agent_pb2.AgentMessage, MOST_SAID_BYTES)
        whole: agent_pb2.AgentMessage | None = None
        while whole is None and (request := await call.read(stall_s=_HELLO_S)) is not None:
            whole = joined.add(request)
        hosts = self._known()
        hello = None if whole is None else agents.from_agent_from_wire(whole)
        if not isinstance(hello, Hello):
            raise InvalidRequestError("an agent says `hello` first")
        self._check_host(hello.agent.host, call)
        self._check_runs((each.declaration for each in hello.saves), call)
        if hello.agent.host in self._callers or len(self._callers) < _MOST_HOSTS:
            self._callers[hello.agent.host] = call.caller
        outgoing: asyncio.Queue[agent_pb2.CoordinatorMessage] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def send(message: FromCoordinator, run: str) -> None:
            self._outbox.put(loop, outgoing, in_parts(agents.from_coordinator_to_wire(message, run)))

        await self._pools.control("", hosts.admit, hello)
        stamp = self._stamp(call)
        answer = hosts.attend(hello, send, stamp)
        await call.write(agents.from_coordinator_to_wire(_that_hears(answer)))
        hearing = asyncio.create_task(self._hear_all(hello.agent, call, stamp, outgoing.put_nowait))
        try:
            while not self._ending.is_set():
                await call.write(await call.lasts(outgoing.get()))
        finally:
            hosts.parted(hello.agent.host, send)
            hearing.cancel()

    async def _hear_all(
        self, agent: AgentLife, call: Call, stamp: Stamp, tell: Callable[[agent_pb2.CoordinatorMessage], None]
    ) -> None:
        """Take what an agent says by the call by which it attends; one that does not know `hears` says nothing there.

        A beat is answered, and what does not count.
        """
        try:
            while (request := await call.following()) is not None:
                try:
                    message, answer = self._heard(request, call, stamp, only=agent)
                    if isinstance(message, Beat) or not isinstance(answer, Attached):
                        tell(agents.from_coordinator_to_wire(answer))
                except NotPermittedError as error:
                    self._recorder.refused(call.where, "Attend", call.actor, "", str(error))
                    _log.warning("what the %s says has no effect: %s", agent, error)
                except InvalidRequestError as error:
                    _log.info("what the %s says has no effect: %s", agent, error)
        except CkptdError as error:
            call.end(error)
        except Exception as error:
            if not is_of_a_peer_gone(error):
                _log.exception("a bug in ckptd: the %s has to attend anew", agent)
            call.end(NotNowError("what the agent says by this call was not understood: it attends anew"))

    async def tell(self, request: agent_pb2.AgentMessage, call: Call) -> agent_pb2.CoordinatorMessage:
        """Take what an agent says."""
        return agents.from_coordinator_to_wire(self._heard(request, call, self._stamp(call))[1])

    def _heard(
        self, request: agent_pb2.AgentMessage, call: Call, stamp: Stamp, only: AgentLife | None = None
    ) -> tuple[FromAgent, FromCoordinator]:
        """Take what an agent says, which is `only` if that is known; return that, and the answer."""
        hosts = self._known()
        message = agents.from_agent_from_wire(request)
        if isinstance(message, Hello):
            raise InvalidRequestError("an agent says `hello` first, by `Attend`")
        if only not in (None, message.agent):
            raise InvalidRequestError(f"by this call the {only} attends, and nobody else")
        self._check_host(message.agent.host, call)
        if isinstance(message, DeclareHost):
            self._check_runs([message.declaration], call)
        if isinstance(message, Beat):
            message = replace(message, reading=tuple(each for each in message.reading if _may_read(each, call)))
        return message, hosts.hear(message, stamp)

    @staticmethod
    def _stamp(call: Call) -> Stamp:
        def stamp(declaration: Declaration) -> Declaration:
            append_only = not call.may(Right.MANAGE, declaration.save.run)
            return replace(declaration, actor=call.actor, append_only=append_only)

        return stamp

    async def place(self, request: agent_pb2.PlaceRequest, call: Call) -> agent_pb2.PlaceReply:
        """Give a rank of the agent's host its place in a run."""
        hosts = self._known()
        run, member, options = convert.join_from_wire(request.join)
        self._check_host(request.host, call)
        await self._openings.ready(run, create=True)
        with self._allowances.joined(call.caller, run):
            epoch = await self._pools.control(run, hosts.place, request.host, run, member, options)
        return agent_pb2.PlaceReply(epoch=epoch)

    async def neighbours(self, request: agent_pb2.NeighboursRequest, call: Call) -> agent_pb2.NeighboursReply:
        """Return which agents are alive."""
        found = self._known().neighbours()
        return agent_pb2.NeighboursReply(
            neighbours=[agent_pb2.Neighbour(host=host, addresses=places) for host, places in found]
        )

    async def offer(self, request: agent_pb2.OfferRequest, call: Call) -> agent_pb2.OfferReply:
        """Hear what the agent's host has in memory: of runs that it is an agent for."""
        hosts, agent = self._known(), agents.life_from_wire(request.agent)
        self._check_host(agent.host, call)
        saves = [each for each in memories.saves_from_wire(request.saves) if call.may(Right.AGENT, each.run)]
        gone = await self._pools.control(agent.host, hosts.offer, agent, saves)
        return agent_pb2.OfferReply(gone=gone)

    async def where(self, request: agent_pb2.WhereRequest, call: Call) -> agent_pb2.WhereReply:
        """Return which hosts have parts of a checkpoint in memory."""
        hosts, key = self._known(), convert.key_from_wire(request.key)
        return memories.where_to_wire(await self._pools.control(key.rpartition("/")[0], hosts.where, key))

    async def depart(self, request: agent_pb2.DepartRequest, call: Call) -> agent_pb2.DepartReply:
        """Hear that a rank of the agent's host has gone."""
        hosts = self._known()
        run, member, epoch = convert.leave_from_wire(request.leave)
        self._check_host(request.host, call)

        def depart() -> None:
            hosts.depart(request.host, run, member, epoch, for_good=request.for_good)

        await self._pools.control(run, depart)
        return agent_pb2.DepartReply()


def _that_hears(answer: FromCoordinator) -> FromCoordinator:
    return replace(answer, hears=True) if isinstance(answer, Attached) else answer


def _may_read(prefix: str, call: Call) -> bool:
    """Whether retention has to leave a checkpoint because this agent says that it is read: not those of others."""
    run = prefix.rpartition("/")[0]
    return call.may(Right.AGENT, run) or call.may(Right.READ, run)
