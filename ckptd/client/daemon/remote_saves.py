"""A save's calls to a daemon: declare it, send its lanes unless it is followed in memory, await it, give it up."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from dataclasses import replace
from typing import Any

import grpc

from ckptd.client import replicas
from ckptd.client.capture.capturing import takes_long
from ckptd.client.capture.handover import Handover
from ckptd.client.daemon.connection import Connection
from ckptd.client.daemon.sending import send_lane
from ckptd.client.deadline import Backoff, Deadline
from ckptd.client.saving import waits
from ckptd.client.saving.lane_source import LaneSource
from ckptd.client.saving.save_order import Turn
from ckptd.client.saving.stall import Stall
from ckptd.client.saving.transport import RunCatalog, SaveRequest
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Declaration, SaveRef
from ckptd.engine.layout import Assignment
from ckptd.engine.manifest import Manifest
from ckptd.engine.saves.views import SaveProgress
from ckptd.errors import CkptdError, ConflictError, EvictedError, NotFoundError, SessionAbortedError, UnavailableError
from ckptd.wire import convert, lanes, manifests, status
from ckptd.wire.chunks import CHUNK_BYTES
from ckptd.wire.v1 import save_pb2

_AWAIT_S = 15.0  # one request waits this long; the daemon allows 20
_CALL_MARGIN_S = 10.0
_ABORT_TIMEOUT_S = 5.0
_WITHDRAW_TIMEOUT_S = 2.0  # the caller waits for it, and wants to raise its error
_MOST_REASON = 255
_MOST_STALLS = 4  # at most two saves are under way
_RENEWAL_WAIT_S = 0.2


class RemoteSaves:
    """A `SaveTransport` to a daemon."""

    chunk_bytes = CHUNK_BYTES
    retains_here = False

    def __init__(self, connection: Connection, catalog: RunCatalog) -> None:
        self.connection = connection
        self.world_size = connection.member.world_size
        self._catalog = catalog
        self._stalls: dict[str, Stall] = {}  # by save, until its end is waited for
        self._untold: deque[tuple[str, Stall]] = deque(maxlen=_MOST_STALLS)  # calls that have returned

    def declaration(self, request: SaveRequest, digest: bytes, epoch: int) -> Declaration:
        """See `SaveTransport.declaration`."""
        connection = self.connection
        return request.declared(connection.run, connection.options, connection.seat().member, epoch, digest)

    def withdraw(self, request: SaveRequest, reason: str) -> None:
        """See `SaveTransport.withdraw`. Joins the run first if need be: others may wait for this rank."""
        if self.connection.member.world_size == 1:
            return
        with contextlib.suppress(CkptdError):
            _, membership = self.connection.joined()
            epoch = membership.welcome(Deadline(_WITHDRAW_TIMEOUT_S)).epoch
            self._withdraw(self.declaration(request, b"", epoch), reason, _WITHDRAW_TIMEOUT_S)

    def _withdraw(self, declaration: Declaration, reason: str, timeout_s: float) -> None:
        """Take a declaration back, arrived or not; return if the daemon can't, as it is an older one.

        Raises:
            SessionAbortedError: it counts no more.
        """
        request = save_pb2.AbortRequest(
            save=convert.save_to_wire(declaration.save),
            reason=reason[:_MOST_REASON],
            request_id=declaration.request_id,
            checkpoint_name=declaration.name,
        )
        with contextlib.suppress(NotFoundError):
            if self.connection.call(lambda seat: seat.save.Abort(request, timeout=timeout_s)).withdrawn:
                raise SessionAbortedError(f"{declaration.save} was given up: {reason}")

    def declare(
        self, request: SaveRequest, manifest: Manifest, deadline: Deadline, turn: Turn, handover: Handover | None
    ) -> Assignment | Checkpoint:
        """See `SaveTransport.declare`. Joins the run first, if that has not happened yet."""
        _, membership = self.connection.joined()
        begun: Declaration | None = None  # over shared memory
        if handover is not None:
            begun = handover.wait(deadline, until_summed=takes_long(manifest))
        backoff = Backoff()
        # The grace that `deadline` holds is for a daemon that answers late, not for one that is not there.
        joining = Deadline(min(request.timeout_s, deadline.remaining_s))
        is_repeated = begun is not None or handover is not None
        while True:
            waits.waiting_for(f"the daemon at {self.connection.address} to take this rank in")
            welcome = membership.welcome(joining)
            waits.waiting_for("its turn: the save before it has not been planned")
            turn.await_earlier(welcome.epoch, deadline)
            waits.waiting_for(
                f"the daemon at {self.connection.address} to plan it, once every rank has declared its part"
            )
            try:
                said = self.declaration(request, manifest.digest, welcome.epoch)
                declaration, is_repeated = replace(said, is_repeated=is_repeated), True
                is_declared = begun is not None and begun.save.epoch == welcome.epoch and welcome.awaits_plans
                answer = self._declare_once(declaration, manifest, deadline, turn, is_declared=is_declared)
                if answer is None:
                    self._withdraw(declaration, turn.given_up or "", _ABORT_TIMEOUT_S)
                    # An older daemon can only end what it has planned.
                    answer = self._declare_once(declaration, manifest, deadline, Turn())
                assert answer is not None  # this turn is not given up
                if isinstance(answer, Checkpoint):
                    self._untold.append((answer.save_id, request.stall))  # the next save tells it
                else:
                    self._note_stall(answer.save.save_id, request.stall)
                return answer
            except UnavailableError as error:
                if error.is_answer:
                    raise
                self.connection.pause(error, deadline, backoff)
            except EvictedError:
                raise
            except ConflictError:
                # Our epoch may be the old one only because we have not noticed yet that the daemon was restarted.
                if deadline.has_passed or not membership.is_newer_than(welcome.epoch, _RENEWAL_WAIT_S):
                    raise

    def _declare_once(
        self,
        declaration: Declaration,
        manifest: Manifest,
        deadline: Deadline,
        turn: Turn,
        *,
        is_declared: bool = False,
    ) -> Assignment | Checkpoint | None:
        """Declare a save, unless it is declared already, and return its plan or the checkpoint that it is already.

        None if its caller has given it up, before or meanwhile.
        """
        if is_declared and turn.given_up is None:
            await_plan = save_pb2.AwaitPlanRequest(
                save=convert.save_to_wire(declaration.save), request_id=declaration.request_id
            )
            try:
                replies = self.connection.call(
                    lambda seat: _declared(seat.save.AwaitPlan(await_plan, timeout=deadline.remaining_s), turn)
                )
                return None if replies is None else self._plan_in(replies)
            except NotFoundError:
                pass  # forgotten meanwhile: it is declared in full, as by a client that sends
        request = convert.declaration_to_wire(declaration)
        request.hears_ends = True
        is_manifest_sent = False
        while True:
            if turn.given_up is not None:
                return None
            replies = self.connection.call(
                lambda seat: _declared(seat.save.Declare(request, timeout=deadline.remaining_s), turn)
            )
            if replies is None:
                return None
            if not replies or replies[0].WhichOneof("kind") != "need_manifest":
                return self._plan_in(replies)
            if is_manifest_sent:
                raise UnavailableError(
                    f"the daemon at {self.connection.address} does not keep the manifest it was sent"
                )
            self.connection.call(
                lambda seat: seat.save.PutManifest(manifests.manifest_parts(manifest), timeout=deadline.remaining_s)
            )
            is_manifest_sent = True

    def _plan_in(self, replies: list[Any]) -> Assignment | Checkpoint:
        """Return what a daemon has answered to a declaration; raise how the save ended."""
        kind = replies[0].WhichOneof("kind") if replies else None
        if replies:
            differences = convert.differences_from_wire(replies[0].differences)
            replicas.tell(str(self.connection.address), self.connection.run, differences)
        if kind == "already_saved":
            return convert.checkpoint_from_wire(replies[0].already_saved)
        if kind == "ended":
            raise status.unpack(replies[0].ended)
        return lanes.assignment_from_wire(replies)

    def send(self, save: SaveRef, source: LaneSource, deadline: Deadline, stop: threading.Event) -> None:
        """See `SaveTransport.send`."""
        seat = self.connection.seat()
        send_lane(seat.routes, save, source, deadline, stop, seat.line)

    def outcome(self, save: SaveRef, deadline: Deadline) -> Checkpoint:
        """See `SaveTransport.outcome`. A lost answer is requested again, also from a daemon that was restarted."""
        backoff, stall = Backoff(), self._stalls.pop(save.save_id, None)
        waits.waiting_for(f"the daemon at {self.connection.address} to make it durable")
        phase = save_pb2.SAVE_PHASE_FILLING
        while True:
            wait_s = min(_AWAIT_S, deadline.remaining_s)
            if not wait_s:
                shown = save_pb2.SavePhase.Name(phase).removeprefix("SAVE_PHASE_").lower()
                raise UnavailableError(
                    f"the outcome of {save} is not known after {deadline.timeout_s:g} s: it was {shown}; "
                    f"`ckptd status {self.connection.address}` shows which ranks it waits for"
                )
            # While the call that began the save still copies, the save cannot end.
            if stall is not None and stall.seconds(wait_s) is not None:
                self._untold.append((save.save_id, stall))
                stall = None
            told = self._take_untold()
            stalls = [convert.stall_to_wire(stalled.seconds(0.0) or {}, save_id) for save_id, stalled in told]
            request = save_pb2.AwaitRequest(
                save=convert.save_to_wire(save),
                wait_s=wait_s,
                hears_ends=True,
                stalls=stalls,
            )
            try:
                reply = self._await(request)
            except UnavailableError as error:
                self._untold.extend(told)
                self.connection.pause(error, deadline, backoff)
                continue
            except NotFoundError:
                return self._find_saved(save)
            phase = reply.phase
            if reply.waiting_for:
                waits.waiting_for("; ".join(reply.waiting_for))
            if phase == save_pb2.SAVE_PHASE_PUBLISHED:
                return convert.checkpoint_from_wire(reply.checkpoint)
            if phase == save_pb2.SAVE_PHASE_ABORTED:
                raise status.unpack(reply.error)
            if phase == save_pb2.SAVE_PHASE_UNKNOWN:
                return self._find_saved(save)

    def look(self, save: SaveRef) -> SaveProgress | None:
        """See `SaveTransport.look`; an older daemon does not tell."""
        reply = self._await(save_pb2.AwaitRequest(save=convert.save_to_wire(save), hears_ends=True, only_looks=True))
        behind = reply.furthest_behind if reply.HasField("furthest_behind") else None
        return SaveProgress(reply.received_bytes, reply.size_bytes, behind) if reply.size_bytes else None

    def _note_stall(self, save_id: str, stall: Stall) -> None:
        """Keep it for the call that waits for the end of the save; one that ends otherwise tells nothing."""
        self._stalls[save_id] = stall
        for earlier in list(self._stalls)[:-_MOST_STALLS]:
            self._stalls.pop(earlier, None)

    def _take_untold(self) -> list[tuple[str, Stall]]:
        taken = []
        with contextlib.suppress(IndexError):  # another save takes them as well
            while self._untold:
                taken.append(self._untold.popleft())
        return taken

    def _find_saved(self, save: SaveRef) -> Checkpoint:
        """Check whether a save that the daemon has no record of was completed all the same."""
        for located in self._catalog.checkpoints():
            if located.checkpoint.save_id and located.checkpoint.save_id == save.save_id:
                return located.checkpoint
        raise NotFoundError(f"the daemon was restarted before {save} was complete; it kept nothing of it")

    def await_retention(self, checkpoint: Checkpoint, deadline: Deadline) -> None:
        """See `SaveTransport.await_retention`."""
        if self.connection.is_closed:
            return  # the caller is another `Checkpointer` of this process; the daemon deletes without it, too
        member = self.connection.seat().member
        save = SaveRef(self.connection.run, 0, checkpoint.step, checkpoint.save_id, rank=member.rank)
        save = replace(save, incarnation=member.incarnation)
        backoff = Backoff()
        while True:
            deadline.check(f"what retention of {self.connection.run} deletes is not gone")
            wait_s = min(_AWAIT_S, deadline.remaining_s)
            request = save_pb2.AwaitRequest(
                save=convert.save_to_wire(save), wait_s=wait_s, hears_ends=True, until_retired=True
            )
            try:
                if not self._await(request).retiring:
                    return
            except UnavailableError as error:
                self.connection.pause(error, deadline, backoff)
            except NotFoundError:
                return  # also the run is gone

    def _await(self, request: save_pb2.AwaitRequest) -> save_pb2.AwaitReply:
        reply: save_pb2.AwaitReply = self.connection.call(
            lambda seat: seat.save.Await(request, timeout=request.wait_s + _CALL_MARGIN_S)
        )
        return reply

    def abort(self, save: SaveRef, reason: str) -> None:
        """See `SaveTransport.abort`."""
        request = save_pb2.AbortRequest(save=convert.save_to_wire(save), reason=reason[:1000])
        with contextlib.suppress(CkptdError):  # then the save's own deadline ends it
            self.connection.call(lambda seat: seat.save.Abort(request, timeout=_ABORT_TIMEOUT_S))


def _declared(call: Any, turn: Turn) -> list[Any] | None:
    """Return what answers a declaration, None if it is given up; what it waits for meanwhile is told."""
    answers = []
    try:
        with turn.cancelling(call.cancel):
            for reply in call:
                if reply.WhichOneof("kind") != "waiting":
                    answers.append(reply)
                elif reply.waiting.what:
                    waits.waiting_for("; ".join(reply.waiting.what))
    except grpc.RpcError:
        if turn.given_up is None:
            raise
        return None
    return answers
