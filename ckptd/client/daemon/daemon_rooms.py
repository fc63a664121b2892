"""Memory to capture saves into beside a daemon: lent by it where it can be, else private."""

from __future__ import annotations

from ckptd.client.capture.buffers import Room, RoomPool
from ckptd.client.daemon.connection import Connection


class DaemonRooms:
    """See `SaveRooms`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._pool = RoomPool()  # for saves that are sent

    def share(self, pool: RoomPool) -> None:
        """See `SaveRooms`. The daemon lends memory; saves that are sent use a pool of their own."""

    def room(self, size_bytes: int) -> Room:
        """See `Rooms`. The first time it waits a moment for the daemon."""
        seat, membership = self.connection.joined()
        return seat.arenas.room(size_bytes, membership, seat.member) or self._pool.take(size_bytes)

    def prepare(self, size_bytes: int) -> None:
        """See `Rooms`."""
        seat, membership = self.connection.joined()
        seat.arenas.prepare(size_bytes, membership, seat.member)

    def close(self) -> None:
        """See `SaveRooms`."""
        self._pool.clear()
