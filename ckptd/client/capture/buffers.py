"""Memory to capture into, kept from one save to the next.

Fresh pages are several times slower to fill than pages that were used before, and a training step waits for the
copy. So the memory of a finished save is kept for the next one, which is almost always of the same size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ckptd.client.capture.handover import Handover
from ckptd.client.capture.memory_layout import Placement
from ckptd.engine.identity import Declaration
from ckptd.engine.lanes.plan import PAGE_BYTES
from ckptd.engine.manifest import Manifest
from ckptd.storage.local.around_cache import empty_at

_ROUND_BYTES = 1 << 20

Declared = Callable[[int, object], Declaration | None]
"""Makes the declaration of a save under an epoch, over a connection; None while another save comes first."""


class Room(Protocol):
    """Memory of one snapshot, with a mark that says how much of it is in place.

    Attributes:
        data: the memory; it begins at a page.
        captured: how many bytes, from its start, are in place. Only ever goes up during one capture.
        is_shown: `staging` has returned arrays in it to a caller. The caller can still reach them, and may go on to
            change them by mistake, during this save or a later one that is captured here.
    """

    data: NDArray[np.uint8]
    captured: int
    is_shown: bool

    def begin(self, declared: Declared, placement: Placement, manifest: Manifest) -> Handover | None:
        """Let the owner of this memory follow what is captured into it from now on; None where nothing follows.

        Args:
            declared: makes the declaration to send.
            placement: where each part is put.
            manifest: what is captured.
        """

    def drop(self, request_id: str, reason: str) -> None:
        """Tell the owner to drop a save that may have begun here, as `begin` did not return. Never raises."""

    def release(self) -> None:
        """Pass it on for another save; its former user must not touch it any more."""


class PrivateRoom:
    """Memory of this process alone."""

    def __init__(self, pool: RoomPool, size_bytes: int) -> None:
        # At a page, so that a disk can be written from it without another copy.
        self.data: NDArray[np.uint8] = empty_at(size_bytes, 0)
        self.captured = 0
        self.is_shown = False
        self._pool = pool

    def begin(self, declared: Declared, placement: Placement, manifest: Manifest) -> None:
        """See `Room`. No other process sees this memory."""

    def drop(self, request_id: str, reason: str) -> None:
        """See `Room`. No other process knows of the save."""

    def release(self) -> None:
        """See `Room`."""
        self._pool.put(self)


class RoomPool:
    """Private memory for snapshots. Any thread may call it.

    Attributes:
        keep: how many returned rooms are kept; more are freed.
    """

    def __init__(self, keep: int = 2) -> None:
        self.keep = keep
        self._lock = threading.Lock()
        self._free: list[PrivateRoom] = []

    def room(self, size_bytes: int) -> Room:
        """Return a room as `take` does."""
        return self.take(size_bytes)

    def take(self, size_bytes: int) -> PrivateRoom:
        """Return a room of at least `size_bytes`; the caller owns it until `release`. Its content is arbitrary."""
        with self._lock:
            fitting = [room for room in self._free if len(room.data) >= size_bytes]
            if fitting:
                best = min(fitting, key=lambda room: len(room.data))
                self._free = [room for room in self._free if room is not best]
                best.captured = 0
                return best
            if len(self._free) >= self.keep:
                self._drop_smallest()  # it is too small for what is saved now
        return PrivateRoom(self, rounded_up(size_bytes))

    def prepare(self, size_bytes: int) -> None:
        """Have rooms of this size made ready in the background, so that the first saves need not wait for pages."""
        rooms = [self.take(size_bytes) for _ in range(self.keep)]

        def touch() -> None:
            for room in rooms:
                room.data[::PAGE_BYTES] = 0
                room.release()

        threading.Thread(target=touch, name="ckptd-prepare", daemon=True).start()

    def put(self, room: PrivateRoom) -> None:
        """Take a room back."""
        with self._lock:
            self._free.append(room)
            while len(self._free) > self.keep:
                self._drop_smallest()

    def clear(self) -> None:
        """Free what is kept."""
        with self._lock:
            self._free.clear()

    def _drop_smallest(self) -> None:
        sizes = [len(room.data) for room in self._free]
        del self._free[sizes.index(min(sizes))]


def rounded_up(size_bytes: int) -> int:
    """Return a size with which a save that has grown a little, by its strings say, fits into the same room again."""
    return -(-(size_bytes + size_bytes // 32) // _ROUND_BYTES) * _ROUND_BYTES
