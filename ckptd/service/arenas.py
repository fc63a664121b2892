"""Shared memory for workers on this host: a Unix socket beside gRPC, as gRPC can't pass descriptors on.

Each connection has a thread: workers of one host are few, and a thread that waits costs nothing. What a worker has said
before it died still arrives, so a save that it has sealed needs it no longer.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import secrets
import socket
import struct
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ckptd.access.callers import Caller
from ckptd.access.roles import Right
from ckptd.arena.lender import Arena, Lender, Tenant
from ckptd.engine.identity import SaveRef
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
    UnavailableError,
)
from ckptd.service import refusal_log
from ckptd.service.gate import Gate
from ckptd.service.requirements import Requirement
from ckptd.service.sockets import may_be_in_use
from ckptd.wire import convert, frames, status, versions
from ckptd.wire.manifests import ManifestParts
from ckptd.wire.v1 import arena_pb2, common_pb2

if TYPE_CHECKING:
    from ckptd.engine.saves.coordinator import Coordinator

_log = logging.getLogger("ckptd.service")

_MAX_CONNECTIONS = 512
_TICK_S = 30.0
_ACCEPT_PAUSE_S = 1.0
_KEY_BYTES = 16
_MOST_KEYS = 4096  # identities that are known by a key
_PEERCRED = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


class ArenaServer:
    """Lends arenas over a Unix socket at `path`, to processes of our own user unless `mode` lets others in."""

    def __init__(
        self, coordinator: Coordinator, gate: Gate, lender: Lender, path: Path, mode: int, manifest_bytes: int
    ) -> None:
        self.lender = lender
        self.gate = gate
        self._keys: OrderedDict[Caller, bytes] = OrderedDict()
        self.coordinator = coordinator
        coordinator.on_catalog = lender.keep_only
        self.manifest_bytes = manifest_bytes
        self._path = path
        self._mode = mode
        self._listener: socket.socket | None = None
        self._is_stopping = threading.Event()
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()

    def address_for(self, caller: Caller) -> common_pb2.ArenaAddress:
        """Return what `caller` is told: its key is its identity at this socket, too."""
        with self._lock:
            key = self._keys.setdefault(caller, secrets.token_bytes(_KEY_BYTES))
            self._keys.move_to_end(caller)
            while len(self._keys) > _MOST_KEYS:
                self._keys.popitem(last=False)
        return common_pb2.ArenaAddress(path=str(self._path), key=key)

    def holder_of(self, key: bytes) -> Caller:
        """Return who was given a key; `NotPermittedError` when it is not one of ours."""
        with self._lock:
            found = next((caller for caller, known in self._keys.items() if hmac.compare_digest(known, key)), None)
        if found is None:
            raise NotPermittedError("this key is of another daemon")
        return found

    def start(self) -> None:
        """Listen.

        Raises:
            ConflictError: another daemon listens there.
            UnavailableError: the system does not let us.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._remove_stale()
            mask = os.umask(0o777 & ~self._mode)  # born with its permissions
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(mask)
            listener.listen(128)
        except OSError as error:
            listener.close()
            raise UnavailableError(f"the system does not allow listening on {self._path}: {error.strerror}") from error
        except CkptdError:
            listener.close()
            raise
        listener.settimeout(_TICK_S)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name="ckptd-arenas", daemon=True).start()

    def _remove_stale(self) -> None:
        if not self._path.exists():
            return
        if not self._path.is_socket():
            raise ConflictError(f"there is something else at {self._path}: it is no socket")
        if may_be_in_use(self._path):
            raise ConflictError(f"another daemon listens on {self._path}; pass another --arena-socket")
        self._path.unlink(missing_ok=True)

    def stop(self) -> None:
        """Hear no more, and give all memory back. May be repeated."""
        self._is_stopping.set()
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listener.close()
            self._path.unlink(missing_ok=True)
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.close()
        self.lender.close()

    def _accept(self, listener: socket.socket) -> None:
        said = ""
        while True:
            try:
                accepted, _ = listener.accept()
            except TimeoutError:
                self.lender.tick()
                continue
            except OSError as error:
                if self._is_stopping.is_set():
                    return
                # No descriptors are left, say: workers send their bytes until there are.
                if said != str(error):
                    said = str(error)
                    _log.warning("new workers get no shared memory: %s", error)
                self._is_stopping.wait(_ACCEPT_PAUSE_S)
                continue
            accepted.setblocking(True)
            with self._lock:
                has_room = len(self._connections) < _MAX_CONNECTIONS
                if has_room:
                    connection = _Connection(self, accepted)
                    self._connections.add(connection)
            if not has_room:
                accepted.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(connection,), name="ckptd-arena", daemon=True).start()
            except RuntimeError as error:  # no thread is to be had
                _log.warning("a worker gets no shared memory: %s", error)
                with self._lock:
                    self._connections.discard(connection)
                accepted.close()

    def _serve(self, connection: _Connection) -> None:
        try:
            connection.serve()
        except CkptdError as error:
            refusal_log.log.refused("unix:", f"a worker's connection for shared memory was ended: {error}", {})
        except OSError:
            pass  # it went
        except Exception:
            refusal_log.log.bug("unix:", "a bug in ckptd: a connection for shared memory failed")
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.end()

    def check_peer(self, connection: socket.socket) -> int:
        """Return the process at the other end; `NotPermittedError` for one of another user."""
        pid, uid, _ = _PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
        if uid not in (0, os.geteuid()) and not self._mode & 0o066:
            raise NotPermittedError("shared memory is for processes of the daemon's own user", actual=uid)
        return int(pid)


