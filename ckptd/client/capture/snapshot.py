"""A copy of the caller's arrays, so that training may go on while they are saved.

It is taken in the byte order and layout of the file, so that every later step only takes views of it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from ckptd.client.capture.buffers import Room, RoomPool
from ckptd.client.capture.capturing import capture
from ckptd.client.capture.inventory import Inventory
from ckptd.client.capture.memory_layout import Placement, place
from ckptd.client.capture.summing import NUM_SUMMERS, Sums, sum_parts
from ckptd.engine.layout import Lane
from ckptd.errors import CkptdError, SessionAbortedError, UnavailableError
from ckptd.latch import Latch

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Snapshot:
    """What one rank saves, in memory of its own. Reading it is safe from any thread until `release`.

    Attributes:
        manifest: describes the items of this snapshot, one row each.
        offsets: per item, where its stored form begins in `memory`.
        memory: where it lies.
        lanes: how it is laid out in the shards, once that is known.
        sums: of what was captured, as `sum` gives them, where the caller can reach the memory later; else None.
    """

    def __init__(self, inventory: Inventory, placement: Placement, room: Room) -> None:
        """Prepare; `capture` copies."""
        self.manifest = inventory.manifest
        self.offsets = placement.offsets
        self.memory = memoryview(cast("Buffer", room.data))
        self.lanes: Sequence[Lane] = ()
        self.sums: Sums | None = None
        self._inventory: Inventory | None = inventory
        self._placement = placement
        self._room: Room | None = room
        self._lock = threading.Lock()
        self._is_begun = False  # to be captured
        self._is_captured = False
        self._failure: BaseException | None = None
        self._is_settled = Latch()

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

    def capture(self) -> None:
        """Copy the arrays; on return the caller may change them. Called once."""
        with self._lock:
            if self._is_settled.is_set():
                raise SessionAbortedError("the save was given up")
            self._is_begun = True
        assert self._inventory is not None
        assert self._room is not None
        try:
            capture(self._inventory, self._placement, self._room)
            if self._room.is_shown:  # from here on the caller might change it, and only the sums would show it
                self.sums = sum_parts(self.manifest, self.offsets, self.memory, NUM_SUMMERS)
            self._is_captured = True
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._inventory = None  # the arrays are the caller's again
            self._is_settled.set()

    def give_up(self, cause: BaseException) -> None:
        """Say that the arrays will not be copied, unless they are, or are just being copied."""
        with self._lock:
            if not self._is_begun:
                self._failure, self._inventory = cause, None
                self._is_settled.set()

    @property
    def has_failed(self) -> bool:
        """Whether the arrays could not be copied, or never will be."""
        return self._is_settled.is_set() and not self._is_captured

    def wait(self, timeout_s: float) -> None:
        """Wait until the arrays are copied.

        Raises:
            SessionAbortedError: they could not be copied.
            UnavailableError: it takes longer than `timeout_s`.
        """
        if not self._is_settled.wait(timeout_s):
            raise UnavailableError(f"the arrays were not copied within {timeout_s:g} s")
        if not self._is_captured:
            raise SessionAbortedError(f"the arrays could not be copied: {why(self._failure)}") from self._failure

    def sum(self) -> Sums:
        """Sum what was captured: CRC-32C per part and, of strings, two, of the lengths and of the payload.

        Of memory that was given back meanwhile the sums are arbitrary.
        """
        return sum_parts(self.manifest, self.offsets, self.memory)

    @property
    def size_bytes(self) -> int:
        """Bytes that all parts take in the shards."""
        return self.manifest.size_bytes

    def release(self) -> None:
        """Release the memory, once nothing is copied there any more.

        Harmless when repeated; what views show is arbitrary from then on.
        """
        self._is_settled.wait()
        room, self._room = self._room, None
        if room is not None:
            room.release()


def why(cause: BaseException | None) -> str:
    """Say what ended the caller's part of a save."""
    if isinstance(cause, KeyboardInterrupt):
        return "Ctrl-C"
    return str(cause) if isinstance(cause, CkptdError) else f"{type(cause).__name__}: {cause}"
