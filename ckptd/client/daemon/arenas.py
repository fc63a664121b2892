"""Shared memory that a daemon on this host lends: the worker's end.

A connection to the daemon's Unix socket, over which arenas come and saves are begun and sealed. Nothing waits for an
answer while training stands still, except when memory is lent for the first time. Where anything is in the way the
bytes are sent instead, as from another host.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ckptd.arena.lender import GENERATIONS
from ckptd.arena.segment import Segment
from ckptd.client.capture.buffers import Declared, rounded_up
from ckptd.client.capture.memory_layout import Placement
from ckptd.client.deadline import Deadline
from ckptd.engine.identity import Declaration
from ckptd.engine.manifest import Manifest
from ckptd.errors import CkptdError, UnavailableError
from ckptd.wire import convert, frames, manifests, status
from ckptd.wire.v1 import arena_pb2, common_pb2

_log = logging.getLogger("ckptd.client")

_CONNECT_TIMEOUT_S = 2.0
_ANSWER_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ArenaAnswer:
    """A reply, and the descriptors that came with it, which are the taker's."""

    reply: arena_pb2.ArenaReply
    descriptors: list[int]


# A forked child, a data loader's worker say, has our connections open: after our death it would be taken for us.
_LINKS: weakref.WeakSet[ArenaLink] = weakref.WeakSet()


def _forget_all() -> None:
    for link in list(_LINKS):
        link.forget()


os.register_at_fork(after_in_child=_forget_all)


class ArenaLink:
    """One connection. Any thread may use it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[ArenaAnswer]] = {}
        self._is_closed = False
        self.known: set[bytes] = set()  # digests of manifests that the daemon has
        self._reader = threading.Thread(target=self._read, name="ckptd-arena", daemon=True)
        _LINKS.add(self)

    @classmethod
    def connect(cls, address: common_pb2.ArenaAddress, peer: common_pb2.Peer, paths: Sequence[str] = ()) -> ArenaLink:
        """Connect to the daemon that told `address`, trying `paths` first.

        Raises:
            UnavailableError: it is not on this host, or does not lend to us.
        """
        failure: Exception = UnavailableError("the daemon lends no memory")
        for path in dict.fromkeys([*paths, address.path]):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(_CONNECT_TIMEOUT_S)
                connection.connect(path)
                connection.settimeout(None)
            except OSError as error:
                connection.close()
                failure = error
                continue
            link = cls(connection)
            link._reader.start()
            try:
                hello = arena_pb2.ArenaRequest(hello=arena_pb2.ArenaHello(peer=peer, key=address.key))
                link.ask(hello, timeout_s=_CONNECT_TIMEOUT_S)
                return link
            except CkptdError as error:
                link.close()
                failure = error
        raise UnavailableError(f"the daemon's memory can't be shared: {failure}") from failure

    @property
    def is_alive(self) -> bool:
        """Whether the daemon is still there."""
        return not self._is_closed

    def send(self, request: arena_pb2.ArenaRequest) -> Future[ArenaAnswer]:
        """Send a request, without waiting; the answer, or the error that it is, comes later.

        A daemon that takes nothing, because it is stopped say, delays nothing for longer than `frames.SEND_TIMEOUT_S`.

        Raises:
            UnavailableError: the connection is gone.
        """
        answer: Future[ArenaAnswer] = Future()
        number = request.number = next(self._numbers)
        with self._lock:
            if self._is_closed:
                raise UnavailableError("the connection for shared memory is gone")
            self._waiting[number] = answer
        try:
            with self._sending:
                frames.send_frame(self._connection, request.SerializeToString())
        except OSError as error:
            self.close()
            raise UnavailableError("the connection for shared memory is gone") from error
        except BaseException:  # Ctrl-C: half of it may be sent, and nothing can follow that
            self.close()
            raise
        return answer

    def ask(self, request: arena_pb2.ArenaRequest, *, timeout_s: float = _ANSWER_TIMEOUT_S) -> ArenaAnswer:
        """Send a request and wait for its answer; raise the error that it is.

        A connection on which no answer comes is given up: the next request must not wait for as long again.
        """
        answer = self.send(request)
        try:
            return settled(answer, timeout_s)
        finally:
            if not answer.done():
                self.close()

    def close(self) -> None:
        """End the connection; waiting calls fail. May be repeated."""
        with self._lock:
            self._is_closed = True
            waiting, self._waiting = self._waiting, {}
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        for answer in waiting.values():
            answer.set_exception(UnavailableError("the connection for shared memory is gone"))

    def forget(self) -> None:
        """Close what a forked child inherited; the connection stays the parent's."""
        self._is_closed = True
        self._connection.close()

    def _read(self) -> None:
        try:
            while (frame := frames.receive_frame(self._connection)) is not None:
                message, descriptors = frame
                self._take(arena_pb2.ArenaReply.FromString(message), descriptors)
        except (OSError, CkptdError, ValueError, DecodeError) as error:
            _log.debug("the connection for shared memory broke: %s", error)
        finally:
            self.close()
            self._connection.close()

    def _take(self, reply: arena_pb2.ArenaReply, descriptors: list[int]) -> None:
        with self._lock:
            answer = self._waiting.pop(reply.number, None)
        if answer is None or reply.error or len(descriptors) != len(reply.arenas):
            frames.close_all(descriptors)
        if answer is None:
            return
        if reply.error:
            answer.set_exception(status.unpack(reply.error))
        elif len(descriptors) != len(reply.arenas):
            answer.set_exception(UnavailableError("the daemon lent memory that did not arrive"))
        else:
            answer.set_result(ArenaAnswer(reply, descriptors))