@dataclass(slots=True)
class _Begun:
    """A capture under way."""

    capture: Capture
    save: SaveRef
    name: str


@dataclass(eq=False)
class _Connection:
    """One worker, or reader. Its thread is the only one that reads from it; `close` may come from any."""

    server: ArenaServer
    socket: socket.socket
    place: Tenant | None = None
    _caller: Caller | None = None
    _epoch: int = 0
    _incarnation: str = ""
    _is_deaf: bool = False
    _begun: dict[str, _Begun] = field(default_factory=dict)

    def serve(self) -> None:
        pid = self.server.check_peer(self.socket)
        while (frame := frames.receive_frame(self.socket)) is not None:
            message, descriptors = frame
            frames.close_all(descriptors)  # clients send none
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
                    self.server.coordinator.withdraw(begun.save, request.drop.request_id, reason, begun.name)
            case "hold":
                return self._hold(request.hold)
            case _:
                raise InvalidRequestError("this daemon does not know this request about shared memory")
        return arena_pb2.ArenaReply(), []

    def _hello(self, hello: arena_pb2.ArenaHello) -> None:
        versions.check_peer(hello.peer, role="client")
        self._caller = self.server.holder_of(hello.key)

    def _need(self, right: Right, run: str) -> None:
        assert self._caller is not None, "a connection begins with its key"
        self.server.gate.check(self._caller, Requirement(right, run))

    def _open(self, request: arena_pb2.ArenaOpen) -> tuple[arena_pb2.ArenaReply, list[int]]:
        place = Tenant(convert.run_from_wire(request.run), request.rank)
        self._need(Right.SAVE, place.run)
        if self.place is not None and self.place != place:
            raise ConflictError("one connection is one rank's", expected=self.place, actual=place)
        self.server.coordinator.check_member(place.run, place.rank, request.incarnation, request.epoch)
        self.place, self._epoch, self._incarnation = place, request.epoch, request.incarnation
        arenas = self.server.lender.lend(place, self, request.size_bytes, request.count)
        return arena_pb2.ArenaReply(arenas=map(_to_wire, arenas)), [arena.segment.descriptor for arena in arenas]

    def _begin(self, request: arena_pb2.ArenaBegin) -> None:
        declaration = convert.declaration_from_wire(request.declare)
        save = declaration.save
        if self.place != Tenant(save.run, save.rank) or save.incarnation != self._incarnation:
            raise ConflictError("a save was begun by another rank than the one that opened the connection")
        if declaration.request_id in self._begun:
            raise ConflictError(f"{save} was begun already")
        coordinator = self.server.coordinator
        manifest = self._manifest(request, declaration.manifest_digest)
        capture = self.server.lender.begin(
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
            declared = coordinator.declare(declaration, capture)
            error = declared.exception() if declared.done() else None
            if isinstance(error, CkptdError):
                raise error
        except CkptdError:
            capture.ended()
            raise
        self._begun[declaration.request_id] = _Begun(capture, save, declaration.name)

    def _manifest(self, request: arena_pb2.ArenaBegin, digest: bytes) -> Manifest:
        manifests = self.server.coordinator.manifests
        if request.manifest:
            parts = ManifestParts(limit_bytes=self.server.manifest_bytes)
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
        save_id = self.server.coordinator.look(run, lambda stored: stored.save_id_at(key), "")
        found = self.server.lender.held(run, save_id) if save_id else None
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
            self.server.lender.leave(self.place, self)
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
