"""Arrays in the memory that a save is written from: arrays built there need no copy.

A stage is a room that is not captured yet. It begins with the first array that is requested after a save, is as large
as the stage or the save before, and grows by moving to a larger room: an array returned before that is copied like
any array.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from ckptd.client.capture.arrays import Array
from ckptd.client.capture.buffers import Room
from ckptd.client.capture.inventory import EncodedStrings, Source
from ckptd.errors import InvalidRequestError
from ckptd.format import dtypes

_ALIGN_BYTES = 64  # a cache line; every numpy type may start there
_FIRST_BYTES = 1 << 20


class Stage:
    """One room with the arrays that were allocated in it.

    Attributes:
        room: where they lie.
        used_bytes: how much of it they take, from its start.
        outgrown: rooms that became too small: arrays in them are in use until they are copied.
    """

    def __init__(self, room: Room, before: Stage | None = None) -> None:
        self.room = room
        room.is_shown = True
        self.used_bytes = 0
        self._arrays: dict[str, Array] = {}
        self.outgrown: list[Room] = [] if before is None else [*before.outgrown, before.room]
        self._begin = int(room.data.__array_interface__["data"][0])

    def find(self, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array | None:
        """Return the array that was allocated under this name, if shape and dtype are the same."""
        known = self._arrays.get(name)
        return known if known is not None and known.shape == shape and known.dtype == dtype else None

    def place(self, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array | None:
        """Allocate another array; None if the room is too small."""
        size = prod(shape) * dtype.itemsize
        if self.used_bytes + size > len(self.room.data):
            return None
        array: Array = self.room.data[self.used_bytes : self.used_bytes + size].view(dtype).reshape(shape)
        self._arrays[name] = array
        self.used_bytes += -(-size // _ALIGN_BYTES) * _ALIGN_BYTES
        return array

    def offset_of(self, source: Source) -> int | None:
        """Return where an array lies in the room, None if it lies elsewhere."""
        if isinstance(source, EncodedStrings) or not source.size:
            return None
        if not source.flags.c_contiguous or not source.dtype.isnative:
            return None
        offset = int(source.__array_interface__["data"][0]) - self._begin
        return offset if offset >= 0 and offset + source.nbytes <= self.used_bytes else None

    def holds(self, source: Source) -> bool:
        """Tell whether an array is in memory that was allocated here, outgrown or not, and whatever its byte order."""
        if isinstance(source, EncodedStrings) or not source.size:
            return False
        first = int(source.__array_interface__["data"][0])
        return any(
            begin <= first < begin + len(room.data)
            for room in [self.room, *self.outgrown]
            for begin in [int(room.data.__array_interface__["data"][0])]
        )


class Staging:
    """The stages of one `Checkpointer`, one at a time. Any thread may use it."""

    def __init__(self, take_room: Callable[[int], Room]) -> None:
        self._take_room = take_room
        self._lock = threading.Lock()
        self._stage: Stage | None = None
        self._last_bytes = _FIRST_BYTES

    def array(self, name: str, shape: Sequence[int], dtype: object) -> Array:
        """Return an array to produce bytes in, for the next save.

        Raises:
            InvalidRequestError: the dtype can't be saved, or has no fixed width.
        """
        kind = np.dtype(dtype)  # type: ignore[call-overload]
        known = dtypes.of_array_dtype(kind)
        if known.array is None or known.is_string or kind.names or not kind.isnative:
            raise InvalidRequestError(f"tensor {name!r}: arrays of dtype {kind} can't be staged")
        dimensions = tuple(int(n) for n in shape)
        with self._lock:
            stage = self._stage
            if stage is None:
                stage = self._stage = Stage(self._take_room(self._last_bytes))
            found = stage.find(name, dimensions, kind)
            while found is None:
                found = stage.place(name, dimensions, kind)
                if found is None:
                    needed = stage.used_bytes + prod(dimensions) * kind.itemsize + _ALIGN_BYTES
                    # A single large request needs no room to grow.
                    stage = self._stage = Stage(self._take_room(2 * needed if stage.used_bytes else needed), stage)
            return found

    def expect(self, size_bytes: int, num_arrays: int) -> None:
        """Make the next stage large enough for this many bytes, as many as were saved now."""
        with self._lock:
            self._last_bytes = max(size_bytes + num_arrays * _ALIGN_BYTES, _FIRST_BYTES)

    def take(self, sources: Sequence[Source]) -> Stage | None:
        """Take the stage for a save of `sources`, and the next array begins another; None if none of them lies in it.

        So arrays that are staged for one save survive another save in between.
        """
        with self._lock:
            if self._stage is None or not any(map(self._stage.holds, sources)):
                return None
            return self._take()

    def _take(self) -> Stage | None:
        stage, self._stage = self._stage, None
        if stage is not None:
            self._last_bytes = max(stage.used_bytes, _FIRST_BYTES)
        return stage

    def close(self) -> None:
        """Release everything."""
        with self._lock:
            stage = self._take()
        if stage is not None:
            for room in [*stage.outgrown, stage.room]:
                room.release()
