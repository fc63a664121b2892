"""What an agent's machine calls for, carried out: messages are sent, shards filled and sealed, and ranks told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from ckptd.agent.call_table import CallTable
from ckptd.agent.filling import fill, remove_begun, sums_there
from ckptd.agent.host_call import HostCall
from ckptd.agent.host_save import HostOutcome
from ckptd.agent.link import AgentLink
from ckptd.agent.machine import AgentMachine, Effect, Fill, Find, Send, Stop, Tell
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import Clock
from ckptd.engine.hosts.messages import FromCoordinator, Go, Replaced, SaveEnded
from ckptd.engine.lanes.filled_shard import FilledShard
from ckptd.engine.manifest import Manifest
from ckptd.engine.saves.engine_threads import EngineThreads
from ckptd.errors import CkptdError, SessionAbortedError
from ckptd.storage.base import Store

_log = logging.getLogger("ckptd.agent")


class Writing:
    """See the module. Thread-safe.

    Attributes:
        machine: says what is done, and when.
        calls: of the host's ranks.
        lock: guards both.
        link: to the coordinator.
        workers: for what may wait for the store or the coordinator.
    """

    def __init__(
        self,
        store: Store,
        coordinator: str,
        machine: AgentMachine,
        *,
        clock: Clock,
        threads: EngineThreads,
        find_manifest: Callable[[bytes], Manifest],
        on_attached: Callable[[], None],
    ) -> None:
        """Attend nothing yet.

        Args:
            store: where shards go.
            coordinator: its address; "" for what the root says.
            machine: of this life of the agent.
            clock: the time.
            threads: for work that waits.
            find_manifest: returns what a rank has declared by digest.
            on_attached: called, on a worker, when another life of the coordinator is attended, or the same one anew.
        """
        self.machine, self.calls, self.lock = machine, CallTable(), threading.RLock()
        self.workers, self._feeders = threads.workers_of(machine.life.host), threads.feeders_of(machine.life.host)
        self.link = AgentLink(
            store, coordinator, find_manifest=find_manifest, on_message=self._heard, on_broken=self.attend_anew
        )
        self._store, self._clock, self._on_attached = store, clock, on_attached

    # Effects. The lock is held, but in what runs on workers.

    def do(self, effects: Sequence[Effect]) -> None:
        """Carry out what the machine calls for."""
        for effect in effects:
            match effect:
                case Find():
                    self.workers.submit(self.link.find)
                case Send(message=message):
                    self.link.say(message)
                case Fill(go=go, may_be_begun=may_be_begun):
                    self.workers.submit(self._fill, go, may_be_begun)
                case Stop(save=save):
                    self.workers.submit(self._stop, save)
                case Tell(request_id=request_id, outcome=outcome):
                    self._told(request_id, outcome)

    def _heard(self, message: FromCoordinator) -> None:
        machine = self.machine
        with self.lock:
            was_attached, term = machine.is_attached, machine.highest_term
            is_current = not machine.is_outdated(message.term)
            if is_current and isinstance(message, SaveEnded):
                self._note_end(message)
            self.do(machine.hear(message, self._clock.boot_s()))
            if is_current and isinstance(message, Go) and message.shard is None:
                self._begin(message)
            if isinstance(message, Replaced):
                host = machine.life.host
                _log.error("another life of the agent of %s has taken over; this one does nothing any more", host)
            if machine.is_attached and (not was_attached or term != machine.highest_term):
                _log.info("attends the coordinator of term %d as %s", machine.highest_term, machine.life.host)
                self.workers.submit(self._on_attached)

    def attend_anew(self, addresses: Sequence[str] | None = None) -> None:
        """Attend again: the connection is gone, or other agents reach this one at these addresses from now on."""
        with self.lock:
            self.machine.attend_anew(addresses)

    def _begin(self, go: Go, shard: FilledShard | None = None) -> HostCall | None:
        call = self.calls.of_request(go.request_id)
        if call is None:
            return None
        call.go, call.shard = go, shard
        call.answer()
        return call

    def _fill(self, go: Go, may_be_begun: bool) -> None:
        def failed(error: CkptdError) -> None:
            self._fill_failed(go, str(error))

        try:
            if may_be_begun:
                remove_begun(self._store, go)
            shard = fill(self._store, go, self._clock, on_end=lambda: self._ended_lane(go), on_failure=failed)
        except CkptdError as error:
            self._fill_failed(go, str(error))
            return
        with self.lock:
            is_new = (call := self.calls.of_request(go.request_id)) is not None and call.go is None
            call = self._begin(go, shard)
            if call is None:
                self.workers.submit(shard.abort)
                return
            if not is_new and any(claim.capture is None for claim in call.claims.values()):
                self._fill_failed(go, "it was planned anew, and ranks had sent")
                return
            call.feed(self._feeders.submit)
        if not shard.lanes:
            self._ended_lane(go)

    def _fill_failed(self, go: Go, reason: str) -> None:
        with self.lock:
            self.do(self.machine.fill_failed(go.save, reason, self._clock.boot_s()))

    def _ended_lane(self, go: Go) -> None:
        with self.lock:
            call = self.calls.of_request(go.request_id)
            shard = None if call is None or call.go is not go else call.shard
        if shard is not None and not any(debt.owed_bytes for debt in shard.debts().values()):
            self.workers.submit(self._seal, go, shard)

    def _seal(self, go: Go, shard: FilledShard) -> None:
        if not all(lane.ended for lane in shard.lanes.values()):
            return
        try:
            receipt = sums_there(self._store, go, self.machine.life, shard)
        except CkptdError as error:
            self._fill_failed(go, str(error))
            return
        if receipt is None:
            return
        own, found = receipt
        with self.lock:
            now, machine = self._clock.boot_s(), self.machine
            self.do(machine.filled(own, now) if found is own else machine.found_taken(own, found, now))

    def _stop(self, save: str) -> None:
        with self.lock:
            calls = list(self.calls.of_id(save))
        for call in calls:
            if (shard := call.shard) is not None:
                shard.close(SessionAbortedError("the save is over"))
                shard.abort()
        with self.lock:
            self.do(self.machine.stopped(save))

    # Ends. The lock is held.

    def fail(self, call: HostCall, reason: str) -> None:
        """End a call; what was declared of it, the coordinator ends."""
        if call.request_id:
            self.do(self.machine.give_up(call.request_id, reason, self._clock.boot_s()))
        else:
            self._end(call, SessionAbortedError(f"{call.first.save} was aborted: {reason}"))

    def _note_end(self, message: SaveEnded) -> None:
        call = self.calls.of_request(message.request_id)
        how = message.checkpoint or (message.error if message.is_known else None)
        if call is not None and how is not None:
            self._end(call, how)

    def _told(self, request_id: str, outcome: HostOutcome) -> None:
        call = self.calls.of_request(request_id)
        if call is not None:
            self._end(call, SessionAbortedError(f"{call.first.save} was aborted: {outcome.reason or 'it is over'}"))

    def _end(self, call: HostCall, how: Checkpoint | CkptdError) -> None:
        shard = call.shard
        call.end(how)
        if shard is not None and isinstance(how, CkptdError):
            shard.close(how)
            self.workers.submit(shard.abort)
        self.calls.end(call)
