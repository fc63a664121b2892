"""One worker's, or reader's, connection for shared memory: what it requests, and what it leaves when it ends."""

from __future__ import annotations

import contextlib
import hmac
import logging
import secrets
import socket
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ckptd.access.callers import Caller
from ckptd.access.roles import Right
from ckptd.arena.lender import Arena, Lender, Tenant
from ckptd.engine.identity import SaveRef
from ckptd.engine.journal import Actor
from ckptd.engine.lanes.capture import Capture
from ckptd.engine.lanes.feeding import first_sums
from ckptd.engine.manifest import Manifest
from ckptd.errors import (
    CkptdError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    NotPermittedError,
    SessionAbortedError,
)
from ckptd.service.allowances import Allowances
from ckptd.service.gate import Gate
from ckptd.service.pacing import Pacing
from ckptd.service.recorder import Recorder
from ckptd.service.requirements import Requirement
from ckptd.service.sockets import is_hung_up, process_at
from ckptd.wire import convert, frames, status, versions
from ckptd.wire.manifests import ManifestParts
from ckptd.wire.v1 import arena_pb2

if TYPE_CHECKING:
    from ckptd.engine.front import Engine

_log = logging.getLogger("ckptd.service")

HELLO_BYTES = 4096
"""The largest message of a process that has not shown its key."""

HELLO_S = 5.0
"""How long it may take for that."""

_PACE_S = 1.0  # a delay is slept in such pieces: a policy that is replaced ends it
_KEY_BYTES = 16
_MOST_KEYS = 4096  # identities that are known by a key


