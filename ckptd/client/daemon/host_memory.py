"""The memory that a daemon lends on this host, for one run: to save into, and to restore from."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Mapping

from ckptd.arena.segment import Segment, is_supported
from ckptd.client.daemon.arena_link import ArenaLink
from ckptd.client.daemon.arena_rooms import ArenaRoom, ArenaRooms
from ckptd.client.daemon.held_objects import HeldObjects, Offer
from ckptd.client.daemon.join_call import JoinCall
from ckptd.client.deadline import Deadline
from ckptd.engine.identity import Member
from ckptd.errors import CkptdError, InvalidRequestError
from ckptd.format.names import index_key
from ckptd.storage.base import Objects
from ckptd.wire.addresses import ARENA_SUFFIX, Address
from ckptd.wire.v1 import arena_pb2, common_pb2

_log = logging.getLogger("ckptd.client")

_TRANSPORT_VARIABLE = "CKPTD_TRANSPORT"
FIRST_JOIN_S = 2.0  # how long the very first save waits for the daemon before it captures into memory of its own
_TRY_AGAIN_S = 10.0
_PREPARE_S = 60.0


def is_wanted(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether memory may be shared, unless the environment forbids it.

    Raises:
        InvalidRequestError: it names a transport that does not exist.
    """
    transport = environ.get(_TRANSPORT_VARIABLE, "auto") or "auto"
    if transport not in ("auto", "stream"):
        raise InvalidRequestError(
            f"{_TRANSPORT_VARIABLE} in the environment", expected="auto or stream", actual=transport
        )
    return transport == "auto"


class HostMemory:
    """See the module. Any thread may use it.

    Attributes:
        rooms: what is lent to this rank; None before anything is, and where bytes are sent.
        why_not: why bytes are sent, in words; empty while memory is shared, and before the first attempt.
    """

    def __init__(self, daemon: Address, run: str, peer: common_pb2.Peer, *, is_wanted: bool) -> None:
        """Connect to nothing yet."""
        self.why_not = "" if is_wanted else f"{_TRANSPORT_VARIABLE} says so"
        self._is_wanted = is_wanted and is_supported()
        self._beside = f"{daemon.path}{ARENA_SUFFIX}" if daemon.is_unix else ""
        self._run = run
        self._peer = peer
        self._lock = threading.Lock()
        self._address: common_pb2.ArenaAddress | None = None
        self._link: ArenaLink | None = None
        self.rooms: ArenaRooms | None = None
        self._segments: dict[int, Segment] = {}  # mapped for reading, over the present link
        self._has_waited = False
        self._try_at = 0.0
        self._is_closed = False

    def learn(self, address: common_pb2.ArenaAddress) -> None:
        """Take note of where the daemon lends its memory."""
        with self._lock:
            if self._address is not None and self._address.key != address.key:
                self._try_at = 0.0  # the daemon was restarted
            self._address = address if address.path else None

    def room(self, size_bytes: int, membership: JoinCall, member: Member) -> ArenaRoom | None:
        """Return an arena of at least `size_bytes` to capture into, None where bytes have to be sent."""
        if not self._is_wanted or not size_bytes:
            return None
        try:
            patience_s = 0.0 if self._has_waited else FIRST_JOIN_S
            self._has_waited = True
            welcome = membership.welcome(Deadline(patience_s))
            if welcome.arena is None:
                return None
            self.learn(welcome.arena)
            link = self._connected()
            if link is None:
                return None
            with self._lock:
                if self.rooms is None or self.rooms.link is not link or self.rooms.epoch != welcome.epoch:
                    self.rooms = ArenaRooms(link, self._run, welcome.epoch, member.rank, member.incarnation)
                rooms = self.rooms
            return rooms.take(size_bytes)
        except CkptdError as error:
            self._give_up(error)
            return None

    def prepare(self, size_bytes: int, membership: JoinCall, member: Member) -> None:
        """Have arenas of this size lent and mapped in the background, once the daemon is there."""
        if self._is_wanted and size_bytes:
            threading.Thread(
                target=self._prepare, args=(size_bytes, membership, member), name="ckptd-prepare", daemon=True
            ).start()

    def _prepare(self, size_bytes: int, membership: JoinCall, member: Member) -> None:
        with contextlib.suppress(CkptdError):  # the save itself will raise what is wrong
            membership.welcome(Deadline(_PREPARE_S))
            room = self.room(size_bytes, membership, member)
            if room is not None:
                room.release()

    def objects(self, key: str, objects: Objects) -> Objects:
        """Return `objects`, with those bytes of the checkpoint `key` before them that still lie in memory."""
        if not self._is_wanted:
            return objects
        try:
            link = self._connected()
            if link is None:
                return objects
            answer = link.exchange(arena_pb2.ArenaRequest(hold=arena_pb2.ArenaHold(run=self._run, key=key)))
        except CkptdError as error:
            self._give_up(error)
            return objects
        segments = {}
        for arena, descriptor in zip(answer.reply.arenas, answer.descriptors, strict=True):
            try:
                segments[arena.id] = self._segment(arena.id, descriptor)
            except CkptdError as error:
                _log.debug("memory that holds %s can't be read: %s", key, error)
        save = answer.reply.save
        if not segments or not save.save_id:  # an older daemon does not say of which save they are
            return objects
        offer = Offer(segments, answer.reply.runs, index_key(key), save.index_crc32c, lambda: link.is_alive)
        return HeldObjects(objects, offer)

    def _segment(self, number: int, descriptor: int) -> Segment:
        """Map an arena, or return it as it is mapped already. Takes over the descriptor."""
        with self._lock:
            known = self._segments.get(number) or (None if self.rooms is None else self.rooms.segment(number))
        if known is not None:
            os.close(descriptor)
            return known
        segment = Segment.attach(descriptor, writable=False)
        segment.close()  # the mapping is enough
        with self._lock:
            return self._segments.setdefault(number, segment)

    def _connected(self) -> ArenaLink | None:
        with self._lock:
            if self._link is not None and self._link.is_alive:
                return self._link
            if self._address is None or self._is_closed or time.monotonic() < self._try_at:
                return None
            address = self._address
            self._try_at = time.monotonic() + _TRY_AGAIN_S
        paths = [self._beside] if self._beside else []
        link = ArenaLink.connect(address, self._peer, paths)
        with self._lock:
            if self._is_closed:
                link.close()
                return None
            self._link, self.rooms, self._segments, self.why_not = link, None, {}, ""
            return link

    def _give_up(self, error: CkptdError) -> None:
        if not self.why_not:
            _log.info("bytes are sent to the daemon, as its memory is not shared: %s", error)
        self.why_not = str(error)

    def close(self) -> None:
        """End the connection. May be repeated."""
        with self._lock:
            self._is_closed = True
            link, self._link, self.rooms, self._segments = self._link, None, None, {}
        if link is not None:
            link.close()
