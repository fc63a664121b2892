"""Which agents attend, and which of what they say counts. Pure; time is passed in.

An agent has its place while it is heard, and for a lease after that. A later life of the same host's agent takes the
place at once; what the former life still says is refused for good, however late it comes. What was started by something
else under the same name waits for the end of that lease; if the first is heard for longer than that, two hosts have one
name, and the second is refused. Nothing counts that was said in another term: a higher one means that another
coordinator has taken over, and then this one is fenced off.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from ckptd.engine.hosts.messages import AgentLife, Attached, Fenced, Hello, Replaced
from ckptd.engine.wording import describe_ranks, describe_seconds
from ckptd.errors import InvalidRequestError

_MOST_REPLACED = 4096  # lives, remembered


@dataclass(slots=True)
class _Place:
    hello: Hello
    heard_at: float
    has_ended: bool = False


@dataclass(slots=True)
class _Waiting:
    incarnation: str
    since: float
    first_heard_at: float | None = None  # after that
    last_heard_at: float = 0.0


@dataclass(slots=True)
class Attendance:
    """The agents of one coordinator. Has one owner, which passes the time in seconds on a forward-only clock.

    Attributes:
        term: of this coordinator.
        root_id: of the root that it has opened.
        holder: this coordinator, in words.
        lease_s: for how long an agent may be silent.
        only_boot: of the one host whose agents may attend, where the root is a directory; "" for any.
        fenced_by: the highest term above this one that an agent has told; 0 while there is none.
    """

    term: int
    root_id: str
    holder: str = "the coordinator"
    lease_s: float = 15.0
    only_boot: str = ""
    fenced_by: int = 0
    _places: OrderedDict[str, _Place] = field(
        default_factory=OrderedDict
    )  # the one that was heard longest ago comes first
    _replaced: OrderedDict[str, AgentLife] = field(default_factory=OrderedDict)  # by incarnation: the later life
    _waiting: dict[str, _Waiting] = field(default_factory=dict)  # by host: the life that waits for its place

    def attend(self, hello: Hello, now: float) -> Attached | Fenced | Replaced:
        """Give an agent its place, or keep it there; the answer is for the agent.

        Raises:
            InvalidRequestError: the agent writes to another root.
        """
        agent = hello.agent
        if hello.root_id != self.root_id:
            raise InvalidRequestError(
                f"the {agent} has opened another root: both have to be given the same place",
                expected=self.root_id,
                actual=hello.root_id,
            )
        if self.only_boot and agent.boot and agent.boot != self.only_boot:
            raise InvalidRequestError(
                f"the {agent} is on another host than its coordinator, and the root is a directory: what one host "
                "locks or writes there another may not see in time. Keep the checkpoints of several hosts in a bucket, "
                "--root s3://BUCKET/PATH, or start the coordinator with --shared-directory, if all hosts mount this one"
            )
        if refusal := self._refusal(hello.highest_term):
            return refusal
        if later := self._replaced.get(agent.incarnation):
            return Replaced(self.term, later)
        place = self._places.get(agent.host)
        if place is not None and place.hello.agent.incarnation != agent.incarnation:
            if agent.follows(place.hello.agent):
                if agent.born < place.hello.agent.born:
                    return Replaced(self.term, place.hello.agent)  # it hung, and wakes up
            elif not place.has_ended and now - place.heard_at <= self.lease_s:
                # When a host starts anew, no process of before is left. But something that it said may still arrive.
                return self._wait(agent, place.hello.agent, now)
            self._replace(place.hello.agent, agent)
            self._waiting.pop(agent.host, None)
        self._heard(agent, now)
        self._places[agent.host] = _Place(hello, now)
        self._places.move_to_end(agent.host)
        return Attached(self.term, self.lease_s)

    def _wait(self, agent: AgentLife, present: AgentLife, now: float) -> Fenced | Replaced:
        """Have an agent wait for the lease of the present one; refuse it, once that was heard for longer."""
        waiting = self._waiting.get(agent.host)
        if waiting is None or waiting.incarnation != agent.incarnation:
            self._waiting[agent.host] = waiting = _Waiting(agent.incarnation, now)
        if waiting.first_heard_at is not None and waiting.last_heard_at - waiting.first_heard_at > self.lease_s:
            del self._waiting[agent.host]
            return Replaced(self.term, present)
        by = f", by {present.started_by}," if present.started_by else ""
        return Fenced(
            self.term,
            f"{self.holder}: another agent of the name {agent.host} was started before{by} and may still be there; if "
            "it is on another node, give each its --name",
        )

    def _heard(self, agent: AgentLife, now: float) -> None:
        """Note that the present agent of a host lives, if another one of its name waits."""
        if (waiting := self._waiting.get(agent.host)) is not None:
            waiting.last_heard_at = now
            if waiting.first_heard_at is None:
                waiting.first_heard_at = now

    def _replace(self, former: AgentLife, by: AgentLife) -> None:
        self._replaced[former.incarnation] = by
        if len(self._replaced) > _MOST_REPLACED:
            self._replaced.popitem(last=False)

    def _refusal(self, term: int) -> Fenced | None:
        if term > self.term:
            self.fenced_by = max(self.fenced_by, term)
        if self.fenced_by:
            return Fenced(self.fenced_by, f"a coordinator of term {self.fenced_by}")
        return None

    def hear(self, agent: AgentLife, term: int, now: float) -> Fenced | Replaced | None:
        """Take notice of a message; return the refusal when it does not count, None when it does."""
        if refusal := self._refusal(term):
            return refusal
        if later := self._replaced.get(agent.incarnation):
            return Replaced(self.term, later)
        if term < self.term or not self.is_present(agent) or self.is_lost(agent.host, now):
            return Fenced(self.term, self.holder)  # it has to attend first, as its ranks have lost their places
        self._places[agent.host].heard_at = now
        self._places.move_to_end(agent.host)
        self._heard(agent, now)
        return None

    def ended(self, agent: AgentLife) -> None:
        """Hear that an agent ends in good order: no other has to wait for the end of its lease."""
        if self.is_present(agent):
            self._places[agent.host].has_ended = True

    def stood_still(self, for_s: float, now: float) -> None:
        """Note that the coordinator itself did nothing for a while, and so heard nobody: that is no agent's fault."""
        for place in self._places.values():
            place.heard_at = min(now, place.heard_at + for_s)

    def is_present(self, agent: AgentLife) -> bool:
        """Whether this is the present life of its host's agent. Receipts of any other are not believed."""
        place = self._places.get(agent.host)
        return place is not None and place.hello.agent.incarnation == agent.incarnation

    @property
    def is_fenced(self) -> bool:
        """Whether another coordinator has taken over. That is final."""
        return self.fenced_by > 0

    def present(self, host: str) -> AgentLife | None:
        """Return the present life of a host's agent, None when it has never attended."""
        place = self._places.get(host)
        return None if place is None else place.hello.agent

    @property
    def num_hosts(self) -> int:
        """How many hosts' agents have attended."""
        return len(self._places)

    def hosts(self) -> list[str]:
        """Return the hosts whose agents have attended, in order."""
        return sorted(self._places)

    def hello_of(self, host: str) -> Hello:
        """Return what a host's agent said last when it attended."""
        return self._places[host].hello

    def silent_s(self, host: str, now: float) -> float:
        """Return for how long nothing was heard from a host's agent."""
        return now - self._places[host].heard_at

    def is_lost(self, host: str, now: float) -> bool:
        """Whether a host's agent has been silent for longer than its lease, or has never attended."""
        return host not in self._places or self.silent_s(host, now) > self.lease_s

    def lost(self, now: float) -> dict[str, float]:
        """Return the hosts whose agents' leases have run out, and for how many seconds they are gone."""
        late: dict[str, float] = {}
        for host, place in self._places.items():
            if now - place.heard_at <= self.lease_s:
                break  # so are all that follow: what is looked at several times a second costs nothing for them
            late[host] = now - place.heard_at
        return dict(sorted(late.items()))

    def whereabouts(self, ranks: Iterable[int], now: float) -> str:
        """Say where these ranks are, host by host; "" when no agent has told of any."""
        awaited = set(ranks)
        texts = []
        for host in self.hosts():
            here = awaited.intersection(self._places[host].hello.members)
            if here:
                gone = f" is gone {describe_seconds(self.silent_s(host, now))}" if self.is_lost(host, now) else ""
                texts.append(f"{describe_ranks(here)}: agent on {host}{gone}")
        return "; ".join(texts)
