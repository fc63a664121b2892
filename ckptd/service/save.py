"""Saving, for remote ranks: every method of `SaveService` is convert, call, convert."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptd.access.callers import Caller
from ckptd.access.roles import Right
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.journal import Measured
from ckptd.engine.lanes.lane_writer import LaneWriter
from ckptd.engine.layout import Assignment, LaneTransport
from ckptd.engine.refusals import NestedRunError, NotNowError
from ckptd.engine.saves.session import Phase
from ckptd.errors import (
    CkptdError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    NotPermittedError,
    SessionAbortedError,
    UnavailableError,
)
from ckptd.service import audited
from ckptd.service.allowances import Allowances
from ckptd.service.arenas import ArenaServer
from ckptd.service.calls import Call
from ckptd.service.descriptors import Descriptors
from ckptd.service.flow import Budgets
from ckptd.service.intake import Intake
from ckptd.service.last_words import LastWords
from ckptd.service.meter import Blocked
from ckptd.service.opening import Openings
from ckptd.service.pools import Pools, settled, settled_within
from ckptd.service.presence import Presences, first_of
from ckptd.service.recorder import Recorded, Recorder
from ckptd.service.stream_processes import StreamProcesses
from ckptd.wire import convert, lanes, methods, status
from ckptd.wire.chunks import MAX_MESSAGE_BYTES, Chunk
from ckptd.wire.manifests import ManifestParts
from ckptd.wire.v1 import common_pb2, save_pb2

if TYPE_CHECKING:
    from ckptd.engine.front import Engine

_log = logging.getLogger("ckptd.service")

MAX_WAIT_S = 20.0
"""How long one Await stays open; callers repeat it."""

OPEN_S = 10.0
"""How long a Write stream may say nothing at all: until it does it holds no place that it could lose to others."""

_MOST_STALLS = 8  # that one rank has not told yet
_MOST_ID = 64  # characters of the id of a save
_MOST_AWAITED = 8  # ranks in one message

# A lane's sender learns this often how far it got; a lost stream resumes from its own first reply.
_CHUNKS_PER_REPLY = 16


@dataclass(slots=True)
class Host:
    """What the daemon tells every peer about itself; the server fills in `arenas` and `streams` at its start."""

    peer: common_pb2.Peer
    root: str
    root_id: str
    lease_s: float
    arenas: ArenaServer | None = None
    streams: StreamProcesses | None = None

    def arena_for(self, caller: Caller) -> common_pb2.ArenaAddress | None:
        """Return where shared memory is lent to `caller`; None when there is none."""
        return None if self.arenas is None else self.arenas.address_for(caller)


class SaveService:
    """Behaviours of `SaveService`, over one coordinator. Runs on one event loop."""

    def __init__(
        self,
        coordinator: Engine,
        host: Host,
        pools: Pools,
        flow: Budgets,
        allowances: Allowances,
        ending: asyncio.Event,
        recorder: Recorder,
    ) -> None:
        self._coordinator = coordinator
        self._host = host
        self._pools = pools
        self._flow = flow
        self._allowances = allowances
        self._ending = ending
        self._recorder = recorder
        self._descriptors = Descriptors()
        self.presences = Presences(coordinator, pools)
        self.last_words = LastWords()
        self._openings = Openings(coordinator, pools)

    async def join(self, request: save_pb2.JoinRequest, call: Call) -> None:
        """Make the caller a member of a run for as long as the call lives."""
        run, member, options = convert.join_from_wire(request)
        if self._ending.is_set():
            raise NotNowError("the daemon is shutting down")
        await self._check_may_found(run, call)
        await self._openings.ready(run, create=True)
        self._descriptors.check()
        told = audited.entry_of(methods.SAVE["Join"], request, call.actor)
        try:
            with self._allowances.joined(call.caller, run):
                async with self._recorder.recorded(told) as joining:
                    await self._stay(run, member, options, call, joining)
        except NestedRunError as error:
            if error.other is None or call.may(Right.READ, error.other):
                raise
            _log.info("%s may not make run %r, and is not told why: %s", call.caller, run, error)
            raise InvalidRequestError(
                f"{run!r} cannot be a run: this name is taken by another namespace; choose a name beside it"
            ) from None

    async def _stay(self, run: str, member: Member, options: RunOptions, call: Call, joining: Recorded | None) -> None:
        async with self.presences.arrive(run, member, options) as (epoch, evicted):
            if joining is not None:
                await joining.done(epoch=epoch)
            welcome = save_pb2.Welcome(
                peer=self._host.peer,
                epoch=epoch,
                lease_s=self._host.lease_s,
                root=self._host.root,
                root_id=self._host.root_id,
                max_message_bytes=MAX_MESSAGE_BYTES,
                arena=self._host.arena_for(call.caller),
            )
            await call.write(save_pb2.JoinEvent(welcome=welcome))
            await call.lasts(first_of(self._ending, evicted))
            if evicted.is_set():
                await self._pools.control(
                    run, self._coordinator.check_member, run, member.rank, member.incarnation, epoch
                )
            raise NotNowError("the daemon is shutting down")

    async def _check_may_found(self, run: str, call: Call) -> None:
        """Refuse a new run around names that the policy gives to others: runs do not nest, so it would take them."""
        others = call.names_inside(run)
        if others and not await self._pools.control(run, self._coordinator.is_founded, run):
            _log.info("%s may not make run %r: the policy gives %r to others", call.caller, run, others)
            raise NotPermittedError(
                f"{call.caller} may not make run {run!r}: the daemon's policy gives names inside it to others, and no "
                "run can be inside another; choose another name"
            )
        if (
            self._coordinator.saves_of(run) is None
            and not self._allowances.takes_another_run(call.caller)
            and not await self._pools.control(run, self._coordinator.is_founded, run)
        ):
            raise NotNowError(f"{call.caller} makes runs too fast: it may make one a second, after many at once")

    async def leave(self, request: save_pb2.LeaveRequest, call: Call) -> save_pb2.LeaveReply:
        """End a membership for good."""
        run, member, epoch = convert.leave_from_wire(request)
        await self._pools.control(run, self._coordinator.leave, run, member, epoch)
        return save_pb2.LeaveReply()

    async def put_manifest(self, call: Call) -> save_pb2.PutManifestReply:
        """Take a manifest that is not known here."""
        limits = self._flow.limits
        async with self._flow.manifests.hold(call.shares, 1, patience_s=limits.stall_s, holder=call):
            parts = ManifestParts(limit_bytes=limits.manifest_bytes)
            while (part := await call.read(stall_s=limits.stall_s)) is not None:
                parts.add(part)
            manifest = await self._pools.data(parts.finish)
            await self._pools.look(self._coordinator.manifests.add, manifest)
        return save_pb2.PutManifestReply()

    async def declare(self, request: save_pb2.DeclareRequest, call: Call) -> None:
        """Say what one rank brings; stays open until all ranks have said so, or can't any more."""
        declaration = convert.declaration_from_wire(request)
        if not await self._pools.look(self._coordinator.manifests.knows, declaration.manifest_digest):
            await call.write(save_pb2.DeclareReply(need_manifest=save_pb2.NeedManifest()))
            return
        append_only = not call.may(Right.MANAGE, declaration.save.run)
        declaration = replace(declaration, actor=call.actor, append_only=append_only)
        beginning = self._pools.submit(declaration.save.run, self._begin, call.caller, declaration)
        await self._answer(beginning, declaration.save, declaration.request_id, call, hears_ends=request.hears_ends)

    def _begin(self, caller: Caller, declaration: Declaration) -> Future[Assignment | Checkpoint]:
        with self._allowances.beginning(caller, declaration):
            return self._coordinator.declare(declaration)

    async def await_plan(self, request: save_pb2.AwaitPlanRequest, call: Call) -> None:
        """Answer a declaration that came over shared memory, as `declare` does."""
        save, request_id = convert.save_from_wire(request.save), convert.request_id_from_wire(request.request_id)
        beginning = self._pools.start_look(self._coordinator.plan_of, save, request_id)
        await self._answer(beginning, save, request_id, call, hears_ends=True)

    async def _answer(
        self,
        beginning: Future[Future[Assignment | Checkpoint]],
        save: SaveRef,
        request_id: str,
        call: Call,
        *,
        hears_ends: bool,
    ) -> None:
        """Send the answer to one rank's declaration, and meanwhile what the save waits for."""
        run = save.run
        try:
            while hears_ends and not await call.lasts(settled_within(beginning, self._flow.limits.notice_s)):
                store = f"the store of {run}, for which {self._pools.num_waiting(run)} more calls wait"
                await call.write(save_pb2.DeclareReply(waiting=save_pb2.Waiting(what=[store])))
            declaring = await settled(beginning)
            while hears_ends and not await call.lasts(settled_within(declaring, self._flow.limits.notice_s)):
                saves = self._coordinator.saves_of(run)
                what = [] if saves is None else await self._pools.look(saves.waiting_for_plan, save, request_id)
                await call.write(save_pb2.DeclareReply(waiting=save_pb2.Waiting(what=what[:_MOST_AWAITED])))
            declared = await settled(declaring)
        except CkptdError as error:
            if not (hears_ends and _ends_a_save(error)):
                _check_not_over(error)
                raise
            await call.write(save_pb2.DeclareReply(ended=status.pack(error)))
            return
        differences = []
        saves = self._coordinator.saves_of(run)
        if save.rank == 0 and saves is not None:  # one of them is enough
            found = await self._pools.look(saves.differences, save, request_id)
            differences = convert.differences_to_wire(found)
        if isinstance(declared, Checkpoint):
            saved = convert.checkpoint_to_wire(declared, run)
            await call.write(save_pb2.DeclareReply(already_saved=saved, differences=differences))
            return
        # An assignment may have a million rows: encoding them is no work for the event loop.
        replies = lanes.assignment_to_wire(declared, self._stream_port(declared, call), differences)
        while (reply := await self._pools.data(lambda: _encoded(next(replies, None)))) is not None:
            await call.write(reply)
        self.last_words.sent(replace(declared.save, rank=save.rank))

    def _stream_port(self, assignment: Assignment, call: Call) -> int:
        sends = any(lane.transport is LaneTransport.STREAM for lane in assignment.lanes)
        if self._host.streams is None or not sends or not call.is_remote:
            return 0
        return self._host.streams.port_for(assignment.save.rank)

    async def write(self, call: Call) -> None:
        """Take one lane, chunk by chunk; only a few are read before the first of them is written."""
        try:
            await self._take_lane(call)
        except UnavailableError as error:
            _check_not_over(error)
            raise

    async def _take_lane(self, call: Call) -> None:
        flow, stall_s = self._flow, self._flow.limits.stall_s
        first = await call.read(stall_s=min(stall_s, OPEN_S))
        if not isinstance(first, save_pb2.WriteRequest) or first.WhichOneof("kind") != "open":
            raise InvalidRequestError("a Write stream begins with `open`")
        save = convert.save_from_wire(first.open.save)
        # Its run's share comes first: a stream that waits for that holds nothing that other runs could use.
        async with (
            flow.streams_of_runs.hold(save.run, 1, patience_s=stall_s, holder=call),
            flow.write_streams.hold(call.shares, 1, patience_s=stall_s, holder=call),
        ):
            lane = await self._pools.control(save.run, self._coordinator.lane, save, first.open.shard)
            await call.write(save_pb2.WriteReply(received=lane.received))
            async with Intake(lane, save.run, self._pools, flow, call) as intake:
                await self._take_chunks(lane, intake, call, save)

    async def _take_chunks(self, lane: LaneWriter, intake: Intake, call: Call, save: SaveRef) -> None:
        chunks = 0
        call.on_pause = lane.excuse
        flow, now = self._flow, asyncio.get_running_loop().time
        began_at = now()
        while (message := await call.read(stall_s=flow.limits.stall_s)) is not None:
            if intake.is_empty:
                flow.meter.blocked(Blocked.NETWORK, now() - began_at)
            if isinstance(message, Chunk):
                await intake.put(message)
                chunks += 1
                if chunks % _CHUNKS_PER_REPLY == 0:
                    await call.write(save_pb2.WriteReply(received=lane.received))
                began_at = now()
            elif message.WhichOneof("kind") == "end":
                await intake.drained()
                ended = await self._end_lane(lane, message.end)
                self.last_words.sent(save)
                await call.write(ended)
            else:
                raise InvalidRequestError("after `open`, a Write stream carries chunks and `end`")
        await intake.drained()

    async def _end_lane(self, lane: LaneWriter, end: save_pb2.LaneEnd) -> save_pb2.WriteReply:
        if end.first_segment < 0 or len(end.crcs) % 4:
            raise InvalidRequestError("the end of a lane has a malformed list of checksums", actual=len(end.crcs))
        ended = await self._pools.data(lane.end, end.first_segment, end.crcs, end.last)
        return save_pb2.WriteReply(received=lane.received, ended=ended)

    async def await_(self, request: save_pb2.AwaitRequest, call: Call) -> save_pb2.AwaitReply:
        """Wait for a save's end, at most 20 s. That it was aborted is an answer like any other."""
        save = convert.save_from_wire(request.save)
        wait_s = convert.seconds_from_wire("wait_s", request.wait_s or 0.001, most=MAX_WAIT_S)
        give_up_at = time.monotonic() + wait_s
        if not request.only_looks:
            self.last_words.asked(save)
        try:
            outcome = await self._openings.control(save.run, self._coordinator.outcome, save)
        except NotFoundError:
            return save_pb2.AwaitReply(phase=save_pb2.SAVE_PHASE_UNKNOWN)
        for stall in request.stalls[:_MOST_STALLS]:
            stall_s = convert.stall_from_wire(stall)
            measured = Measured(0, sum(stall_s.values()), stall_s=stall_s)
            self._recorder.measured("stall", save.run, measured, save_id=stall.save_id[:_MOST_ID])
        if not await settled_within(outcome, wait_s):
            phase = await self._pools.control(save.run, self._coordinator.phase, save)
            # Between the two looks it may have ended, well or not; then the outcome says it.
            if phase not in (Phase.PUBLISHED, Phase.ABORTED):
                saves = self._coordinator.saves_of(save.run)
                what = [] if saves is None else await self._pools.look(saves.waiting_for, save.save_id)
                reply = save_pb2.AwaitReply(phase=convert.phase_to_wire(phase), waiting_for=what[:_MOST_AWAITED])
                if request.only_looks and saves is not None:
                    far = await self._pools.look(saves.progress, save.save_id)
                    if far is not None:
                        reply.received_bytes, reply.size_bytes = far.received_bytes, far.size_bytes
                        if far.furthest_behind is not None:
                            reply.furthest_behind = far.furthest_behind
                return reply
        try:
            checkpoint = convert.checkpoint_to_wire(await settled(outcome), save.run)
        except CkptdError as error:
            if not request.hears_ends:
                _check_not_over(error)
                raise
            return save_pb2.AwaitReply(phase=save_pb2.SAVE_PHASE_ABORTED, error=status.pack(error))
        retiring = False
        if request.until_retired:
            retired = await self._pools.control(save.run, self._coordinator.retired, save)
            retiring = not await settled_within(retired, max(0.0, give_up_at - time.monotonic()))
        return save_pb2.AwaitReply(phase=save_pb2.SAVE_PHASE_PUBLISHED, checkpoint=checkpoint, retiring=retiring)

    async def abort(self, request: save_pb2.AbortRequest, call: Call) -> save_pb2.AbortReply:
        """End a save that can't succeed any more, or take back a declaration."""
        save = convert.save_from_wire(request.save)
        reason = convert.text_from_wire(request.reason)
        if not request.request_id:
            if not call.may(Right.ADMIN, save.run):  # `status` tells ids of saves: they alone give no right to end one
                member = save.rank, save.incarnation, save.epoch
                await self._pools.control(save.run, self._coordinator.check_member, save.run, *member)
            await self._pools.control(save.run, self._coordinator.abort, save, reason)
            return save_pb2.AbortReply()
        request_id = convert.request_id_from_wire(request.request_id)
        name = request.checkpoint_name
        await self._pools.control(save.run, self._coordinator.withdraw, save, request_id, reason, name)
        return save_pb2.AbortReply(withdrawn=True)


def _ends_a_save(error: CkptdError) -> bool:
    """Whether an error says how a save ended, and not that a request was refused."""
    return not isinstance(error, NotNowError | InvalidRequestError | ConflictError | NotFoundError | NotPermittedError)


def _check_not_over(error: CkptdError) -> None:
    """Raise in its stead what no sender takes for a lost connection, if `error` says that a save is over."""
    if isinstance(error, UnavailableError) and not isinstance(error, NotNowError):
        raise SessionAbortedError(f"the save is over: {error}") from error


def _encoded(reply: save_pb2.DeclareReply | None) -> bytes | None:
    return None if reply is None else methods.encode_message(reply)
