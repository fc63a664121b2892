"""The calls of `save` of a host's ranks: declared to the coordinator as they come, and answered.

Ranks that declare within moments are declared together; none waits for another of its host. What follows, the machine
says, and `ckptd.agent.writing` carries it out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import replace

from ckptd.agent.host_call import HostCall, why_over
from ckptd.agent.machine import AgentMachine
from ckptd.agent.placing import Seats, new_life
from ckptd.agent.relays import published, withdraw
from ckptd.agent.saves_here import SavesHere
from ckptd.agent.whereabouts import Whereabouts
from ckptd.agent.writing import Writing
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import Clock
from ckptd.engine.hosts.messages import AgentLife
from ckptd.engine.hosts.views import AttendingView
from ckptd.engine.identity import Declaration, Member, SaveRef
from ckptd.engine.lanes.capture import Capture
from ckptd.engine.lanes.lane_writer import LaneWriter
from ckptd.engine.layout import Assignment
from ckptd.engine.saves.answers import answered, known, settled_by_engine
from ckptd.engine.saves.claim import Claim
from ckptd.engine.saves.engine_threads import EngineThreads
from ckptd.engine.saves.known_manifests import KnownManifests
from ckptd.engine.saves.readers import Readers
from ckptd.engine.saves.session import Phase
from ckptd.engine.settings import Settings
from ckptd.errors import ConflictError, NotFoundError, UnavailableError
from ckptd.format import names
from ckptd.storage.base import Store
from ckptd.wire.v1 import common_pb2

_log = logging.getLogger("ckptd.agent")

_TELL_AGAIN_S = 1.0
_TOGETHER_S = 0.02  # ranks that declare within this time are declared together


class HostCalls:
    """See the module. Thread-safe."""

    def __init__(
        self,
        store: Store,
        host: str,
        root_id: str,
        whereabouts: Whereabouts,
        *,
        settings: Settings,
        clock: Clock,
        again_s: float,
        peer: common_pb2.Peer,
        started_by: str,
        peer_name: str | None = None,
    ) -> None:
        """Attend nothing yet; the arguments are those of `Agent`."""
        self.store, self.host, self.settings, self.clock = store, host, settings, clock
        self.manifests = KnownManifests()
        self._machine = AgentMachine(new_life(host, clock, started_by), root_id, again_s=again_s, timeout_s=3600.0)
        self._threads = EngineThreads(settings)
        self._writing = Writing(
            store,
            whereabouts,
            self._machine,
            clock=clock,
            threads=self._threads,
            find_manifest=self.manifests.find,
            on_attached=lambda: self.seats.join_again(),
            peer_name=peer_name,
        )
        self._lock, self._calls = self._writing.lock, self._writing.calls
        self.link, self.workers = self._writing.link, self._writing.workers
        self.others = self._writing.others
        self.seats = Seats(self.link, host)
        self.readers = Readers()
        self._is_closed, self._told_again_at = False, clock.boot_s()

    # Life.

    def open(self) -> None:
        """Begin to attend."""
        self._threads.open()
        self._writing.open()
        self.tick()

    def advertise(self, addresses: Sequence[str]) -> None:
        """See `Agent`."""
        self._writing.attend_anew(addresses)

    def close(self, grace_s: float = 0.0) -> bool:
        """Wait at most `grace_s` for saves under way, and end; return whether all were published."""
        with self._lock:
            under_way = list(self._calls.live)
        wait([call.outcome for call in under_way], grace_s)
        with self._lock:
            for call in (left := list(self._calls.live)):
                self._writing.fail(call, "the agent is stopping")
        self._threads.settle(5.0)
        self._is_closed = True
        with self._lock:
            self._writing.do(self._machine.end())
        self._writing.close()
        self._threads.close()
        return not left and all(call.checkpoint is not None for call in under_way)

    def tick(self) -> None:
        """Apply deadlines, and repeat what was not answered."""
        if self._is_closed:
            return
        now = self.clock.boot_s()
        with self._lock:
            for call in list(self._calls.live):
                if not call.is_given_up and (reason := why_over(call, self.host, self.settings, now)):
                    self._writing.fail(call, reason)
                elif not call.request_id:
                    if now - call.began_at >= _TOGETHER_S:
                        self._writing.declare(call)
                elif call.go is not None:
                    self._machine.progress(call.request_id, call.owed_bytes, call.owed_by_rank, call.awaited)
            if self.seats.are_untold and self._machine.is_attached and now - self._told_again_at >= _TELL_AGAIN_S:
                self._told_again_at = now
                self.workers.submit(self.seats.tell_again)
            self._machine.members = self.seats.ranks()
            self._machine.reading = frozenset(self.readers.in_use(now, self._machine.lease_s))
            self._writing.do(self._machine.tick(now))

    @property
    def life(self) -> AgentLife:
        """This life of the agent."""
        return self._machine.life

    @property
    def term(self) -> int | None:
        """Of the coordinator that is attended; None while there is none."""
        return self._machine.highest_term if self._machine.is_attached else None

    def rank_left(self, run: str, member: Member, epoch: int) -> None:
        """Hear that a rank comes no more: what it has not captured will not come."""
        place = self.seats.leave(run, member, epoch)
        with self._lock:
            for call in list(self._calls.live):
                held = call.places.get(member.rank)
                if call.run == run and held is not None and held is place:
                    held.lost_at = self.clock.boot_s()
                    if member.rank in call.dead_ranks():
                        self._writing.fail(call, f"rank {member.rank} of {self.host} left")

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
                known = self._calls.declared_by(save, declaration.request_id)
                if known is not None:
                    if capture is not None:
                        capture.ended()
                    return self._answer_of(known, save.rank)
                call = self._call_for(declaration)
                planned: Future[Assignment] = settled_by_engine()
                call.claims[save.rank] = Claim.of(declaration, manifest, capture, planned)
                call.declarations[save.rank], call.places[save.rank] = declaration, place
                if call.is_long or not self._may_others_come(call):
                    self._writing.declare(call)
                return planned

        return answered(answer)

    def _may_others_come(self, call: HostCall) -> bool:
        """Whether ranks of the host have not declared the save that a call is of."""
        declared = {rank for each in self._calls.of_checkpoint(call.run, call.first.prefix) for rank in each.claims}
        return any(rank not in declared for rank in self.seats.of(call.run))

    def _call_for(self, declaration: Declaration) -> HostCall:
        save = declaration.save
        alike = self._calls.of_checkpoint(save.run, declaration.prefix)
        if any(save.rank in call.claims for call in alike):
            raise ConflictError(f"rank {save.rank} is already saving {save}")
        for call in alike:
            if not call.request_id and call.first.said_alike == declaration.said_alike:
                return call
        call = HostCall(save.run, declaration, self.clock.boot_s())
        self._calls.begin(call)
        return call

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
                call = self._calls.declared_by(save, request_id)
                if call is None:
                    raise NotFoundError(f"rank {save.rank} has not declared {save} here")
                return self._answer_of(call, save.rank)

        return answered(answer)

    def lane(self, save: SaveRef, shard: int) -> LaneWriter:
        """See `Engine`."""
        with self._lock:
            call = self._calls.of_save(save)
            if call is None:
                raise NotFoundError(f"this agent writes nothing of {save}")
            return call.lane(save, shard)

    def outcome(self, save: SaveRef) -> Future[Checkpoint]:
        """See `Engine`. Of a save that a former life of this agent knew the coordinator says whether it is over.

        If it is not, the rank declares it again: then this life writes what the former one had not sealed.
        """
        with self._lock:
            call = self._calls.of_save(save)
        # Others of its host may have come back to this life of the agent sooner: for this rank it holds nothing yet.
        if call is not None and (save.rank in call.claims or call.is_over):
            return call.outcome
        found = published(self.link, save)
        if found is None:
            raise NotFoundError(f"{save} goes on at the coordinator, and this agent was started after it was declared")
        return known(found)

    def phase(self, save: SaveRef) -> Phase | None:
        """See `Engine`."""
        with self._lock:
            call = self._calls.of_save(save)
            return None if call is None else call.phase

    def saves_of(self, run: str) -> SavesHere | None:
        """See `Engine`."""

        def calls() -> list[HostCall]:
            with self._lock:
                return [call for call in self._calls.live if call.run == run]

        if not calls() and not self.seats.are_any(run):
            return None
        return SavesHere(calls, self._machine, self.clock, self._lock, lambda: self.seats.of(run))

    def attending(self) -> AttendingView:
        """See `Engine`."""
        with self._lock:
            view = self._machine.attending(self.link.address, self.clock.boot_s())
        why_not = "" if view.attends else view.why_not or self.link.why_not
        return replace(view, why_not=why_not, peers=tuple(self._writing.others.rates()))

    def abort(self, save: SaveRef, reason: str) -> None:
        """See `Engine`."""
        with self._lock:
            call = self._calls.of_save(save)
            if call is not None:
                self._writing.fail(call, reason, save.rank)

    def withdraw(self, save: SaveRef, request_id: str, reason: str, name: str) -> None:
        """See `Engine`: what was not declared here the coordinator is told, as others may wait for it."""
        with self._lock:
            call = self._calls.declared_by(save, request_id)
            if call is not None:
                if not call.is_over:
                    self._writing.fail(call, reason, save.rank)
                return
        self.seats.check(save.run, save.rank, save.incarnation, save.epoch)
        relayed = replace(save, epoch=self.seats.epoch(save.run))
        try:
            self.workers.submit(withdraw, self.link, relayed, request_id, reason, name)
        except RuntimeError as error:  # closed meanwhile: the rank says it to the next life
            raise UnavailableError(f"the agent on {self.host} ends") from error
