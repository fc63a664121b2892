"""The calls of `save` of a host's ranks: collected, declared to the coordinator, filled, and told how they ended.

The machine says what is to be done, and when; this carries it out.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress

from ckptd.agent.filling import fill, sums_there
from ckptd.agent.host_call import HostCall, why_over
from ckptd.agent.host_save import HostOutcome
from ckptd.agent.link import AgentLink
from ckptd.agent.machine import AgentMachine, Effect, Fill, Find, Send, Stop, Tell
from ckptd.agent.placing import Seats, new_life
from ckptd.agent.relays import published
from ckptd.agent.saves_here import SavesHere
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import Clock
from ckptd.engine.hosts.messages import FromCoordinator, Go, HostDeclaration, Replaced, SaveEnded
from ckptd.engine.identity import Declaration, Member, SaveRef
from ckptd.engine.lanes.capture import Capture
from ckptd.engine.lanes.filled_shard import FilledShard
from ckptd.engine.lanes.lane_writer import LaneWriter
from ckptd.engine.layout import Assignment
from ckptd.engine.refusals import NotNowError
from ckptd.engine.saves.answers import answered, settled_by_engine
from ckptd.engine.saves.claim import Claim
from ckptd.engine.saves.engine_threads import EngineThreads
from ckptd.engine.saves.known_manifests import KnownManifests
from ckptd.engine.saves.session import Phase
from ckptd.engine.settings import Settings
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError, NotFoundError, SessionAbortedError
from ckptd.format import names
from ckptd.storage.base import Store
from ckptd.wire.v1 import common_pb2

_log = logging.getLogger("ckptd.agent")

_MOST_ENDED = 256  # calls, remembered for retries of ranks
_JOINING_S = 5.0  # so long others of the host may take to join after the first has declared


class HostCalls:
    """See the module. Thread-safe."""

    def __init__(
        self,
        store: Store,
        host: str,
        root_id: str,
        addresses: Sequence[str],
        coordinator: str,
        *,
        settings: Settings,
        clock: Clock,
        again_s: float,
        peer: common_pb2.Peer,
    ) -> None:
        """Attend nothing yet; the arguments are those of `Agent`."""
        self.store, self.host, self.settings, self.clock = store, host, settings, clock
        self.manifests = KnownManifests()
        self._lock = threading.RLock()
        self._machine = AgentMachine(
            new_life(host, clock), root_id, tuple(addresses), again_s=again_s, timeout_s=3600.0
        )
        self.link = AgentLink(
            store, coordinator, find_manifest=self.manifests.find, on_message=self._heard, on_broken=self._broken
        )
        self._threads = EngineThreads(settings)
        self.workers, self._feeders = self._threads.workers_of(host), self._threads.feeders_of(host)
        self.seats = Seats(self.link, host, peer, clock.boot_s, settings.lease_s)
        self._live: list[HostCall] = []
        self._ended: OrderedDict[int, HostCall] = OrderedDict()
        self._is_closed = False

    # Life.

    def open(self) -> None:
        """Begin to attend."""
        self._threads.open()
        self.link.start()
        self.tick()

    def close(self, grace_s: float = 0.0) -> bool:
        """Wait at most `grace_s` for saves under way, and end; return whether all were published."""
        with self._lock:
            under_way = list(self._live)
        for call in under_way:
            with suppress(Exception):
                call.outcome.exception(grace_s)
        with self._lock:
            for call in (left := list(self._live)):
                self._fail(call, "the agent is stopping")
        self._threads.settle(5.0)
        self._is_closed = True
        self.link.close()
        self._threads.close()
        return not left and all(call.checkpoint is not None for call in under_way)

    def tick(self) -> None:
        """Apply deadlines, and repeat what was not answered."""
        if self._is_closed:
            return
        now = self.clock.boot_s()
        with self._lock:
            for call in list(self._live):
                if reason := why_over(call, self.seats.awaited(call.run), self.host, self.settings, now):
                    self._fail(call, reason)
                elif not call.request_id:
                    self._declare_if_all_have(call)  # some may have gone, or not come back
                elif call.go is not None:
                    self._machine.progress(call.go.save, call.owed_bytes)
            self._machine.members = self.seats.ranks()
            self._do(self._machine.tick(now))

    def rank_left(self, run: str, member: Member, epoch: int) -> None:
        """Hear that a rank comes no more: what it has not captured will not come."""
        place = self.seats.leave(run, member, epoch)
        with self._lock:
            for call in list(self._live):
                held = call.places.get(member.rank)
                if call.run == run and held is not None and held is place:
                    held.lost_at = self.clock.boot_s()
                    if member.rank in call.dead_ranks():
                        self._fail(call, f"rank {member.rank} of {self.host} left")

    # Saving.

    def declare(self, declaration: Declaration, capture: Capture | None = None) -> Future[Assignment | Checkpoint]:
        """See `Engine`."""
        names.check_checkpoint_name(declaration.name)
        names.check_meta_suffix(declaration.meta_suffix)
        manifest = self.manifests.find(declaration.manifest_digest)

        def answer() -> Future[Assignment] | Checkpoint:
            save = declaration.save
            place = self.seats.check(save.run, save.rank, save.incarnation, save.epoch)
            with self._lock:
                known = self._declared_by(save, declaration.request_id)
                if known is not None:
                    if capture is not None:
                        capture.ended()
                    return self._answer_of(known, save.rank)
                call = self._call_for(declaration)
                planned: Future[Assignment] = settled_by_engine()
                call.claims[save.rank] = Claim.of(declaration, manifest, capture, planned)
                call.declarations[save.rank], call.places[save.rank] = declaration, place
                self._declare_if_all_have(call)
                return planned

        return answered(answer)

    def _declare_if_all_have(self, call: HostCall) -> None:
        if call.request_id or call.missing(self.seats.awaited(call.run)):
            return
        if not self.seats.are_all_here(call.run) and self.clock.boot_s() - call.began_at < _JOINING_S:
            self.workers.submit(self.seats.ask_again, call.run)
            return
        said = call.declared()
        # What a rank declares here first it may have declared to a former life of this agent.
        is_retry = not all(call.places[rank].has_declared for rank in said.ranks)
        for each in call.places.values():
            each.has_declared = True
        self._do(self._machine.declare(said, self.clock.boot_s(), is_retry=is_retry))

    def _call_for(self, declaration: Declaration) -> HostCall:
        save = declaration.save
        for call in self._live:
            if call.run == save.run and call.first.prefix == declaration.prefix:
                if call.request_id or save.rank in call.claims:
                    raise ConflictError(f"rank {save.rank} is already saving {save}")
                if call.first.said_alike != declaration.said_alike:
                    raise InvalidRequestError(
                        f"rank {save.rank} disagrees with rank {call.first.save.rank} about {save}",
                        expected=call.first.said_alike,
                        actual=declaration.said_alike,
                    )
                return call
        call = HostCall(save.run, declaration, self.clock.boot_s())
        self._live.append(call)
        return call

    def _declared_by(self, save: SaveRef, request_id: str) -> HostCall | None:
        for call in (*self._live, *self._ended.values()):
            claim = call.claims.get(save.rank)
            if call.run == save.run and claim is not None and claim.is_by(save, request_id):
                return call
        return None

    @staticmethod
    def _answer_of(call: HostCall, rank: int) -> Future[Assignment] | Checkpoint:
        if call.error is not None:
            raise call.error
        if call.checkpoint is not None:
            return call.checkpoint
        planned = call.claims[rank].planned
        assert planned is not None, "what is not over has an answer"
        return planned

    def plan_of(self, save: SaveRef, request_id: str) -> Future[Assignment | Checkpoint]:
        """See `Engine`."""

        def answer() -> Future[Assignment] | Checkpoint:
            with self._lock:
                call = self._declared_by(save, request_id)
                if call is None:
                    raise NotFoundError(f"rank {save.rank} has not declared {save} here")
                return self._answer_of(call, save.rank)

        return answered(answer)

    def lane(self, save: SaveRef, shard: int) -> LaneWriter:
        """See `Engine`."""
        with self._lock:
            call = self._of_save(save)
            if call is None:
                raise NotFoundError(f"this agent writes nothing of {save}")
            return call.lane(save, shard)

    def _of_save(self, save: SaveRef) -> HostCall | None:
        calls = (*self._live, *self._ended.values())
        return next((c for c in calls if c.go is not None and c.go.save == save.save_id and c.run == save.run), None)

    def outcome(self, save: SaveRef) -> Future[Checkpoint]:
        """See `Engine`: of a save that a former life of this agent knew, the coordinator is asked again and again."""
        with self._lock:
            call = self._of_save(save)
        if call is not None:
            return call.outcome
        found = published(self.link, save)
        outcome: Future[Checkpoint] = settled_by_engine()
        if found is None:
            raise NotNowError(f"{save} goes on at the coordinator")
        outcome.set_result(found)
        return outcome

    def phase(self, save: SaveRef) -> Phase | None:
        """See `Engine`."""
        with self._lock:
            call = self._of_save(save)
            return None if call is None else call.phase

    def saves_of(self, run: str) -> SavesHere | None:
        """See `Engine`."""
        with self._lock:
            return SavesHere([call for call in self._live if call.run == run], self._machine, self.clock)

    def abort(self, save: SaveRef, reason: str) -> None:
        """See `Engine`."""
        with self._lock:
            call = self._of_save(save)
            if call is not None:
                self._fail(call, f"rank {save.rank} gave up: {reason}")

    def withdraw(self, save: SaveRef, request_id: str, reason: str, name: str) -> None:
        """See `Engine`."""
        with self._lock:
            call = self._declared_by(save, request_id)
            if call is not None and not call.is_over:
                self._fail(call, f"rank {save.rank} gave up: {reason}")

    # The machine's effects. The lock is held, but in what runs on workers.

    def _do(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Find():
                    self.workers.submit(self.link.find)
                case Send(message=message):
                    self.link.say(message)
                case Fill(go=go, declaration=declaration):
                    self.workers.submit(self._fill, go, declaration)
                case Stop(save=save):
                    self.workers.submit(self._stop, save)
                case Tell(request_id=request_id, outcome=outcome):
                    self._told(request_id, outcome)

    def _heard(self, message: FromCoordinator) -> None:
        with self._lock:
            was_attached, term = self._machine.is_attached, self._machine.highest_term
            is_current = not self._machine.is_outdated(message.term)
            if is_current and isinstance(message, SaveEnded):
                self._note_end(message)
            self._do(self._machine.hear(message, self.clock.boot_s()))
            if is_current and isinstance(message, Go) and message.shard is None:
                self._begin(message)
            if isinstance(message, Replaced):
                _log.error("another life of the agent of %s has taken over; this one does nothing any more", self.host)
            if self._machine.is_attached and (not was_attached or term != self._machine.highest_term):
                _log.info("attends the coordinator of term %d as %s", self._machine.highest_term, self.host)
                self.workers.submit(self.seats.join_again)

    def _broken(self) -> None:
        with self._lock:
            self._machine.is_attached = False

    def _call(self, request_id: str) -> HostCall | None:
        return next((call for call in self._live if call.request_id == request_id), None)

    def _begin(self, go: Go, shard: FilledShard | None = None) -> HostCall | None:
        call = self._call(go.request_id)
        if call is None:
            return None
        call.go, call.shard = go, shard
        call.answer()
        return call

    def _fill(self, go: Go, said: HostDeclaration) -> None:
        def failed(error: CkptdError) -> None:
            self._fill_failed(go, str(error))

        try:
            shard = fill(self.store, go, self.clock, on_end=lambda: self._ended_lane(go), on_failure=failed)
        except CkptdError as error:
            self._fill_failed(go, str(error))
            return
        with self._lock:
            is_new = (call := self._call(go.request_id)) is not None and call.go is None
            call = self._begin(go, shard)
            if call is None:
                self.workers.submit(shard.abort)
                return
            if not is_new and any(claim.capture is None for claim in call.claims.values()):
                self._do(
                    self._machine.fill_failed(go.save, "it was planned anew, and ranks had sent", self.clock.boot_s())
                )
                return
            call.feed(self._feeders.submit)
        if not shard.lanes:
            self._ended_lane(go)

    def _fill_failed(self, go: Go, reason: str) -> None:
        with self._lock:
            self._do(self._machine.fill_failed(go.save, reason, self.clock.boot_s()))

    def _ended_lane(self, go: Go) -> None:
        with self._lock:
            call = self._call(go.request_id)
            shard = None if call is None or call.go is not go else call.shard
        if shard is not None and not any(debt.owed_bytes for debt in shard.debts().values()):
            self.workers.submit(self._seal, go, shard)

    def _seal(self, go: Go, shard: FilledShard) -> None:
        if not all(lane.ended for lane in shard.lanes.values()):
            return
        try:
            receipt = sums_there(self.store, go, self._machine.life, shard)
        except CkptdError as error:
            self._fill_failed(go, str(error))
            return
        if receipt is None:
            return
        own, found = receipt
        with self._lock:
            now, machine = self.clock.boot_s(), self._machine
            self._do(machine.filled(own, now) if found is own else machine.found_taken(own, found, now))

    def _stop(self, save: str) -> None:
        with self._lock:
            calls = [c for c in (*self._live, *self._ended.values()) if c.go is not None and c.go.save == save]
        for call in calls:
            if (shard := call.shard) is not None:
                shard.close(SessionAbortedError("the save is over"))
                shard.abort()
        with self._lock:
            self._do(self._machine.stopped(save))

    def _fail(self, call: HostCall, reason: str) -> None:
        if call.request_id:
            self._do(self._machine.give_up(call.request_id, reason, self.clock.boot_s()))
        else:
            self._end(call, SessionAbortedError(f"{call.first.save} was aborted: {reason}"))

    def _note_end(self, message: SaveEnded) -> None:
        call = self._call(message.request_id)
        how = message.checkpoint or (message.error if message.is_known else None)
        if call is not None and how is not None:
            self._end(call, how)

    def _told(self, request_id: str, outcome: HostOutcome) -> None:
        call = self._call(request_id)
        if call is not None:
            self._end(call, SessionAbortedError(f"{call.first.save} was aborted: {outcome.reason or 'it is over'}"))

    def _end(self, call: HostCall, how: Checkpoint | CkptdError) -> None:
        shard = call.shard
        call.end(how)
        if shard is not None and isinstance(how, CkptdError):
            shard.close(how)
            self.workers.submit(shard.abort)
        self._live.remove(call)
        self._ended[id(call)] = call
        if len(self._ended) > _MOST_ENDED:
            self._ended.popitem(last=False)
