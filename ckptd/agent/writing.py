"""What an agent's machine calls for, carried out: messages are sent, shards filled and sealed, and ranks told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from ckptd.agent.call_table import CallTable
from ckptd.agent.effects import Effect, Fill, Find, Send, Stop, Tell
from ckptd.agent.filling import fill, remove_begun, sums_there
from ckptd.agent.host_call import HostCall
from ckptd.agent.host_save import HostOutcome
from ckptd.agent.known_shares import KnownShares
from ckptd.agent.link import AgentLink
from ckptd.agent.machine import AgentMachine
from ckptd.agent.other_agents import OtherAgents
from ckptd.agent.passing_on import AT_ONCE, PassingOn, Ways
from ckptd.agent.whereabouts import Whereabouts
from ckptd.engine.catalog.shared_trial import tried
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import Clock
from ckptd.engine.hosts.messages import FromCoordinator, Go, HostDeclaration, NotYet, Receipt, Replaced, SaveEnded
from ckptd.engine.lanes.filled_shard import FilledShard
from ckptd.engine.manifest import Manifest
from ckptd.engine.saves.engine_threads import EngineThreads
from ckptd.engine.saves.workers import Workers
from ckptd.errors import CkptdError, ConflictError, NotFoundError, SessionAbortedError, UnavailableError
from ckptd.storage.base import Store
from ckptd.storage.pace import Pace

_log = logging.getLogger("ckptd.agent")


@dataclass(slots=True, eq=False)
class _Part:
    """A shard that is filled, for one or several calls of ranks of the host."""

    shard: FilledShard | None = None  # until it is created
    waiting: list[Go] = field(default_factory=list)  # for that
    is_stopped: bool = False  # before it was
    is_sealing: bool = False
    sealed: tuple[Receipt, Receipt | None] | None = None  # what was to be written, and what is there


class Writing:
    """See the module. Thread-safe.

    Attributes:
        machine: says what is done, and when.
        calls: of the host's ranks.
        lock: guards both.
        link: to the coordinator.
        others: the agents of other hosts.
        workers: for what may wait for the store or the coordinator.
    """

    def __init__(
        self,
        store: Store,
        whereabouts: Whereabouts,
        machine: AgentMachine,
        *,
        clock: Clock,
        threads: EngineThreads,
        find_manifest: Callable[[bytes], Manifest],
        on_attached: Callable[[], None],
        peer_name: str | None = None,
    ) -> None:
        """Attend nothing yet.

        Args:
            store: where shards go.
            whereabouts: of the coordinator.
            machine: of this life of the agent.
            clock: the time.
            threads: for work that waits.
            find_manifest: returns what a rank has declared by digest.
            peer_name: see `OtherAgents`.
            on_attached: called, on a worker, when another life of the coordinator is attended, or the same one anew.
        """
        self.machine, self.calls, self.lock = machine, CallTable(), threading.RLock()
        self.workers, self._feeders = threads.workers_of(machine.life.host), threads.feeders_of(machine.life.host)
        self.link = AgentLink(
            whereabouts,
            find_manifest=find_manifest,
            prepare=partial(tried, store),
            on_message=self._heard,
            on_broken=self.attend_anew,
        )
        self._store, self._clock, self._on_attached = store, clock, on_attached
        self._pace = Pace()
        self._shares = KnownShares()
        self._parts: dict[str, _Part] = {}  # by save
        self.others = OtherAgents(whereabouts.credentials, peer_name=peer_name)
        self._passers = Workers(AT_ONCE, "ckptd-pass")
        self._ways = Ways(self.others, self.link.stubs, clock.boot_s, self._passers.submit)

    def open(self) -> None:
        """Begin to speak with the coordinator."""
        self._passers.open()
        self.link.start()

    def close(self) -> None:
        """Speak with nobody any more. All calls have ended."""
        self.link.close()
        self._passers.close()
        self.others.close()

    # Effects. The lock is held, but in what runs on workers.

    def do(self, effects: Sequence[Effect]) -> None:
        """Carry out what the machine calls for."""
        for effect in effects:
            match effect:
                case Find():
                    self.workers.submit(self.link.find)
                case Send(message=message):
                    self.link.say(message)
                case Fill(go=go, declaration=said, may_be_begun=may_be_begun):
                    self._fill(go, said, may_be_begun)
                case Stop(save=save):
                    self.workers.submit(self._stop, save)
                case Tell(request_id=request_id, outcome=outcome):
                    self._told(request_id, outcome)

    def _heard(self, message: FromCoordinator) -> None:
        machine = self.machine
        if isinstance(message, NotYet):
            with self.lock:
                if (call := self.calls.of_request(message.request_id)) is not None:
                    call.why_not_yet = message.reason
            return
        with self.lock:
            was_attached, term = machine.is_attached, machine.highest_term
            is_current = not machine.is_outdated(message.term)
            if is_current and isinstance(message, SaveEnded):
                self._note_end(message)
            self.do(machine.hear(message, self._clock.boot_s()))
            if is_current and isinstance(message, Go):
                self._told_anew(message)
            if isinstance(message, Replaced):
                _log.error("%s. This one does nothing any more", machine.why_not)
            if machine.is_attached and (not was_attached or term != machine.highest_term):
                _log.info("attends the coordinator of term %d as %s", machine.highest_term, machine.life.host)
                self.workers.submit(self._on_attached)

    def attend_anew(self, addresses: Sequence[str] | None = None) -> None:
        """Attend again: the connection is gone, or other agents reach this one at these addresses from now on."""
        with self.lock:
            self.machine.attend_anew(addresses)

    def declare(self, call: HostCall) -> None:
        """Declare a call; no rank is added to it any more."""
        is_retry = any(each.is_repeated for each in call.declarations.values())
        said = self._shares.added_to(call.declared())
        self.do(self.machine.declare(said, self._clock.boot_s(), is_retry=is_retry))

    # A shard. The lock is held where it says so.

    def _told_anew(self, go: Go) -> None:
        """Hear where agents are that something is passed on to already, or that nothing is owed; with the lock held."""
        call = self.calls.of_request(go.request_id)
        if call is not None and call.go is not None and call.go.save == go.save:
            if call.passing is not None:
                call.passing.renew(go)
        elif self.machine.is_sealed(go.request_id):
            self._begin(go)  # its ranks wait for an answer

    def _begin(self, go: Go, shard: FilledShard | None = None) -> HostCall | None:
        """Answer the ranks of a call, and begin to pass on what others write, with the lock held."""
        call = self.calls.of_request(go.request_id)
        if call is None or call.go is go:
            return None
        if call.passing is not None:
            call.passing.close(ConflictError("it was planned anew"))
        call.go, call.shard, call.passing = go, shard, None
        for claim in call.claims.values():
            claim.plan_anew()
        if go.passing:
            call.passing = PassingOn(
                go,
                call.claims,
                call.ref,
                self._ways,
                on_passed=lambda: self._finished(go),
                on_failure=lambda error: self._passing_failed(go, str(error)),
            )
        call.answer()
        return call

    def _fill(self, go: Go, said: HostDeclaration, may_be_begun: bool) -> None:
        """Begin a shard, or take part in the one that is begun; with the lock held."""
        try:
            go = self._shares.completed(go, said)
        except NotFoundError as error:
            self._fill_failed(go, error)
            return
        part = self._parts.get(go.save)
        if go.shard is None:
            self._take_part(go, None)
        elif part is None:
            self._parts[go.save] = part = _Part(waiting=[go])
            self.workers.submit(self._create, go, part, may_be_begun)
        elif part.shard is None:
            part.waiting.append(go)
        else:
            self._take_part(go, part.shard)

    def _create(self, go: Go, part: _Part, may_be_begun: bool) -> None:
        try:
            if may_be_begun:
                remove_begun(self._store, go)
            shard = fill(
                self._store,
                go,
                self._clock,
                self._pace,
                on_end=lambda: self._ended_lane(go, part),
                on_failure=lambda error: self._fill_failed(go, error),
            )
        except CkptdError as error:
            with self.lock:
                if part.is_stopped:
                    self.machine.stopped(go.save)
                else:
                    self._parts.pop(go.save, None)
                    self._fill_failed(go, error)
            return
        with self.lock:
            if not part.is_stopped:
                part.shard, waiting, part.waiting = shard, part.waiting, []
                for each in waiting:
                    self._take_part(each, shard)
        if part.is_stopped:
            shard.abort()
            with self.lock:
                self.machine.stopped(go.save)
        elif not shard.lanes:
            self._ended_lane(go, part)

    def _take_part(self, go: Go, shard: FilledShard | None) -> None:
        """Fill what the ranks of a call owe to the shard, if there is one, with the lock held."""
        former = None if (call := self.calls.of_request(go.request_id)) is None else call.go
        call = self._begin(go, shard)
        if call is None:
            return
        if former is not None and any(claim.capture is None for claim in call.claims.values()):
            self._fill_failed(go, "it was planned anew, and ranks had sent")
            return
        call.feed(self._feeders.submit)
        if call.passing is not None and call.passing.is_passed:
            self._finished(go)

    def _passing_failed(self, go: Go, reason: str) -> None:
        with self.lock:
            self.do(self.machine.passing_failed(go.request_id, reason, self._clock.boot_s()))

    def _fill_failed(self, go: Go, why: str | CkptdError) -> None:
        with self.lock:
            self.do(self.machine.fill_failed(go.save, why, self._clock.boot_s()))

    def _ended_lane(self, go: Go, part: _Part) -> None:
        with self.lock:
            shard = part.shard
            if shard is None or part.is_sealing or not all(lane.ended for lane in shard.lanes.values()):
                return
            part.is_sealing = True
        self.workers.submit(self._seal, go, part, shard)

    def _seal(self, go: Go, part: _Part, shard: FilledShard) -> None:
        with self.lock:
            if not self.machine.may_finish(go.save, self._clock.boot_s()):
                return  # the machine ends it
        try:
            receipt = sums_there(self._store, go, self.machine.life, shard)
        except CkptdError as error:
            self._fill_failed(go, error)
            return
        if receipt is None:
            return
        with self.lock:
            part.sealed = receipt
        self._finished(go)

    def _finished(self, go: Go) -> None:
        """Tell the coordinator, if the shard is durable and all has arrived that was to be passed on."""
        with self.lock:
            now, machine, part = self._clock.boot_s(), self.machine, self._parts.get(go.save)
            ours = [call for call in self.calls.live if call.go is not None and call.go.save == go.save]
            passed = [call for call in ours if call.passing is None or call.passing.is_passed]
            for call in passed:
                if call.go is not None and call.go.shard is None:
                    self.do(machine.passed(call.request_id, now))
            if len(passed) == len(ours) and part is not None and part.sealed is not None:
                own, found = part.sealed
                self.do(machine.filled(own, now) if found is own else machine.found_taken(own, found, now))

    def _stop(self, save: str) -> None:
        with self.lock:
            part = self._parts.pop(save, None)
            if part is not None and part.shard is None:
                part.is_stopped = True  # what is being created is aborted as soon as it is
                return
        if part is not None and part.shard is not None:
            part.shard.close(SessionAbortedError("the save is over"))
            part.shard.abort()
        with self.lock:
            self.machine.stopped(save)

    # Ends. The lock is held.

    def fail(self, call: HostCall, reason: str, rank: int | None = None) -> None:
        """Give a call up, or let `rank` do so: the coordinator ends it, on all hosts, and is told if it was not yet."""
        if not call.request_id:
            self.declare(call)
        call.is_given_up = True
        self.do(self.machine.give_up(call.request_id, reason, self._clock.boot_s(), rank))

    def _note_end(self, message: SaveEnded) -> None:
        call = self.calls.of_request(message.request_id)
        how = message.checkpoint or (message.error if message.is_known else None)
        if call is not None and how is not None:
            self._end(call, how, message.index_crc32c)

    def _told(self, request_id: str, outcome: HostOutcome) -> None:
        call = self.calls.of_request(request_id)
        if call is not None:
            why = outcome.reason or "it is over"
            if outcome.is_known:
                self._end(call, SessionAbortedError(f"{call.first.save} was aborted: {why}"))
            else:
                self._end(call, UnavailableError(f"cannot tell whether {call.first.save} was saved: {why}"))

    def _end(self, call: HostCall, how: Checkpoint | CkptdError, index_crc32c: int | None = None) -> None:
        shard = call.shard
        call.end(how, index_crc32c)
        if shard is not None and isinstance(how, CkptdError):
            # A write under way may fail, and wants our lock then. It is waited for when the machine stops the save:
            # then what is written goes, too.
            shard.refuse(how)
        self.calls.end(call)
