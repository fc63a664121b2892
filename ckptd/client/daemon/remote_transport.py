"""The engine of a daemon, reached over gRPC: its saves, its catalog and its watches, over one connection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from ckptd.client.capture.buffers import Room, RoomPool
from ckptd.client.daemon.connection import Connection
from ckptd.client.daemon.remote_catalog import RemoteCatalog
from ckptd.client.daemon.remote_saves import RemoteSaves
from ckptd.client.daemon.seats import Seat
from ckptd.client.daemon.watching import DaemonWatch
from ckptd.client.watch import OpenSources, Source, Watch
from ckptd.wire.chunks import CHUNK_BYTES
from ckptd.wire.v1 import watch_pb2


class RemoteTransport(RemoteSaves, RemoteCatalog):
    """Talks to one daemon about one run, as one rank."""

    chunk_bytes = CHUNK_BYTES
    retains_here = False

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        member = connection.member
        self.world_size = member.world_size
        self.place = f"{connection.address}/{connection.run}, {member.rank} of {member.world_size}"
        self.watches = OpenSources()
        self._pool = RoomPool()

    # Memory to save from.

    def share_rooms(self, pool: RoomPool) -> None:
        """See `Transport.share_rooms`. The daemon lends memory, and for what is sent there is a pool of its own."""

    def room(self, size_bytes: int) -> Room:
        """See `Transport.room`. The first time it waits a moment for the daemon."""
        seat, membership = self.connection.joined()
        return seat.arenas.room(size_bytes, membership, seat.member) or self._pool.take(size_bytes)

    def prepare(self, size_bytes: int) -> None:
        """See `Transport.prepare`."""
        seat, membership = self.connection.joined()
        seat.arenas.prepare(size_bytes, membership, seat.member)

    # Watching.

    def watch(self, name: str, timeout_s: float | None = None) -> Watch:
        """See `Transport.watch`. Raises `UnavailableError` once the daemon was away for the transport's `timeout_s`."""
        return Watch(self.watching(name), timeout_s)

    @contextlib.contextmanager
    def watching(self, name: str) -> Iterator[Source]:
        """Open a watch, and free it in the end."""
        seat = self.connection.seat()
        source = DaemonWatch(
            partial(self._open_watch, seat, name),
            address=str(self.connection.address),
            timeout_s=self.connection.timeout_s,
            contact=seat.contact,
            name=name,
        )
        with self.watches.watching(source):
            yield source

    def _open_watch(self, seat: Seat, name: str, after_save_id: str) -> Any:
        return seat.watch.Watch(
            watch_pb2.WatchRequest(peer=seat.peer, run=self.connection.run, after_save_id=after_save_id, name=name)
        )

    # Life.

    def close(self) -> None:
        """See `Transport.close`."""
        self.connection.close()
        self._pool.clear()
        if self.connection.is_inherited:
            return  # a forked child must not touch its parent's connections
        self.watches.close()
        self.let_go(is_dropped=False)

    def mark_dropped(self) -> None:
        """See `Droppable`."""
        self.connection.mark_dropped()

    def let_go(self, *, is_dropped: bool = True) -> None:
        """See `Droppable`."""
        self.connection.let_go(is_dropped=is_dropped)