_SHOWN: set[tuple[int, int]] = set()
"""Arenas of which this process has given arrays away, by whatever `Checkpointer`: the mappings of all reach them."""


class ArenaRoom:
    """An arena, as a room to capture into; see `Room`."""

    def __init__(self, rooms: ArenaRooms, number: int, segment: Segment) -> None:
        self.number = number
        self.data: NDArray[np.uint8] = segment.data
        self.segment = segment
        self._rooms = rooms

    @property
    def captured(self) -> int:
        """Bytes in place; the daemon follows it."""
        return self.segment.captured

    @captured.setter
    def captured(self, size_bytes: int) -> None:
        self.segment.captured = size_bytes

    @property
    def is_shown(self) -> bool:
        """See `Room`."""
        return self.segment.identity in _SHOWN

    @is_shown.setter
    def is_shown(self, is_shown: bool) -> None:
        if is_shown:
            _SHOWN.add(self.segment.identity)

    def begin(self, declared: Declared, placement: Placement, manifest: Manifest) -> ArenaHandover | None:
        """See `Room`. None also if the daemon is gone."""
        link = self._rooms.link
        declaration = declared(self._rooms.epoch, link)
        if declaration is None:
            return None
        begin = arena_pb2.ArenaBegin(
            declare=convert.declaration_to_wire(declaration),
            arena=self.number,
            generation=self.segment.generation,
            offsets=np.ascontiguousarray(placement.offsets, "<i8").tobytes(),
            staged=self.is_shown,
            manifest=() if manifest.digest in link.known else manifests.manifest_parts(manifest),
        )
        try:
            begun = link.send(arena_pb2.ArenaRequest(begin=begin))
        except CkptdError:
            return None
        return ArenaHandover(link, declaration, begun)

    def drop(self, request_id: str, reason: str) -> None:
        """See `Room`."""
        _drop(self._rooms.link, request_id, reason)

    def map(self) -> None:
        """Map all pages here."""
        with contextlib.suppress(CkptdError):  # then they are mapped when they are used
            self.segment.prefault(self.segment.size_bytes)

    def give_back(self) -> None:
        """See `Room`."""
        self._rooms.put(self)


