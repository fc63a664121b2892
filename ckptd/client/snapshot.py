"""A copy of the caller's arrays, so that training may go on while they are saved.

It is taken in the byte order and layout of the file, so that every later step only takes views of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from ckptd.client.capturing import Sums, capture, sum_staged
from ckptd.client.inventory import Inventory
from ckptd.client.placement import Placement, place
from ckptd.client.rooms import Room, RoomPool
from ckptd.engine.layout import Lane
from ckptd.errors import SessionAbortedError, UnavailableError

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Snapshot:
    """What one rank saves, in memory of its own. Reading it is safe from any thread until `release`.

    Attributes:
        manifest: what there is: its rows are the items of this snapshot.
        offsets: per item, where its stored form begins in `memory`.
        memory: where it lies.
        lanes: how it is laid out in the shards, once that is known.
    """

    def __init__(self, inventory: Inventory, placement: Placement, room: Room) -> None:
        """Prepare; `capture` copies."""
        self.manifest = inventory.manifest
        self.offsets = placement.offsets
        self.memory = memoryview(cast("Buffer", room.data))
        self.lanes: Sequence[Lane] = ()
        self._inventory: Inventory | None = inventory
        self._placement = placement
        self._room: Room | None = room
        self._sums: Sums | None = None
        self._is_settled = threading.Event()

    @classmethod
    def take(cls, arrays: Mapping[str, Any], pool: RoomPool) -> Snapshot:
        """Copy `arrays` into private memory; on return the caller may change them.

        Raises:
            InvalidRequestError: naming the tensor that can't be saved. Nothing is kept then.
        """
        inventory = Inventory.of(arrays)
        placement = place(inventory.manifest)
        snapshot = cls(inventory, placement, pool.take(placement.size_bytes))
        try:
            snapshot.capture()
        except BaseException:
            snapshot.release()
            raise
        return snapshot

    def capture(self) -> Sums:
        """Copy the arrays; on return the caller may change them. Called once."""
        assert self._inventory is not None
        assert self._room is not None
        try:
            self._sums = capture(self._inventory, self._placement, self._room)
            return self._sums
        finally:
            self._inventory = None  # the arrays are the caller's again
            self._is_settled.set()

    @property
    def has_staged(self) -> bool:
        """Whether some of it was in its place already, and is not summed yet."""
        return len(self._placement.staged) > 0

    def sum_staged(self) -> Sums:
        """Sum what was staged, too; return all checksums."""
        room = self._room
        if room is not None:
            sum_staged(self.manifest, self._placement, room, self.sums)
        return self.sums

    def wait(self, timeout_s: float) -> Sums:
        """Wait until the arrays are copied; return the checksums, one per part and, of strings, two.

        Raises:
            SessionAbortedError: they could not be copied.
            UnavailableError: it takes longer than `timeout_s`.
        """
        if not self._is_settled.wait(timeout_s):
            raise UnavailableError(f"the arrays were not copied within {timeout_s:g} s")
        if self._sums is None:
            raise SessionAbortedError("the arrays could not be copied")
        return self._sums

    @property
    def sums(self) -> Sums:
        """CRC-32C per part and, of strings, two, of the lengths and of the payload; as they were captured."""
        assert self._sums is not None, "it has been captured"
        return self._sums

    @property
    def size_bytes(self) -> int:
        """Bytes that all parts take in the shards."""
        return self.manifest.size_bytes

    def views(self, item: int, offset: int, size: int) -> Iterator[memoryview]:
        """Yield the bytes of one part's stored form from `offset` on, `size` of them, in one or more views."""
        begin = int(self.offsets[item]) + offset
        yield self.memory[begin : begin + size]

    def release(self) -> None:
        """Give the memory back, once nothing is copied there any more.

        Harmless when repeated; what views show is arbitrary from then on.
        """
        self._is_settled.wait()
        room, self._room = self._room, None
        if room is not None:
            room.give_back()