class ArenaKeys:
    """A key for each identity, told over gRPC: what shows it at the socket is that identity. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: OrderedDict[Caller, bytes] = OrderedDict()

    def key_of(self, caller: Caller) -> bytes:
        """Return the key of an identity, made when it is first needed."""
        with self._lock:
            key = self._keys.setdefault(caller, secrets.token_bytes(_KEY_BYTES))
            self._keys.move_to_end(caller)
            while len(self._keys) > _MOST_KEYS:
                self._keys.popitem(last=False)
        return key

    def holder_of(self, key: bytes) -> Caller:
        """Return the identity that a key was made for; `NotPermittedError` when it is none of ours."""
        with self._lock:
            found = next((caller for caller, known in self._keys.items() if hmac.compare_digest(known, key)), None)
        if found is None:
            raise NotPermittedError("this key is of another daemon")
        return found


@dataclass(frozen=True, slots=True)
class Lending:
    """What all connections of one daemon share.

    Attributes:
        coordinator: of the saves.
        gate: judges what an identity may do.
        allowances: how much it may have at once.
        pacing: how many bytes a second it may store.
        recorder: is told of refusals.
        lender: of the memory.
        keys: by which identities are known.
        socket_mode: permissions of the socket.
        manifest_bytes: that a manifest may have.
    """

    coordinator: Engine
    gate: Gate
    allowances: Allowances
    pacing: Pacing
    recorder: Recorder
    lender: Lender
    socket_mode: int
    manifest_bytes: int
    keys: ArenaKeys = field(default_factory=ArenaKeys)


@dataclass(slots=True)
class _Begun:
    """A capture under way."""

    capture: Capture
    save: SaveRef
    name: str
    size_bytes: int


@dataclass(eq=False)
class ArenaConnection:
    """One worker, or reader. Its thread is the only one that reads from it; `close` may come from any."""

    lending: Lending
    socket: socket.socket
    place: Tenant | None = None
    _caller: Caller | None = None
    _epoch: int = 0
    _incarnation: str = ""
    _is_deaf: bool = False
    _unpaid_s: float = 0.0
    _begun: dict[str, _Begun] = field(default_factory=dict)
    _used: dict[Requirement, None] = field(default_factory=dict)

    def serve(self) -> None:
        """Answer requests until the other end closes, in the connection's own thread."""
        pid = process_at(self.socket, self.lending.socket_mode)
        while (message := self._receive()) is not None:
            try:
                request = arena_pb2.ArenaRequest.FromString(message)
            except DecodeError as error:
                raise InvalidRequestError("a message about shared memory can't be read", actual=len(message)) from error
            kind = request.WhichOneof("kind")
            reply = arena_pb2.ArenaReply()
            shared: list[int] = []
            try:
                if kind == "hello":
                    self._hello(request.hello)
                elif self._caller is None:
                    raise NotPermittedError("a connection for shared memory begins with its key")
                else:
                    reply, shared = self._answer(kind, request)
            except CkptdError as error:
                _log.debug("%s of process %d was refused: %s", kind, pid, error)
                if isinstance(error, NotPermittedError):
                    actor = Actor("" if self._caller is None else str(self._caller), "unix")
                    run = "" if self.place is None else self.place.run
                    self.lending.recorder.refused("unix:", f"shared memory: {kind}", actor, run, str(error))
                reply, shared = arena_pb2.ArenaReply(error=status.pack(error)), []
            reply.number = request.number
            try:
                if not self._is_deaf:
                    frames.send_frame(self.socket, reply.SerializeToString(), shared)
            except OSError:
                # It is gone, or stopped and takes no answers. What it has said before is still to be heard.
                self._is_deaf = True
                with contextlib.suppress(OSError):
                    self.socket.shutdown(socket.SHUT_WR)
            finally:
                if kind == "hold":
                    frames.close_all(shared)
            if self._caller is None:
                return
            self._pay()

    def _receive(self) -> bytes | None:
        """Return the next message. Before the key was shown it is short, and comes soon; clients lend nothing ever."""
        if self._caller is None:
            until = time.monotonic() + HELLO_S
            frame = frames.receive_frame(self.socket, limit_bytes=HELLO_BYTES, until=until, is_lent=False)
            self.socket.settimeout(None)
        else:
            frame = frames.receive_frame(self.socket, is_lent=False)
        return None if frame is None else frame[0]

    def _answer(self, kind: str | None, request: arena_pb2.ArenaRequest) -> tuple[arena_pb2.ArenaReply, list[int]]:
        match kind:
            case "open":
                return self._open(request.open)
            case "begin":
                self._begin(request.begin)
            case "seal":
                begun = self._of(request.seal.request_id)
                if not request.seal.sums_follow:
                    begun.capture.give_sums(_sums(request.seal.crcs))
                    self._begun.pop(request.seal.request_id)
                begun.capture.seal()
                self._unpaid_s = self._moved(begun.size_bytes)
            case "sums":
                self._of(request.sums.request_id).capture.give_sums(_sums(request.sums.crcs))
                self._begun.pop(request.sums.request_id)
            case "drop":
                begun = self._of(request.drop.request_id)
                reason = request.drop.reason[:1000]
                begun.capture.abandon(SessionAbortedError(f"{begun.save} was given up: {reason}"))
                self._begun.pop(request.drop.request_id)
                if not begun.capture.is_sealed:
                    # Other ranks need not declare it first, and this one may declare it again right after this.
                    self.lending.coordinator.withdraw(begun.save, request.drop.request_id, reason, begun.name)
            case "hold":
                return self._hold(request.hold)
            case _:
                raise InvalidRequestError("this daemon does not know this request about shared memory")
        return arena_pb2.ArenaReply(), []

    def _moved(self, size_bytes: int) -> float:
        return self.lending.pacing.moved(self._identity(), "unix", size_bytes)

    def _pay(self) -> None:
        """Take no more until what was captured is paid for, or the other end is gone: the save itself goes on."""
        until, self._unpaid_s = time.monotonic() + self._unpaid_s, 0.0
        policy = self.lending.pacing.policy
        while (left_s := until - time.monotonic()) > 0 and self.lending.pacing.policy is policy:
            if is_hung_up(self.socket, min(left_s, _PACE_S)):
                return

    def _hello(self, hello: arena_pb2.ArenaHello) -> None:
        versions.check_peer(hello.peer, role="client")
        self._caller = self.lending.keys.holder_of(hello.key)

    def _need(self, right: Right, run: str) -> None:
        needed = Requirement(right, run)
        self.lending.gate.check_still(self._identity(), needed)
        self._used[needed] = None

    def close_unless_allowed(self) -> None:
        """Close it if its identity may no longer do what it has done here. From any thread."""
        try:
            for needed in tuple(self._used):
                self.lending.gate.check_still(self._identity(), needed)
        except NotPermittedError as error:
            actor = Actor(str(self._identity()), "unix")
            self.lending.recorder.revoked("shared memory", actor, needed.run or "", str(error))
            self.close()

    def _identity(self) -> Caller:
        assert self._caller is not None, "a connection begins with its key"
        return self._caller

    def _open(self, request: arena_pb2.ArenaOpen) -> tuple[arena_pb2.ArenaReply, list[int]]:
        place = Tenant(convert.run_from_wire(request.run), request.rank)
        self._need(Right.SAVE, place.run)
        if self.place is not None and self.place != place:
            raise ConflictError("one connection is one rank's", expected=self.place, actual=place)
        self.lending.coordinator.check_member(place.run, place.rank, request.incarnation, request.epoch)
        self.place, self._epoch, self._incarnation = place, request.epoch, request.incarnation
        arenas = self.lending.lender.lend(place, self, request.size_bytes, request.count)
        return arena_pb2.ArenaReply(arenas=map(_to_wire, arenas)), [arena.segment.descriptor for arena in arenas]

    def _begin(self, request: arena_pb2.ArenaBegin) -> None:
        assert self._caller is not None, "a connection begins with its key"
        declaration = convert.declaration_from_wire(request.declare)
        append_only = not self.lending.gate.access.policy.allows(self._caller, Right.MANAGE, declaration.save.run)
        declaration = replace(declaration, actor=Actor(str(self._caller), "unix"), append_only=append_only)
        save = declaration.save
        if self.place != Tenant(save.run, save.rank) or save.incarnation != self._incarnation:
            raise ConflictError("a save was begun by another rank than the one that opened the connection")
        self._need(Right.SAVE, save.run)
        if declaration.request_id in self._begun:
            raise ConflictError(f"{save} was begun already")
        coordinator = self.lending.coordinator
        manifest = self._manifest(request, declaration.manifest_digest)
        capture = self.lending.lender.begin(
            self.place,
            self,
            request.arena,
            request.generation,
            np.frombuffer(request.offsets, "<i8").astype(np.int64),
            manifest.sizes,
            int(first_sums(manifest)[-1]),
            is_staged=request.staged,
        )
        try:
            with self.lending.allowances.beginning(self._identity(), declaration):
                declared = coordinator.declare(declaration, capture)
            error = declared.exception() if declared.done() else None
            if isinstance(error, CkptdError):
                raise error
        except CkptdError:
            capture.ended()
            raise
        self._begun[declaration.request_id] = _Begun(capture, save, declaration.name, int(manifest.sizes.sum()))

    def _manifest(self, request: arena_pb2.ArenaBegin, digest: bytes) -> Manifest:
        manifests = self.lending.coordinator.manifests
        if request.manifest:
            parts = ManifestParts(limit_bytes=self.lending.manifest_bytes)
            for part in request.manifest:
                parts.add(part)
            manifests.add(parts.finish())
        return manifests.find(digest)

    def _of(self, request_id: str) -> _Begun:
        begun = self._begun.get(request_id)
        if begun is None:
            raise NotFoundError("this save was not begun here", key=request_id[:64])
        return begun

    def _hold(self, request: arena_pb2.ArenaHold) -> tuple[arena_pb2.ArenaReply, list[int]]:
        run, key = convert.run_from_wire(request.run), convert.key_from_wire(request.key)
        self._need(Right.READ, run)
        save_id = self.lending.coordinator.look(run, lambda stored: stored.save_id_at(key), "")
        found = self.lending.lender.held(run, save_id) if save_id else None
        if found is None:
            return arena_pb2.ArenaReply(), []
        held = found.stretches
        arenas = list({each.arena.id: each.arena for each in held}.values())[: frames.MAX_DESCRIPTORS]
        opened: list[int] = []
        try:
            for arena in arenas:
                opened.append(arena.segment.read_only())
        except BaseException:
            frames.close_all(opened)
            raise
        known = {arena.id for arena in arenas}
        runs = [
            arena_pb2.ArenaRun(
                shard_key=each.stretch.shard_key,
                shard_offset=each.stretch.shard_offset,
                arena=each.arena.id,
                generation=each.generation,
                arena_offset=each.stretch.memory_offset,
                size_bytes=each.stretch.size_bytes,
            )
            for each in held
            if each.arena.id in known
        ]
        save = arena_pb2.ArenaHeldSave(save_id=save_id, index_crc32c=found.index_crc32c)
        return arena_pb2.ArenaReply(arenas=map(_to_wire, arenas), runs=runs, save=save), opened

    def end(self) -> None:
        """Settle what the worker has left, after its last message was heard."""
        for begun in self._begun.values():
            begun.capture.abandon(
                SessionAbortedError(
                    f"{begun.save} was aborted: the process of {self._owner_name()} ended, or closed its connection, "
                    "while it was captured"
                )
            )
        self._begun.clear()
        if self.place is not None:
            self.lending.lender.leave(self.place, self)
        self.socket.close()

    def _owner_name(self) -> str:
        return "a worker" if self.place is None else f"rank {self.place.rank}"

    def close(self) -> None:
        """Let the thread that serves it end."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


def _sums(packed: bytes) -> NDArray[np.uint32]:
    if len(packed) % 4:
        raise InvalidRequestError("the checksums of a capture are cut off", actual=len(packed))
    return np.frombuffer(packed, "<u4").astype(np.uint32)


def _to_wire(arena: Arena) -> arena_pb2.ArenaMemory:
    return arena_pb2.ArenaMemory(id=arena.id, size_bytes=arena.segment.size_bytes, in_use=arena.capture is not None)
