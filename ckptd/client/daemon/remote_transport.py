"""The engine of a daemon, reached over gRPC.

Every call may be repeated, and lost answers are requested again, never guessed. Channels and threads are made with the
first call and not before, so that a program may create its `Checkpointer`, fork, and use it in the child; after the
first call forking is refused, because gRPC does not survive it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import grpc

from ckptd.client import replicas
from ckptd.client.capture.buffers import Room, RoomPool
from ckptd.client.capture.capturing import takes_long
from ckptd.client.capture.memory_layout import Placement
from ckptd.client.daemon.arenas import ArenaHandover, ArenaRoom
from ckptd.client.daemon.host_memory import is_wanted
from ckptd.client.daemon.join_call import Membership
from ckptd.client.daemon.remote_objects import objects_for
from ckptd.client.daemon.seats import SEATS, Seat
from ckptd.client.daemon.sending import send_lane
from ckptd.client.daemon.watching import DaemonWatch
from ckptd.client.deadline import Backoff, Deadline
from ckptd.client.saving import waits
from ckptd.client.saving.lane_source import LaneSource
from ckptd.client.saving.save_order import Turn
from ckptd.client.saving.sharing import Hold
from ckptd.client.saving.transport import Handover, Located, RestoreCall, SaveRequest
from ckptd.client.watch import Source, Watch
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.layout import Assignment
from ckptd.engine.log import warn_once
from ckptd.engine.manifest import Manifest
from ckptd.engine.reading.damage import Suspicion, Verdict
from ckptd.engine.saves.starts import Agreement
from ckptd.engine.series import NamedStep, name_of, of_name
from ckptd.errors import (
    CkptdError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    SessionAbortedError,
    UnavailableError,
)
from ckptd.format.names import ANY_NAME, prefix_for
from ckptd.storage.base import Objects
from ckptd.wire import addresses, convert, lanes, manifests, status, versions
from ckptd.wire.chunks import CHUNK_BYTES
from ckptd.wire.v1 import admin_pb2, common_pb2, read_pb2, save_pb2, watch_pb2

T = TypeVar("T")
Naming = TypeVar("Naming", admin_pb2.PinRequest, admin_pb2.DeleteRequest, admin_pb2.UndeleteRequest)

_AWAIT_S = 15.0  # one question lasts this long; the daemon allows 20
_CALL_MARGIN_S = 10.0
_ABORT_TIMEOUT_S = 5.0
_WITHDRAW_TIMEOUT_S = 2.0  # the caller waits for it, and wants to raise its error
_MOST_REASON = 255
_AGREEMENTS = {
    read_pb2.AGREEMENT_WAITING: Agreement.WAITING,
    read_pb2.AGREEMENT_AGREED: Agreement.AGREED,
    read_pb2.AGREEMENT_GO_BACK: Agreement.GO_BACK,
}
_RENEWAL_WAIT_S = 0.2


class RemoteTransport:
    """Talks to one daemon about one run, as one rank."""

    chunk_bytes = CHUNK_BYTES
    retains_here = False

    def __init__(
        self,
        address: str,
        run: str,
        member: Member,
        options: RunOptions,
        *,
        timeout_s: float,
        token: str | None = None,
        ca: bytes | None = None,
    ) -> None:
        self._address = addresses.parse(address)
        self._run = run
        self._member = member
        self.world_size = member.world_size
        self._options = options
        self._timeout_s = timeout_s
        self._token = token
        self._ca = ca
        self.place = f"{self._address}/{run}, {member.rank} of {member.world_size}"
        self._shares_memory = is_wanted()
        self._lock = threading.Lock()
        self._hold: Hold[Seat] | None = None
        self._objects: Objects | None = None
        self._watches: set[DaemonWatch] = set()
        self._pool = RoomPool()
        self._is_closed = threading.Event()

    # Saving.

    def room(self, size_bytes: int) -> Room:
        """See `Transport.room`. The first time it waits a moment for the daemon."""
        seat, membership = self._joined()
        return seat.arenas.room(size_bytes, membership, seat.member) or self._pool.take(size_bytes)

    def prepare(self, size_bytes: int) -> None:
        """See `Transport.prepare`."""
        seat, membership = self._joined()
        seat.arenas.prepare(size_bytes, membership, seat.member)

    def begin(
        self, request: SaveRequest, manifest: Manifest, placement: Placement, room: Room, turn: Turn
    ) -> ArenaHandover | None:
        """See `Transport.begin`."""
        if not isinstance(room, ArenaRoom) or not turn.may_begin(room.epoch, room.link):
            return None
        declaration = self._declaration(request, manifest.digest, room.epoch)
        return ArenaHandover.begin(room, declaration, placement, manifest)

    def drop(self, request: SaveRequest, room: Room, reason: str) -> None:
        """See `Transport.drop`."""
        if isinstance(room, ArenaRoom):
            ArenaHandover.drop_unseen(room.link, request.request_id, reason)

    def withdraw(self, request: SaveRequest, reason: str) -> None:
        """See `Transport.withdraw`. A daemon that has not answered yet knows of no save."""
        hold = self._hold
        if hold is None or hold.is_inherited or self.world_size == 1 or not hold.common.contact.is_made:
            return
        membership = hold.common.if_member
        if membership is None:
            return
        with contextlib.suppress(CkptdError):
            epoch = membership.welcome(Deadline(0.0)).epoch
            self._withdraw(self._declaration(request, b"", epoch), reason, _WITHDRAW_TIMEOUT_S)

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
            if self._call(lambda seat: seat.save.Abort(request, timeout=timeout_s)).withdrawn:
                raise SessionAbortedError(f"{declaration.save} was given up: {reason}")

    def declare(
        self, request: SaveRequest, manifest: Manifest, deadline: Deadline, turn: Turn, handover: Handover | None
    ) -> Assignment | Checkpoint:
        """See `Transport.declare`. Joins the run first, if that has not happened yet."""
        _, membership = self._joined()
        if isinstance(handover, ArenaHandover):
            handover.wait(deadline, until_summed=takes_long(manifest))
        backoff = Backoff()
        # The grace that `deadline` holds is for a daemon that answers late, not for one that is not there.
        joining = Deadline(min(request.timeout_s, deadline.remaining_s))
        while True:
            waits.waiting_for(f"the daemon at {self._address} to take this rank in")
            welcome = membership.welcome(joining)
            waits.waiting_for("its turn: the save before it has not been planned")
            turn.await_earlier(welcome.epoch, deadline)
            waits.waiting_for(f"the daemon at {self._address} to plan it, once every rank has declared its part")
            try:
                declaration = self._declaration(request, manifest.digest, welcome.epoch)
                answer = self._declare_once(declaration, manifest, deadline, turn)
                if answer is None:
                    self._withdraw(declaration, turn.given_up or "", _ABORT_TIMEOUT_S)
                    # An older daemon can only end what it has planned.
                    answer = self._declare_once(declaration, manifest, deadline, Turn())
                assert answer is not None  # this turn is not given up
                return answer
            except UnavailableError as error:
                if error.is_answer:
                    raise
                self._pause(error, deadline, backoff)
            except ConflictError:
                # Our epoch may be the old one only because we have not noticed yet that the daemon was restarted.
                if deadline.has_passed or not membership.is_newer_than(welcome.epoch, _RENEWAL_WAIT_S):
                    raise

    def _declaration(self, request: SaveRequest, digest: bytes, epoch: int) -> Declaration:
        member = self._open().member
        return Declaration(
            save=SaveRef(self._run, epoch, request.step, rank=member.rank, incarnation=member.incarnation),
            request_id=request.request_id,
            world_size=member.world_size,
            manifest_digest=digest,
            meta_graph=request.meta_graph,
            overwrite=request.overwrite,
            timeout_s=request.timeout_s,
            name=request.name or self._options.name,
            pad_step_number=self._options.pad_step_number,
            meta_suffix=request.meta_suffix,
            write_state=request.write_state,
            compared=request.compared,
            remarks=request.remarks,
            refuses_differences=request.refuses_differences,
        )

    def _declare_once(
        self, declaration: Declaration, manifest: Manifest, deadline: Deadline, turn: Turn
    ) -> Assignment | Checkpoint | None:
        """Declare a save; None if its caller has given it up, before or meanwhile."""
        request = convert.declaration_to_wire(declaration)
        request.hears_ends = True
        is_manifest_sent = False
        while True:
            if turn.given_up is not None:
                return None
            replies = self._call(lambda seat: _declared(seat.save.Declare(request, timeout=deadline.remaining_s), turn))
            if replies is None:
                return None
            kind = replies[0].WhichOneof("kind") if replies else None
            if replies:
                replicas.tell(str(self._address), self._run, convert.differences_from_wire(replies[0].differences))
            if kind == "already_saved":
                return convert.checkpoint_from_wire(replies[0].already_saved)
            if kind == "ended":
                raise status.unpack(replies[0].ended)
            if kind != "need_manifest":
                return lanes.assignment_from_wire(replies)
            if is_manifest_sent:
                raise UnavailableError(f"the daemon at {self._address} does not keep the manifest it was sent")
            self._call(
                lambda seat: seat.save.PutManifest(manifests.manifest_parts(manifest), timeout=deadline.remaining_s)
            )
            is_manifest_sent = True

    def send(self, save: SaveRef, source: LaneSource, deadline: Deadline, stop: threading.Event) -> None:
        """See `Transport.send`."""
        seat = self._open()
        send_lane(seat.ways, save, source, deadline, stop, seat.line)

    def outcome(self, save: SaveRef, deadline: Deadline) -> Checkpoint:
        """See `Transport.outcome`. A lost answer is requested again, also from a daemon that was restarted."""
        backoff = Backoff()
        waits.waiting_for(f"the daemon at {self._address} to make it durable")
        phase = save_pb2.SAVE_PHASE_FILLING
        while True:
            wait_s = min(_AWAIT_S, deadline.remaining_s)
            if not wait_s:
                shown = save_pb2.SavePhase.Name(phase).removeprefix("SAVE_PHASE_").lower()
                raise UnavailableError(
                    f"the outcome of {save} is not known after {deadline.timeout_s:g} s: it was {shown}; "
                    f"`ckptd status {self._address}` shows which ranks it waits for"
                )
            request = save_pb2.AwaitRequest(save=convert.save_to_wire(save), wait_s=wait_s, hears_ends=True)
            try:
                reply = self._await(request)
            except UnavailableError as error:
                self._pause(error, deadline, backoff)
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

    def _find_saved(self, save: SaveRef) -> Checkpoint:
        """Look whether a save that the daemon has no memory of was completed all the same."""
        for located in self.checkpoints():
            if located.checkpoint.save_id and located.checkpoint.save_id == save.save_id:
                return located.checkpoint
        raise NotFoundError(f"the daemon was restarted before {save} was complete; it kept nothing of it")

    def await_retention(self, checkpoint: Checkpoint, deadline: Deadline) -> None:
        """See `Transport.await_retention`."""
        if self._is_closed.is_set():
            return  # the caller is another `Checkpointer` of this process; the daemon deletes without it, too
        member = self._open().member
        save = SaveRef(self._run, 0, checkpoint.step, checkpoint.save_id, rank=member.rank)
        save = replace(save, incarnation=member.incarnation)
        backoff = Backoff()
        while True:
            deadline.check(f"what retention of {self._run} deletes is not gone")
            wait_s = min(_AWAIT_S, deadline.remaining_s)
            request = save_pb2.AwaitRequest(
                save=convert.save_to_wire(save), wait_s=wait_s, hears_ends=True, until_retired=True
            )
            try:
                if not self._await(request).retiring:
                    return
            except UnavailableError as error:
                self._pause(error, deadline, backoff)
            except NotFoundError:
                return  # also the run is gone

    def _await(self, request: save_pb2.AwaitRequest) -> save_pb2.AwaitReply:
        reply: save_pb2.AwaitReply = self._call(
            lambda seat: seat.save.Await(request, timeout=request.wait_s + _CALL_MARGIN_S)
        )
        return reply

    def abort(self, save: SaveRef, reason: str) -> None:
        """See `Transport.abort`."""
        request = save_pb2.AbortRequest(save=convert.save_to_wire(save), reason=reason[:1000])
        with contextlib.suppress(CkptdError):  # then the save's own deadline ends it
            self._call(lambda seat: seat.save.Abort(request, timeout=_ABORT_TIMEOUT_S))

    # Reading.

    def check_damage(self, located: Located, suspicion: Suspicion, call: RestoreCall) -> Verdict | None:
        """See `Transport.check_damage`."""
        request = read_pb2.CheckDamageRequest(
            peer=self._open().peer,
            run=self._run,
            key=located.key,
            save_id=located.checkpoint.save_id,
            object_key=suspicion.key,
            offset=suspicion.offset,
            reason=suspicion.reason[:_MOST_REASON],
            restoring=self._restoring(call),
        )
        reply = self._ask(lambda seat, s: _or_none(lambda: seat.read.CheckDamage(request, timeout=s)))
        if reply is None:
            return None
        return Verdict(reply.confirmed, reply.reason, is_listed_no_more=reply.listed_no_more, others=reply.others)

    def agree(self, name: str, located: Located, call: RestoreCall, is_whole: bool) -> tuple[Agreement, str]:
        """See `Transport.agree`."""
        if self._member.world_size == 1:
            return (Agreement.AGREED if is_whole else Agreement.GO_BACK), ""
        request = read_pb2.AgreeRequest(
            peer=self._open().peer,
            run=self._run,
            name=name,
            restoring=self._restoring(call),
            prefix=located.checkpoint.prefix,
            whole=is_whole,
        )
        reply = self._ask(lambda seat, s: seat.read.Agree(request, timeout=s))
        return _AGREEMENTS.get(reply.agreement, Agreement.GO_BACK), reply.missing

    def _restoring(self, call: RestoreCall | None) -> read_pb2.Restoring | None:
        """Return which call of `restore` this is; a single rank has nobody to agree with."""
        member = self._member
        if call is None or member.world_size == 1:
            return None
        return read_pb2.Restoring(id=call.id, rank=member.rank, world_size=member.world_size, together=call.is_together)

    def latest(self, name: str, call: RestoreCall | None = None) -> Located | None:
        """See `Transport.latest`."""
        restoring = self._restoring(call)
        request = read_pb2.LatestRequest(peer=self._open().peer, run=self._run, name=name, restoring=restoring)
        reply = self._ask(lambda seat, s: seat.read.Latest(request, timeout=s))
        self._learn_root(reply.root, reply.root_id, reply.arena)
        if not reply.HasField("checkpoint"):
            return None
        latest = self._located(reply.checkpoint)
        if reply.passed_by:
            warn_once(f"{self._run}: the latest is {latest.checkpoint.prefix}; passed by: {'; '.join(reply.passed_by)}")
        if name in (ANY_NAME, name_of(latest.checkpoint)):
            return latest
        # Nothing has this name, or the daemon is an older one, which does not use names.
        own = of_name(self.checkpoints(), name, checkpoint_of=lambda located: located.checkpoint)
        return latest if latest in own else own[-1] if own else None

    def checkpoints(self) -> list[Located]:
        """See `Transport.checkpoints`."""
        reply = self._ask(
            lambda seat, s: seat.read.List(read_pb2.ListRequest(peer=self._open().peer, run=self._run), timeout=s)
        )
        self._learn_root(reply.root, reply.root_id, reply.arena)
        return [self._located(checkpoint) for checkpoint in reply.checkpoints]

    def set_pinned(self, which: NamedStep, pinned: bool) -> Checkpoint:
        """See `Transport.set_pinned`."""
        request = admin_pb2.PinRequest(peer=self._open().peer, run=self._run, pinned=pinned)
        reply = self._ask(lambda seat, s: seat.admin.Pin(self._naming(request, which), timeout=s))
        return convert.checkpoint_from_wire(reply.checkpoint)

    def delete(self, which: NamedStep, for_good: bool, even_latest: bool) -> None:
        """See `Transport.delete`."""
        request = admin_pb2.DeleteRequest(
            peer=self._open().peer, run=self._run, for_good=for_good, even_latest=even_latest
        )
        self._ask(lambda seat, s: seat.admin.Delete(self._naming(request, which), timeout=s))

    def undelete(self, which: NamedStep) -> Checkpoint:
        """See `Transport.undelete`."""
        request = admin_pb2.UndeleteRequest(peer=self._open().peer, run=self._run)
        reply = self._ask(lambda seat, s: seat.admin.Undelete(self._naming(request, which), timeout=s))
        return convert.checkpoint_from_wire(reply.checkpoint)

    def _naming(self, request: Naming, which: NamedStep) -> Naming:
        """Return the request, naming a checkpoint also for an older daemon, to which a step alone is of any name."""
        request.step, request.series = which.step, which.name
        if which.name != ANY_NAME:
            request.name = prefix_for(which.name, which.step, self._options.pad_step_number)
        return request

    def objects(self, key: str) -> Objects:
        """See `Transport.objects`."""
        if self._objects is None:
            self.latest(ANY_NAME)  # tells the root
        assert self._objects is not None
        return self._open().arenas.objects(key, self._objects)

    def watch(self, name: str, timeout_s: float | None = None) -> Watch:
        """See `Transport.watch`. Raises `UnavailableError` once the daemon was away for the transport's `timeout_s`."""
        return Watch(self.watching(name), timeout_s)

    @contextlib.contextmanager
    def watching(self, name: str) -> Iterator[Source]:
        """Open a watch, and free it in the end."""
        seat = self._open()
        source = DaemonWatch(
            partial(self._open_watch, seat, name),
            address=str(self._address),
            timeout_s=self._timeout_s,
            contact=seat.contact,
            name=name,
        )
        with self._lock:
            self._watches.add(source)
        try:
            if self._is_closed.is_set():
                source.close()
            yield source
        finally:
            source.close()
            with self._lock:
                self._watches.discard(source)

    def _open_watch(self, seat: Seat, name: str, after_save_id: str) -> Any:
        return seat.watch.Watch(
            watch_pb2.WatchRequest(peer=seat.peer, run=self._run, after_save_id=after_save_id, name=name)
        )

    # The connection.

    def close(self) -> None:
        """See `Transport.close`."""
        self._is_closed.set()
        self._pool.clear()
        with self._lock:
            watches = set(self._watches)
        if self._hold is None or self._hold.is_inherited:
            return  # a forked child must not touch its parent's connections
        for source in watches:
            source.close()
        self.let_go(is_dropped=False)

    def mark_dropped(self) -> None:
        """See `Droppable`."""
        if self._hold is not None:
            self._hold.is_dropped = True

    def let_go(self, *, is_dropped: bool = True) -> None:
        """See `Droppable`."""
        hold = self._hold
        if hold is not None:
            hold.release(is_dropped=is_dropped)

    def _open(self) -> Seat:
        """Return this process's seat at the daemon."""
        with self._lock:
            if self._is_closed.is_set():
                raise InvalidRequestError("the Checkpointer was closed")
            if self._hold is not None:
                if self._hold.is_inherited:
                    raise ConflictError(
                        "this Checkpointer was used before the process forked, and gRPC does not survive that: "
                        "make a new one in the child"
                    )
                return self._hold.common
            if self._member.pid != os.getpid():  # made before a fork: every child lives a life of its own
                self._member = replace(self._member, incarnation=versions.new_incarnation(), pid=os.getpid())
            key = (str(self._address), self._run, self._member.rank, self.world_size, self._token, self._ca)
            make = partial(
                Seat,
                self._address,
                self._run,
                self._member,
                token=self._token,
                ca=self._ca,
                shares_memory=self._shares_memory,
            )
            self._hold = SEATS.hold(key, make)
            return self._hold.common

    def _joined(self) -> tuple[Seat, Membership]:
        """Return the seat, and the membership of the run that belongs to it; it may still be waited for."""
        seat = self._open()
        assert self._hold is not None  # made by `_open`
        self._hold.join(self._run, self._options, self._timeout_s)
        return seat, seat.membership(self._options)

    def _ask(self, call: Callable[[Seat, float], T]) -> T:
        """Make a short call, again while the daemon is away, within `timeout_s`."""
        contact = self._open().contact
        deadline, backoff = contact.bounded(Deadline(self._timeout_s)), Backoff()
        while True:
            try:
                return self._call(lambda seat: call(seat, deadline.remaining_s))
            except UnavailableError as error:
                if error.is_answer:
                    raise
                self._pause(error, deadline, backoff)

    def _call(self, call: Callable[[Seat], T]) -> T:
        seat = self._open()
        contact = seat.contact
        try:
            contact.check()
            answer = call(seat)
        except grpc.RpcError as error:
            failure = status.from_wire(error, address=str(self._address))
            contact.failed(failure, of_call=True)
            raise failure from None
        except CkptdError as failure:
            contact.failed(failure)
            raise
        contact.made()
        return answer

    def _pause(self, error: CkptdError, deadline: Deadline, backoff: Backoff) -> None:
        """Wait before the next attempt; raise the error when there is no time for one."""
        pause_s = backoff.next_s(deadline)
        if deadline.remaining_s <= pause_s or self._is_closed.wait(pause_s):
            assert self._hold is not None  # something was called
            raise self._hold.common.contact.given_up(error, deadline) from None

    def _learn_root(self, root: str, root_id: str, arena: common_pb2.ArenaAddress) -> None:
        seat = self._open()
        seat.arenas.learn(arena)
        if self._objects is None:
            self._objects = objects_for(seat.read, str(self._address), seat.peer, root, root_id, self._timeout_s)

    def _located(self, message: common_pb2.Checkpoint) -> Located:
        return Located(convert.checkpoint_from_wire(message), message.key)


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


def _or_none(call: Callable[[], Any]) -> Any | None:
    """Return an answer, None from a daemon that does not know the question yet."""
    try:
        return call()
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNIMPLEMENTED:
            return None
        raise


def this_member(rank: int, world_size: int) -> Member:
    """Describe this process as rank `rank`; each call begins a new incarnation."""
    return Member(rank, world_size, versions.new_incarnation(), socket.gethostname(), os.getpid())
