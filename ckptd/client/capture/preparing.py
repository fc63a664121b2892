"""What a save needs before a byte is copied: descriptions, places and memory, kept from one save to the next."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ckptd.client.capture.arrays import Array
from ckptd.client.capture.buffers import Room
from ckptd.client.capture.inventory import Inventory
from ckptd.client.capture.memory_layout import Placement, place
from ckptd.client.capture.snapshot import Snapshot
from ckptd.client.capture.staging import Stage, Staging
from ckptd.engine.layout import Lane
from ckptd.engine.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Prepared:
    """One save, ready to be captured: `placement` of the parts of `inventory` in `room`.

    `outgrown` is memory that some of the arrays may lie in; it is free once everything is copied.
    """

    inventory: Inventory
    placement: Placement
    room: Room
    outgrown: Sequence[Room] = ()

    def release(self) -> None:
        """Return all memory to its pool; nothing was begun."""
        for room in [*self.outgrown, self.room]:
            room.release()


class Rooms(Protocol):
    """Where memory for saves comes from: a transport, or private memory."""

    def room(self, size_bytes: int) -> Room:
        """Return memory to capture a save into."""

    def prepare(self, size_bytes: int) -> None:
        """Have rooms for saves of this size made ready, in the background."""


class Preparation:
    """Prepares the saves of one `Checkpointer`. Any thread may use it."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._staging = Staging(rooms.room)
        self._lock = threading.Lock()
        self._inventory: Inventory | None = None
        self._placed: tuple[Manifest, Placement] | None = None
        self._lanes: Sequence[Lane] = ()

    def staging(self, name: str, shape: Sequence[int], dtype: object) -> Array:
        """Return an array to produce bytes in, for the next save; see `Checkpointer.staging`."""
        return self._staging.array(name, shape, dtype)

    def ahead(self, arrays: Mapping[str, Any]) -> None:
        """Describe arrays that are going to be saved, and have memory for them made ready in the background."""
        inventory = Inventory.of(arrays, self._inventory)
        placement = self._place(inventory.manifest)
        with self._lock:
            self._inventory = inventory.without_arrays()
        self._rooms.prepare(placement.size_bytes)

    def prepare(self, arrays: Mapping[str, Any]) -> Prepared:
        """Describe `arrays` and find memory for them.

        Raises:
            InvalidRequestError: naming the tensor that can't be saved.
        """
        inventory = Inventory.of(arrays, self._inventory)
        with self._lock:
            self._inventory = inventory.without_arrays()
        stage = self._staging.take(inventory.sources)
        if stage is not None:
            try:
                return self._prepare_staged(inventory, stage)
            except BaseException:
                for room in [*stage.outgrown, stage.room]:
                    room.release()
                raise
        placement = self._place(inventory.manifest)
        self._staging.expect(placement.size_bytes, inventory.manifest.num_parts)
        return Prepared(inventory, placement, self._rooms.room(placement.size_bytes))

    def _prepare_staged(self, inventory: Inventory, stage: Stage) -> Prepared:
        offsets = {row: stage.offset_of(source) for row, source in enumerate(inventory.sources)}
        staged = {row: offset for row, offset in offsets.items() if offset is not None}
        placement = place(inventory.manifest, self._lanes_for(inventory.manifest), staged, stage.used_bytes)
        if placement.size_bytes <= len(stage.room.data):
            return Prepared(inventory, placement, stage.room, stage.outgrown)
        placement = self._place(inventory.manifest)
        room = self._rooms.room(placement.size_bytes)
        return Prepared(inventory, placement, room, [*stage.outgrown, stage.room])

    def learn(self, snapshot: Snapshot) -> None:
        """Place the next save as this one was laid out in the shards."""
        with self._lock:
            if not snapshot.lanes or self._placed is None:
                return
            manifest = self._placed[0]
            if manifest.num_parts == snapshot.manifest.num_parts:
                self._lanes = snapshot.lanes
                self._placed = manifest, place(manifest, self._lanes)

    def close(self) -> None:
        """Free what was staged and not saved."""
        self._staging.close()

    def _place(self, manifest: Manifest) -> Placement:
        with self._lock:
            known = self._placed
        if known is None or known[0] is not manifest:
            known = manifest, place(manifest, self._lanes_for(manifest))
            with self._lock:
                self._placed = known
        return known[1]

    def _lanes_for(self, manifest: Manifest) -> Sequence[Lane]:
        """Return the lanes of the save before, if it had as many parts: a good guess, and never more than that."""
        with self._lock:
            before = self._placed
            return self._lanes if before is not None and before[0].num_parts == manifest.num_parts else ()
