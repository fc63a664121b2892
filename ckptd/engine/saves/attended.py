"""The hosts whose agents attend this coordinator: what each is told to write, and when one is gone.

An agent declares for the ranks of its host, and hears what that host writes; its receipts go to the save. All that it
says may come twice, or late, and the answer is repeated. Only the present life of a host's agent is believed.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.hosts.attendance import Attendance
from ckptd.engine.hosts.messages import (
    AgentLife,
    Attached,
    Beat,
    CarriedSave,
    DeclareHost,
    EndSeen,
    Fenced,
    FromAgent,
    FromCoordinator,
    Go,
    Hello,
    HostDeclaration,
    PartFailed,
    PartSealed,
    SaveEnded,
)
from ckptd.engine.identity import Member, RunOptions, SaveRef
from ckptd.engine.layout import Assignment
from ckptd.engine.refusals import NotNowError
from ckptd.engine.saves.asked import Asked, Stamp, ToAgent
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.saves.workers import Workers
from ckptd.engine.wording import describe_seconds
from ckptd.errors import CkptdError, ConflictError, NotFoundError
from ckptd.format.names import shard_key

_log = logging.getLogger("ckptd.engine")

_THREADS = 16
_MOST_ENDED = 4096  # requests, whose end is told again when an agent asks


class AttendedHosts:
    """See the module. Thread-safe."""

    def __init__(self, coordinator: Coordinator, *, term: int, holder: str, lease_s: float) -> None:
        """Take the agents of a coordinator that is open. `lease_s`: for how long an agent may be silent."""
        self.lease_s = lease_s
        self._coordinator, self._clock = coordinator, coordinator.clock
        self._attendance = Attendance(term, coordinator.root.id, holder, lease_s)
        self._lock = threading.RLock()
        self._links: dict[str, ToAgent] = {}
        self._asked: OrderedDict[str, Asked] = OrderedDict()
        self._members: dict[tuple[str, str, int], tuple[Member, int, str]] = {}  # by host, run and rank; placed by
        self._attended_at: dict[str, float] = {}
        self._lost: set[str] = set()
        self._workers = Workers(_THREADS, "ckptd-agents")
        self._workers.open()
        coordinator.agents.is_present = self._is_present
        coordinator.agents.addresses = self._addresses
        coordinator.agents.term = term

    def close(self) -> None:
        """Finish what was begun."""
        self._workers.close()

    # What the coordinator asks

    def _is_present(self, agent: AgentLife) -> bool:
        with self._lock:
            return self._attendance.is_present(agent)

    def _addresses(self, host: str) -> tuple[str, ...]:
        return self._attendance.hello_of(host).addresses if self._attendance.present(host) else ()

    # What agents say

    def attend(self, hello: Hello, send: ToAgent, stamp: Stamp) -> FromCoordinator:
        """Let an agent attend: from now on it is told by `send` what there is. Returns the answer."""
        with self._lock:
            answer = self._attendance.attend(hello, self._clock.boot_s())
            if not isinstance(answer, Attached):
                return answer
            self._links[hello.agent.host] = send
            self._attended_at[hello.agent.host] = self._clock.boot_s()
            self._lost.discard(hello.agent.host)
        _log.info("the %s attends, with %d saves", hello.agent, len(hello.saves))
        for carried in hello.saves:
            self._workers.submit(self._guarded, self._carried, hello.agent, carried, stamp)
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
            if refusal is not None:
                return refusal
            self._lost.discard(message.agent.host)
            answer = Attached(self._attendance.term, self.lease_s)
        match message:
            case Beat(agent=agent, owed=owed):
                self._workers.submit(self._guarded, self._progress, agent, owed)
            case DeclareHost(agent=agent, declaration=declaration):
                self._declare(agent, declaration, stamp)
            case PartSealed() | PartFailed():
                return self._about_part(message, answer)
            case EndSeen():
                self._workers.submit(self._guarded, self._end_seen, message)
        return answer

    def _about_part(self, message: PartSealed | PartFailed, answer: Attached) -> FromCoordinator:
        with self._lock:
            asked = self._asked.get(message.request_id)
            if asked is None:  # it attends again, and tells all
                return Fenced(self._attendance.term, self._attendance.holder)
            if asked.ended is not None:
                self._tell(asked, asked.ended)
                return answer
        take: Callable[..., None] = self._sealed if isinstance(message, PartSealed) else self._failed
        self._workers.submit(self._guarded, take, message, asked)
        return answer

    def place(self, agent: str, run: str, member: Member, options: RunOptions) -> int:
        """Give a rank of an agent's host its place; return the epoch."""
        epoch = self._coordinator.join(run, member, options)
        with self._lock:
            life = self._attendance.present(agent)
            self._members[agent, run, member.rank] = member, epoch, "" if life is None else life.incarnation
        return epoch

    def ranks_of(self, agent: str, run: str) -> tuple[list[int], int]:
        """Return the ranks of a run that have places by a host's agent, and how many have on all hosts."""
        with self._lock:
            ours = [(host, rank) for host, name, rank in self._members if name == run]
        return sorted(rank for host, rank in ours if host == agent), len(ours)

    def depart(self, agent: str, run: str, member: Member, epoch: int, *, for_good: bool) -> None:
        """Hear that a rank has gone."""
        with self._lock:
            self._members.pop((agent, run, member.rank), None)
        leave = self._coordinator.leave if for_good else self._coordinator.disconnect
        leave(run, member, epoch)

    # One save

    def _carried(self, agent: AgentLife, carried: CarriedSave, stamp: Stamp) -> None:
        said = carried.declaration
        with self._lock:
            is_known = said.request_id in self._asked
        if carried.save and not is_known:
            with suppress(NotFoundError):
                outcome = self._coordinator.outcome(SaveRef(said.run, 0, said.step, carried.save))
                if outcome.done() and outcome.exception() is None:
                    asked = Asked(said, agent, stamp, SaveRef(said.run, 0, said.step, carried.save))
                    with self._lock:
                        self._asked[said.request_id] = asked
                    self._end(asked, outcome.result())
                    return
        self._declare(agent, said, stamp)

    def _declare(self, agent: AgentLife, said: HostDeclaration, stamp: Stamp) -> None:
        with self._lock:
            asked = self._asked.get(said.request_id)
            if asked is None:
                asked = self._asked[said.request_id] = Asked(said, agent, stamp)
                self._workers.submit(self._guarded, self._begin, asked)
                return
            is_anew, asked.by = asked.by.incarnation != agent.incarnation, agent
            if asked.ended is not None:
                self._tell(asked, asked.ended)
                return
            if asked.go is None or (asked.is_sealed and not is_anew):
                return
        if is_anew and asked.ref is not None:
            self._workers.submit(self._guarded, self._coordinator.agents.begins_anew, asked.ref, agent)
        self._tell(asked, asked.go)

    def _begin(self, asked: Asked) -> None:
        """Declare for each rank, which may have lost its place meanwhile, but not what it has captured."""
        said, answers = asked.said, []
        try:
            for part in said.parts:
                epoch = self.place(asked.by.host, said.run, part.member, part.options)
                save = replace(part.declaration.save, epoch=epoch, save_id="", attempt=0, plan_id="")
                declaration = asked.stamp(replace(part.declaration, save=save, host=asked.by.host))
                asked.declared.append(declaration)
                answers.append(self._coordinator.declare(declaration))
        except NotNowError:
            self._forget(asked)  # it says so again
            return
        except NotFoundError as error:
            _log.debug("the %s has to say again what its ranks hold: %s", asked.by, error)
            self._forget(asked)
            self._tell(asked, Fenced(self._attendance.term, self._attendance.holder))
            return
        except CkptdError as error:
            self._end(asked, error)
            return
        left = [len(answers)]

        def answered(_: object) -> None:
            with self._lock:
                left[0] -= 1
                if left[0]:
                    return
            self._workers.submit(self._guarded, self._planned, asked, answers)

        for answer in answers:
            answer.add_done_callback(answered)

    def _planned(self, asked: Asked, answers: Sequence[Future[Assignment | Checkpoint]]) -> None:
        failed = next((error for each in answers if (error := each.exception()) is not None), None)
        if failed is not None:
            self._end(asked, failed if isinstance(failed, CkptdError) else ConflictError(str(failed)))
            return
        planned = [each.result() for each in answers]
        published = next((each for each in planned if isinstance(each, Checkpoint)), None)
        if published is not None:
            self._end(asked, published)
            return
        assignments = [each for each in planned if isinstance(each, Assignment)]
        first, agents, host = assignments[0], self._coordinator.agents, asked.by.host
        outcome = self._coordinator.outcome(first.save)
        try:
            agents.captured(first.save, asked.by, asked.said.ranks)  # its agent tells of a rank that is gone
            go = self._go(asked, first)
            lanes = (lane for each in assignments for lane in each.lanes)
            foreign = next((lane for lane in lanes if lane.shard != go.shard), None)
            if foreign is not None:
                agents.failed(
                    first.save,
                    asked.by,
                    f"bytes of {host} belong into a shard of another host ({foreign.key}), as they are of a tensor "
                    "that TensorFlow does not join; agents cannot exchange bytes yet",
                )
        except CkptdError as error:
            _log.debug("%s is over before it began: %s", first.save, error)
        else:
            with self._lock:
                asked.ref, asked.go = first.save, go
            if foreign is None:
                self._tell(asked, go)
        outcome.add_done_callback(lambda done: self._over(asked, done))

    def _go(self, asked: Asked, first: Assignment) -> Go:
        save, term = first.save, self._attendance.term
        try:
            share = self._coordinator.agents.share(save, asked.by.host)
        except NotFoundError:
            none = Go(term, asked.said.request_id, save.save_id, first.num_shards, None, "", 0, b"")
            return replace(none, prefix_key=first.key, attempt=save.attempt)
        return Go(
            term,
            asked.said.request_id,
            save.save_id,
            first.num_shards,
            share.shard,
            shard_key(first.key, share.shard, first.num_shards),
            share.layout.shard_sizes[share.shard],
            share.whole_digest,
            share.layout,
            first.key,
            save.attempt,
        )

    def _progress(self, agent: AgentLife, owed: Sequence[tuple[str, int]]) -> None:
        for save_id, owed_bytes in owed:
            with self._lock:
                found = (each for each in self._asked.values() if each.ref and each.ref.save_id == save_id)
                asked = next((each for each in found if each.by.host == agent.host), None)
            if asked is None or asked.ref is None or asked.go is None or asked.go.share is None:
                continue
            layout, left, told = asked.go.share, owed_bytes, {}
            for rank, _ in sorted(layout.lane_segments):
                size = int(layout.segment_size[layout.lane_segments[rank, asked.go.shard or 0]].sum())
                told[rank] = min(left, size)
                left -= told[rank]
            self._coordinator.agents.progress(asked.ref, agent, told)

    def _sealed(self, message: PartSealed, asked: Asked) -> None:
        if asked.ref is None or asked.ref.save_id != message.save:
            return  # it goes on when all have told of it again
        for receipt in message.receipts:
            self._coordinator.agents.take(asked.ref, receipt)
        with self._lock:
            asked.is_sealed = True

    def _failed(self, message: PartFailed, asked: Asked) -> None:
        if asked.ref is not None:
            self._coordinator.agents.failed(asked.ref, message.agent, message.reason)
        else:
            self._withdraw(asked, f"the {message.agent} gave up: {message.reason}")

    def _withdraw(self, asked: Asked, reason: str) -> None:
        for declaration in asked.declared[:1]:
            self._coordinator.withdraw(declaration.save, declaration.request_id, reason, declaration.name)

    def _end_seen(self, message: EndSeen) -> None:
        with self._lock:
            asked = self._asked.get(message.request_id)
        if asked is not None and message.save and message.is_sole:
            save = SaveRef(asked.said.run, 0, asked.said.step, message.save)
            self._coordinator.agents.heard_end(save, message.agent)

    def _over(self, asked: Asked, outcome: Future[Checkpoint]) -> None:
        error = outcome.exception()
        if error is None:
            self._end(asked, outcome.result())
        else:
            self._end(asked, error if isinstance(error, CkptdError) else ConflictError(str(error)))

    def _end(self, asked: Asked, how: Checkpoint | CkptdError) -> None:
        term, request_id = self._attendance.term, asked.said.request_id
        save = "" if asked.ref is None else asked.ref.save_id
        if isinstance(how, Checkpoint):
            ended = SaveEnded(term, request_id, how.save_id or save, how.prefix, checkpoint=how)
        else:
            ended = SaveEnded(term, request_id, save, reason=str(how), error=how)
        with self._lock:
            asked.ended, asked.go, asked.declared = ended, None, []
            over = [key for key, each in self._asked.items() if each.ended is not None]
            for key in over[:-_MOST_ENDED]:
                del self._asked[key]
        self._tell(asked, ended)

    def _forget(self, asked: Asked) -> None:
        with self._lock:
            if self._asked.get(asked.said.request_id) is asked:
                del self._asked[asked.said.request_id]

    def _tell(self, asked: Asked, message: FromCoordinator) -> None:
        with self._lock:
            send = self._links.get(asked.by.host)
            if send is not None:
                send(message, asked.said.run)

    # Time

    def tick(self) -> None:
        """End the saves of hosts whose agents are gone. Called several times in a lease."""
        with self._lock:
            lost = self._attendance.lost(self._clock.boot_s())
            gone = {host: silent_s for host, silent_s in lost.items() if host not in self._lost}
            self._lost.update(gone)
            left = [key for key, (_, _, by) in self._members.items() if self._has_not_come_back(key[0], by)]
        if left:
            self._workers.submit(self._guarded, self._disconnect, left)
        for host, silent_s in gone.items():
            _log.warning("the agent on %s is gone %s", host, describe_seconds(silent_s))
            self._workers.submit(self._guarded, self._host_lost, host, silent_s)

    def _has_not_come_back(self, host: str, placed_by: str) -> bool:
        """Whether a rank has no place by the present life of its host's agent, a lease after that attended."""
        life = self._attendance.present(host)
        is_late = self._clock.boot_s() - self._attended_at.get(host, 0.0) > self.lease_s
        return life is not None and placed_by != life.incarnation and is_late

    def _disconnect(self, keys: Sequence[tuple[str, str, int]]) -> None:
        for key in keys:
            with self._lock:
                member, epoch, _ = self._members.pop(key)
            with suppress(CkptdError):
                self._coordinator.disconnect(key[1], member, epoch)

    def _host_lost(self, host: str, silent_s: float) -> None:
        with self._lock:
            open_ones = [each for each in self._asked.values() if each.by.host == host and each.ended is None]
            members = [key for key in self._members if key[0] == host]
        for asked in open_ones:
            with suppress(CkptdError):
                if asked.ref is not None:
                    self._coordinator.agents.lost(asked.ref, asked.by, silent_s)
                else:
                    ranks = ", ".join(map(str, asked.said.ranks))
                    self._withdraw(asked, f"the {asked.by} is gone {describe_seconds(silent_s)}; ranks {ranks}")
        self._disconnect(members)

    def _guarded(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except CkptdError as error:
            _log.info("what an agent says has no effect: %s", error)
        except Exception:
            _log.exception("internal error about what an agent says")
