"""The hosts whose agents attend this coordinator: which attend, what they are told, and when one is gone.

An agent declares for the ranks of its host, and hears what that host writes (`ckptd.engine.saves.host_requests`); its
receipts go to the save. All that it says may come twice, or late. Only the present life of a host's agent is believed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial

from ckptd.engine.catalog.shared_trial import SharedTrial
from ckptd.engine.catalog.term import Term
from ckptd.engine.hosts.attendance import Attendance
from ckptd.engine.hosts.memories import MOST_SAVES, NEWEST, InMemory, Memories, Where
from ckptd.engine.hosts.messages import (
    AgentLife,
    Attached,
    Beat,
    DeclareHost,
    Fenced,
    FromAgent,
    FromCoordinator,
    Hello,
    PartFailed,
    PartSealed,
)
from ckptd.engine.hosts.views import HostsView, HostView
from ckptd.engine.identity import Member, RunOptions
from ckptd.engine.refusals import NotNowError
from ckptd.engine.saves.asked import Beginning, Stamp, ToAgent
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.saves.host_places import HostPlaces
from ckptd.engine.saves.host_requests import HostRequests, guarded
from ckptd.engine.saves.root_watch import RootWatch
from ckptd.engine.saves.shares import Shares
from ckptd.engine.wording import describe_seconds
from ckptd.errors import ConflictError
from ckptd.format.names import INDEX_SUFFIX
from ckptd.printable import counted
from ckptd.storage.base import Durability
from ckptd.storage.pace import UploadLimits, limits_of_each

_log = logging.getLogger("ckptd.engine")

_THREADS = 4  # what hosts say takes moments; more threads would only wait for each other, and for the event loop


class AttendedHosts:
    """See the module. Thread-safe."""

    def __init__(
        self,
        coordinator: Coordinator,
        *,
        term: Term,
        lease_s: float,
        only_boot: str = "",
        trial: SharedTrial | None = None,
    ) -> None:
        """Take the agents of a coordinator that is open, and has taken this term.

        `lease_s`: for how long an agent may be silent. `only_boot`: see `Attendance`. `trial` has
        begun, where hosts share a directory; it ends with this.
        """
        self.lease_s, self._trial = lease_s, trial
        self._clock, self._note_read, self._look = coordinator.clock, coordinator.note_read, coordinator.look
        self._attendance = Attendance(term.number, coordinator.root.id, term.holder, lease_s, only_boot)
        self._root = RootWatch(term, self._attendance, self._clock)
        self._lock = threading.Lock()
        self._memories = Memories()
        self._links: dict[str, ToAgent] = {}
        self._attended_at: dict[str, float] = {}
        self._ticked_at = self._clock.boot_s()
        self._lost: dict[str, float] = {}  # for how many seconds each is gone
        self._workers = coordinator.pools(_THREADS, "ckptd-agents", None)
        self._workers.open()
        self._strands = Shares(self._workers.submit, 1)  # what one host says is done in its order
        self._places = HostPlaces(coordinator, self._present)
        self._requests = HostRequests(
            coordinator, self._places, self._workers, fenced=self._root.fenced, send=self._send
        )
        coordinator.agents.is_present = self._is_present
        coordinator.agents.addresses = self._addresses
        coordinator.agents.incarnation = self._incarnation
        coordinator.agents.term, coordinator.agents.confirm_root = term.number, term.confirm
        coordinator.agents.gone = self._gone
        if coordinator.store.durability is Durability.OBJECT_STORE:
            coordinator.agents.limits = self._limits

    def close(self) -> None:
        """Finish what was begun."""
        if self._trial is not None:
            self._trial.end()
        self._workers.close()

    @property
    def is_fenced(self) -> bool:
        """Whether another coordinator has the root: then this one has no effect, and is to end."""
        return self._root.is_fenced

    # What the coordinator asks

    def _is_present(self, agent: AgentLife) -> bool:
        with self._lock:
            return self._attendance.is_present(agent)

    def _present(self, host: str) -> AgentLife | None:
        with self._lock:
            return self._attendance.present(host)

    def _addresses(self, host: str) -> tuple[str, ...]:
        with self._lock:
            return self._attendance.hello_of(host).addresses if self._attendance.present(host) else ()

    def neighbours(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return the hosts whose agents are alive, and where other agents reach them."""
        with self._lock:
            now, attendance = self._clock.boot_s(), self._attendance
            live = [host for host in attendance.hosts() if not attendance.is_lost(host, now)]
            return [(host, attendance.hello_of(host).addresses) for host in live]

    def offer(self, agent: AgentLife, saves: Sequence[InMemory]) -> list[str]:
        """Hear what a host has in memory, all of it; return the saves among these that are no checkpoints any more."""
        newest: list[InMemory] = []
        gone: list[str] = []
        for each in saves[:MOST_SAVES]:
            ids = self._saves_of(each.run)
            if each.save not in ids:
                gone.append(each.save)
            elif each.save in ids[-NEWEST:]:
                newest.append(each)
        with self._lock:
            if not self._attendance.is_present(agent):
                raise ConflictError(f"a former life of the {agent} is not believed", actual=agent.incarnation)
            self._memories.note(agent.host, newest)
        return gone

    def where(self, prefix_key: str) -> Where:
        """Return which hosts that are alive have parts of a checkpoint in memory."""
        run = prefix_key.rpartition("/")[0]
        save = self._look(run, lambda stored: stored.save_id_at(prefix_key), "")
        live = [host for host, _ in self.neighbours()]
        with self._lock:
            return self._memories.where(save, live)

    def _saves_of(self, run: str) -> list[str]:
        none: list[str] = []
        return self._look(run, lambda stored: [each.save_id for each in stored.checkpoints()], none)

    def _incarnation(self, host: str) -> str:
        with self._lock:
            life = self._attendance.present(host)
            return "" if life is None else life.incarnation

    def _gone(self) -> dict[str, float]:
        with self._lock:
            return dict(self._lost) if self._lost else {}

    def _limits(self) -> UploadLimits:
        with self._lock:
            return limits_of_each(self._attendance.num_hosts - len(self._lost))

    def _submit(self, host: str, work: Callable[..., None], *arguments: object) -> None:
        self._strands.submit(host, partial(guarded, work, *arguments))

    def _send(self, host: str, message: FromCoordinator, run: str) -> None:
        with self._lock:
            send = None if self.is_fenced else self._links.get(host)
        if send is not None:
            send(message, run)

    # What agents say

    def admit(self, hello: Hello) -> None:
        """Let an agent pass that may attend; raises why it may not. May block."""
        if self._trial is not None:
            self._trial.check(hello)

    def attend(self, hello: Hello, send: ToAgent, stamp: Stamp) -> FromCoordinator:
        """Let an agent attend: from now on it is told by `send` what there is. Returns the answer."""
        with self._lock:
            answer = self._attendance.attend(hello, self._clock.boot_s())
            if self.is_fenced:
                return self._root.fenced()
            if not isinstance(answer, Attached):
                return answer
            if hello.agent.host not in self._links:
                self._memories.forget(hello.agent.host)  # it says so again
            self._links[hello.agent.host] = send
            self._attended_at[hello.agent.host] = self._clock.boot_s()
            self._lost.pop(hello.agent.host, None)
        self._places.attended(hello.agent)
        _log.info("the %s attends, with %s", hello.agent, counted(len(hello.saves), "save"))
        self._submit(hello.agent.host, self._requests.attends, hello.agent.host)
        for carried in hello.saves:
            self._submit(hello.agent.host, self._requests.carried, hello.agent, carried, stamp)
        return answer

    def parted(self, host: str, send: ToAgent) -> None:
        """Note that an agent is told nothing by `send` any more."""
        with self._lock:
            if self._links.get(host) is send:
                del self._links[host]

    def hear(self, message: FromAgent, stamp: Stamp) -> FromCoordinator:
        """Take what an agent says; return whether it counts."""
        assert not isinstance(message, Hello), "an agent attends by a call of its own"
        with self._lock:
            refusal = self._attendance.hear(message.agent, message.term, self._clock.boot_s())
            if self.is_fenced:
                return self._root.fenced()
            if refusal is not None:
                return refusal
            host = message.agent.host
            # An agent that is told nothing attends again. A call that was given up may be taken after the one that
            # replaced it, as both come at once when a cut is over: then the one that still lasts is not the known one.
            is_told = host in self._links
            ends = message.ends if isinstance(message, Beat) else ()
            told = Attached(self._attendance.term, self.lease_s, tuple(each.save for each in ends))
            answer = told if is_told else self._root.fenced()
        match message:
            case Beat(agent=agent, owed=owed, reading=reading):
                if message.is_last:
                    with self._lock:
                        self._attendance.ended(agent)
                for prefix in reading:
                    self._note_read(f"{prefix}{INDEX_SUFFIX}")
                if owed:
                    self._submit(host, self._requests.progress, agent, owed)
                for end in ends:
                    self._submit(host, self._requests.end_heard, agent, end)
            case DeclareHost(agent=agent, declaration=declaration):
                self._submit(host, self._requests.declare, agent, declaration, stamp)
            case PartSealed() | PartFailed():
                self._submit(host, self._requests.part_ended, message)
        return answer

    def place(self, agent: str, run: str, member: Member, options: RunOptions) -> int:
        """Give a rank of an agent's host its place; return the epoch."""
        try:
            if not self.is_fenced:
                return self._places.place(agent, run, member, options)
        except ConflictError:
            if not self.is_fenced:
                raise
        raise NotNowError(f"the root has another coordinator, which gives out places: {self._root.fenced().holder}")

    def runs(self) -> dict[str, tuple[str, ...]]:
        """Return the runs in which ranks of each host have places."""
        return self._places.runs()

    def limit(self, beginning: Beginning) -> None:
        """Have each declaration of an agent made inside `beginning`, which may refuse it for now."""
        self._requests.beginning = beginning

    def depart(self, agent: str, run: str, member: Member, epoch: int, *, for_good: bool) -> None:
        """Hear that a rank has gone."""
        self._places.depart(agent, run, member, epoch, for_good=for_good)

    def view(self) -> HostsView:
        """Describe the hosts for operators."""
        places, (parts, rates) = self._places.all(), self._requests.under_way()
        with self._lock:
            now, attendance = self._clock.boot_s(), self._attendance
            hosts = tuple(
                HostView(
                    host,
                    attendance.hello_of(host).addresses,
                    now - self._attended_at.get(host, now),
                    attendance.silent_s(host, now),
                    attendance.is_lost(host, now),
                    rates.get(host) or None,
                    tuple((run, tuple(ranks)) for run, ranks in places.get(host, {}).items()),
                    tuple(parts.get(host, ())),
                )
                for host in attendance.hosts()
            )
            return HostsView(attendance.term, self.lease_s, self._root.fenced().holder if self.is_fenced else "", hosts)

    # Time

    def tick(self) -> None:
        """End the saves of hosts whose agents are gone. Called several times in a lease."""
        self._root.tick(lambda look: self._workers.submit(guarded, look), self._tell_all)
        if self.is_fenced:
            return
        with self._lock:
            now = self._clock.boot_s()
            stood_still_s, self._ticked_at = now - self._ticked_at, now
            if stood_still_s > self.lease_s / 2:
                self._attendance.stood_still(stood_still_s, now)
            lost, before = self._attendance.lost(now), self._lost
            self._lost = lost
        for host in lost.keys() - before.keys():
            _log.warning("the agent on %s is gone %s", host, describe_seconds(lost[host]))
            self._submit(host, self._places.host_lost, host, partial(self._lost_s, host))
        if self._places.not_back(self._is_late):
            self._workers.submit(guarded, self._places.disconnect_late, self._is_late, self._present_s)

    def _lost_s(self, host: str) -> float | None:
        with self._lock:
            now = self._clock.boot_s()
            return self._attendance.silent_s(host, now) if self._attendance.is_lost(host, now) else None

    def _tell_all(self, fenced: Fenced) -> None:
        with self._lock:
            for send in self._links.values():
                send(fenced, "")

    def _is_late(self, host: str) -> bool:
        """Whether a lease has passed since the present life of a host's agent attended."""
        return self._present_s(host) > self.lease_s

    def _present_s(self, host: str) -> float:
        """Return for how long the present life of a host's agent attends."""
        return self._clock.boot_s() - self._attended_at.get(host, 0.0)
