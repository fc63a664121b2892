"""The arenas that a daemon on this host lends to one rank, as rooms to capture into.

Where that fails, bytes are sent instead, as from another host.
"""

from __future__ import annotations

import contextlib
import os
import threading

import numpy as np
from numpy.typing import NDArray

from ckptd.arena.lender import GENERATIONS
from ckptd.arena.segment import Segment
from ckptd.client.capture.buffers import Declared, rounded_up
from ckptd.client.capture.memory_layout import Placement
from ckptd.client.daemon.arena_handover import ArenaHandover, drop
from ckptd.client.daemon.arena_link import ArenaLink
from ckptd.engine.manifest import Manifest
from ckptd.errors import CkptdError
from ckptd.wire import convert, manifests
from ckptd.wire.v1 import arena_pb2

_SHOWN: set[tuple[int, int]] = set()
"""Arenas in which some `Checkpointer` of this process has staged arrays: the mappings of all of them reach these."""


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
        drop(self._rooms.link, request_id, reason)

    def map(self) -> None:
        """Map all pages here."""
        with contextlib.suppress(CkptdError):  # then they are mapped when they are used
            self.segment.prefault(self.segment.size_bytes)

    def release(self) -> None:
        """See `Room`."""
        self._rooms.put(self)


class ArenaRooms:
    """The arenas that one rank was lent over one connection. Any thread may use it.

    Attributes:
        link: the connection.
        epoch: under which they are lent.
        lent: all of them, by number.
        free: those that no save uses; the one whose content is oldest comes first.
    """

    def __init__(self, link: ArenaLink, run: str, epoch: int, rank: int, incarnation: str) -> None:
        self.link = link
        self.epoch = epoch
        self._open = arena_pb2.ArenaOpen(run=run, epoch=epoch, rank=rank, incarnation=incarnation)
        self._lock = threading.Lock()
        self.lent: dict[int, ArenaRoom] = {}
        self.free: list[ArenaRoom] = []

    def take(self, size_bytes: int) -> ArenaRoom | None:
        """Return a room of at least `size_bytes`, None if none is free. Gets a larger one from the daemon if needed.

        Raises:
            CkptdError: the daemon lends no such memory.
        """
        with self._lock:
            if not any(len(room.data) >= size_bytes for room in self.lent.values()):
                self._borrow(size_bytes)
            room = next((room for room in self.free if len(room.data) >= size_bytes), None)
            if room is not None:
                self.free.remove(room)
                room.segment.begin()  # before a byte is changed: a process may be reading what is there
            return room

    def put(self, room: ArenaRoom) -> None:
        """Take a room back."""
        with self._lock:
            if self.lent.get(room.number) is room:
                self.free.append(room)

    def segment(self, number: int) -> Segment | None:
        """Return the memory of an arena that is lent to us, None if it is another's."""
        with self._lock:
            room = self.lent.get(number)
        return None if room is None else room.segment

    def _borrow(self, size_bytes: int) -> None:
        request = arena_pb2.ArenaOpen(size_bytes=rounded_up(size_bytes), count=GENERATIONS)
        request.MergeFrom(self._open)
        answer = self.link.exchange(arena_pb2.ArenaRequest(open=request))
        known, free = self.lent, set(self.free)
        self.lent, self.free = {}, []
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
            self.lent[arena.id] = room
            if room in free:
                self.free.append(room)
