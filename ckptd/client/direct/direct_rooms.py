"""Private memory that the engine of this very process writes a save from: direct mode."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ckptd.client.capture.buffers import Declared, Room, RoomPool
from ckptd.client.capture.memory_layout import Placement
from ckptd.client.deadline import Deadline
from ckptd.client.direct.direct_connection import DirectConnection
from ckptd.engine.identity import Declaration
from ckptd.engine.lanes.capture import Capture
from ckptd.engine.lanes.feeding import first_sums
from ckptd.engine.manifest import Manifest
from ckptd.errors import SessionAbortedError


class FollowedRoom:
    """A room of private memory; see `Room` for the caller, and `Memory` for the engine."""

    def __init__(self, room: Room) -> None:
        self.data: NDArray[np.uint8] = room.data
        self._room = room

    @property
    def captured(self) -> int:
        """Bytes in place."""
        return self._room.captured

    @captured.setter
    def captured(self, size_bytes: int) -> None:
        self._room.captured = size_bytes

    @property
    def is_shown(self) -> bool:
        """See `Room`."""
        return self._room.is_shown

    @is_shown.setter
    def is_shown(self, is_shown: bool) -> None:
        self._room.is_shown = is_shown

    def check(self) -> None:
        """See `Memory`. The room is another save's only once this one is over."""

    def begin(self, declared: Declared, placement: Placement, manifest: Manifest) -> LocalHandover:
        """See `Room`. The declaration tells the engine."""
        num_sums = int(first_sums(manifest)[-1])
        return LocalHandover(Capture(self, placement.offsets, num_sums, is_staged=self.is_shown))

    def drop(self, request_id: str, reason: str) -> None:
        """See `Room`. The engine does not know of the save."""

    def release(self) -> None:
        """See `Room`."""
        self._room.release()


class LocalHandover:
    """See `Handover`."""

    capture: Capture | None

    def __init__(self, capture: Capture) -> None:
        self.capture = self._capture = capture

    def seal(self, sums: NDArray[np.uint32] | None) -> None:
        """See `Handover`."""
        if sums is not None:
            self.give_sums(sums)
        self._capture.seal()

    def give_sums(self, sums: NDArray[np.uint32]) -> None:
        """See `Handover`."""
        self._capture.give_sums(sums)

    def drop(self, reason: str) -> None:
        """See `Handover`."""
        self._capture.fail(SessionAbortedError(f"the save was given up: {reason}"))

    def wait(self, deadline: Deadline, *, until_summed: bool) -> Declaration | None:
        """See `Handover`. The engine follows from the declaration on."""
        return None


class DirectRooms:
    """See `SaveRooms`: private memory, of this transport or of a shared pool."""

    def __init__(self, connection: DirectConnection) -> None:
        self._connection = connection
        self._pool = RoomPool()
        self._owns_pool = True

    def share(self, pool: RoomPool) -> None:
        """See `SaveRooms`."""
        self._pool, self._owns_pool = pool, False

    def room(self, size_bytes: int) -> Room:
        """See `Rooms`. Says that this process saves."""
        connection = self._connection
        connection.held().join(connection.run, connection.options, connection.timeout_s)
        return FollowedRoom(self._pool.take(size_bytes))

    def prepare(self, size_bytes: int) -> None:
        """See `Rooms`."""
        self._pool.prepare(size_bytes)

    def close(self) -> None:
        """See `SaveRooms`."""
        if self._owns_pool:
            self._pool.clear()