class ArenaRooms:
    """The arenas that one rank was lent over one connection. Any thread may use it."""

    def __init__(self, link: ArenaLink, run: str, epoch: int, rank: int, incarnation: str) -> None:
        self.link = link
        self.epoch = epoch
        self._open = arena_pb2.ArenaOpen(run=run, epoch=epoch, rank=rank, incarnation=incarnation)
        self._lock = threading.Lock()
        self._all: dict[int, ArenaRoom] = {}
        self._free: list[ArenaRoom] = []  # whose content is oldest comes first

    def take(self, size_bytes: int) -> ArenaRoom | None:
        """Return a room of at least `size_bytes`, None if none is free. Gets a larger one from the daemon if needed.

        Raises:
            CkptdError: the daemon lends no such memory.
        """
        with self._lock:
            if not any(len(room.data) >= size_bytes for room in self._all.values()):
                self._borrow(size_bytes)
            room = next((room for room in self._free if len(room.data) >= size_bytes), None)
            if room is not None:
                self._free.remove(room)
                room.segment.begin()  # before a byte is changed: a process may be reading what is there
            return room

    def put(self, room: ArenaRoom) -> None:
        """Take a room back."""
        with self._lock:
            if self._all.get(room.number) is room:
                self._free.append(room)

    def segment(self, number: int) -> Segment | None:
        """Return the memory of an arena that is lent to us, None if it is another's."""
        with self._lock:
            room = self._all.get(number)
        return None if room is None else room.segment

    def _borrow(self, size_bytes: int) -> None:
        request = arena_pb2.ArenaOpen(size_bytes=rounded_up(size_bytes), count=GENERATIONS)
        request.MergeFrom(self._open)
        answer = self.link.ask(arena_pb2.ArenaRequest(open=request))
        known, free = self._all, set(self._free)
        self._all, self._free = {}, []
        for arena, descriptor in zip(answer.reply.arenas, answer.descriptors, strict=True):
            room = known.get(arena.id)
            if room is None and arena.in_use:
                os.close(descriptor)
                continue
            if room is None:
                segment = Segment.attach(descriptor, writable=True)
                segment.close()  # the mapping is enough
                room = ArenaRoom(self, arena.id, segment)
                free.add(room)
                # Mapping pages takes time as well; the daemon makes them meanwhile.
                threading.Thread(target=room.map, name="ckptd-map", daemon=True).start()
            else:
                os.close(descriptor)
            self._all[arena.id] = room
            if room in free:
                self._free.append(room)


class ArenaHandover:
    """One save that is captured into an arena while the daemon follows."""

    def __init__(self, link: ArenaLink, declaration: Declaration, begun: Future[ArenaAnswer]) -> None:
        self._link = link
        self._request_id = declaration.request_id
        self._digest = declaration.manifest_digest
        self._begun = begun
        self._is_over = threading.Event()  # there is nothing more to send

    def seal(self, sums: NDArray[np.uint32] | None) -> None:
        """See `Handover`."""
        seal = arena_pb2.ArenaSeal(request_id=self._request_id, sums_follow=sums is None)
        if sums is not None:
            seal.crcs = np.ascontiguousarray(sums, "<u4").tobytes()
        with contextlib.suppress(CkptdError):  # the daemon is gone: its successor is sent the bytes
            self._link.send(arena_pb2.ArenaRequest(seal=seal))
        if sums is not None:
            self._is_over.set()

    def give_sums(self, sums: NDArray[np.uint32]) -> None:
        """See `Handover`."""
        packed = np.ascontiguousarray(sums, "<u4").tobytes()
        request = arena_pb2.ArenaSums(request_id=self._request_id, crcs=packed)
        with contextlib.suppress(CkptdError):
            self._link.send(arena_pb2.ArenaRequest(sums=request))
        self._is_over.set()

    def drop(self, reason: str) -> None:
        """Say that it will not be finished."""
        _drop(self._link, self._request_id, reason)
        self._is_over.set()

    def wait(self, deadline: Deadline, *, until_summed: bool) -> None:
        """Wait until the daemon has said whether it takes the bytes from memory; if so, until all is transferred.

        The latter with `until_summed` only. Whatever is said to the daemon while a rank still copies takes time from
        copies that training waits for, other ranks' too.
        """
        try:
            settled(self._begun, deadline.remaining_s)
        except CkptdError as error:
            _log.debug("a save is sent, as the daemon does not take it from memory: %s", error)
            self._link.known.discard(self._digest)
            return
        self._link.known.add(self._digest)
        if until_summed:
            self._is_over.wait(deadline.remaining_s)


def _drop(link: ArenaLink, request_id: str, reason: str) -> None:
    """Say that a save will not be finished, if the daemon has heard of it."""
    with contextlib.suppress(CkptdError):
        link.send(arena_pb2.ArenaRequest(drop=arena_pb2.ArenaDrop(request_id=request_id, reason=reason)))


def settled(answer: Future[ArenaAnswer], timeout_s: float) -> ArenaAnswer:
    """Wait for an answer; raise the error that it is, `UnavailableError` when none comes."""
    try:
        return answer.result(timeout_s)
    except (FutureTimeoutError, TimeoutError) as error:
        raise UnavailableError(f"the daemon said nothing about shared memory for {timeout_s:g} s") from error
