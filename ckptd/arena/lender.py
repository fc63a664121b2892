"""Which rank has which arena, within a limit; and which checkpoints are still in them.

An arena belongs to a rank of a run, not to a process: a process that takes that rank after a crash gets the same
memory, and finds in it what was saved last. Memory of ranks that are gone is reclaimed when others want it.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ckptd.arena.segment import ArenaFill, Segment
from ckptd.engine.lanes.capture import Capture, Holding, Stretch
from ckptd.engine.layout import Column
from ckptd.errors import ConflictError, InvalidRequestError, StorageFullError

_log = logging.getLogger("ckptd.arena")

GENERATIONS = 2
"""How many saves of one rank may be in memory at once: one is written while the next is captured."""

_MAX_PARTS = 1 << 24
_KEEP_S = 600.0  # memory of a rank that is gone is kept so long for the one that takes its place
_NUM_FAULTERS = 2


@dataclass(frozen=True, slots=True)
class Tenant:
    """The owner of an arena."""

    run: str
    rank: int


@dataclass(eq=False, slots=True)
class Arena:
    """One arena. The lender's lock guards all but the segment."""

    id: int
    segment: Segment
    place: Tenant
    owner: object = None  # the connection that it is lent to, as long as that lives
    saved_at: float = 0.0
    idle_since: float = 0.0
    capture: Capture | None = None
    is_dropped: bool = False


@dataclass(frozen=True, slots=True)
class HeldStretch:
    """Bytes of a shard that are in an arena as long as that has this generation."""

    arena: Arena
    generation: int
    stretch: Stretch

    def copy(self, at: int, into: memoryview) -> bool:
        """Fill `into` from byte `at` of the shard; return whether the arena held it throughout."""
        begin = self.stretch.memory_offset + at - self.stretch.shard_offset
        segment = self.arena.segment
        if not segment.holds(self.generation):
            return False
        np.copyto(np.frombuffer(into, np.uint8), segment.data[begin : begin + len(into)])
        return segment.holds(self.generation)


@dataclass(slots=True)
class HeldSave:
    """One save, all of it or a part, that is in arenas; `index_crc32c` is of its index object."""

    index_crc32c: int
    stretches: list[HeldStretch] = field(default_factory=list)
    _in_order: dict[str, tuple[list[int], list[HeldStretch]]] | None = None  # by shard: where each begins, and which

    def forget(self, arena: Arena) -> None:
        """Offer nothing more of what an arena held."""
        self.stretches = [each for each in self.stretches if each.arena is not arena]
        self._in_order = None

    def add(self, stretches: Iterable[HeldStretch]) -> None:
        """Offer more."""
        self.stretches.extend(stretches)
        self._in_order = None

    def of_shard(self, shard_key: str, begin: int, end: int) -> list[HeldStretch]:
        """Return what is held of some bytes of a shard, in their order."""
        if self._in_order is None:
            by_shard: dict[str, list[HeldStretch]] = {}
            for each in sorted(self.stretches, key=lambda each: each.stretch.shard_offset):
                by_shard.setdefault(each.stretch.shard_key, []).append(each)
            self._in_order = {
                key: ([each.stretch.shard_offset for each in found], found) for key, found in by_shard.items()
            }
        begins, found = self._in_order.get(shard_key, ([], []))
        first, last = max(0, bisect_right(begins, begin) - 1), bisect_left(begins, end)
        return [each for each in found[first:last] if each.stretch.end > begin]


@dataclass(slots=True)
class Usage:
    """How much memory is lent to one run."""

    ranks: set[int] = field(default_factory=set)
    num_arenas: int = 0
    size_bytes: int = 0


class Lender:
    """Lends arenas, at most `limit_bytes` of them. Any thread may use it."""

    def __init__(self, limit_bytes: int, now: Callable[[], float] = time.monotonic) -> None:
        self.limit_bytes = limit_bytes
        self._now = now
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self.arenas: dict[int, Arena] = {}
        self._owners: dict[Tenant, object] = {}  # connections
        self._held: dict[tuple[str, str], HeldSave] = {}  # by run and save id, as they were published
        self.changes = 0
        self._faulters = ThreadPoolExecutor(_NUM_FAULTERS, thread_name_prefix="ckptd-prefault")

    @property
    def size_bytes(self) -> int:
        """How much is lent, or kept for ranks that may come back."""
        with self._lock:
            return self._size()

    def states(self) -> dict[str, int]:
        """Return how many bytes are ``free`` to be lent, ``filled`` with a published save, ``leased`` without one."""
        with self._lock:
            filled = {each.arena.id: each.arena for held in self._held.values() for each in held.stretches}
            filled_bytes = sum(arena.segment.size_bytes for arena in filled.values())
            size_bytes = self._size()
        free_bytes = max(0, self.limit_bytes - size_bytes)
        return {"free": free_bytes, "filled": filled_bytes, "leased": max(0, size_bytes - filled_bytes)}

    def usage(self) -> dict[str, Usage]:
        """Return what each run has."""
        found: dict[str, Usage] = {}
        with self._lock:
            for arena in self.arenas.values():
                usage = found.setdefault(arena.place.run, Usage())
                usage.num_arenas += 1
                usage.size_bytes += arena.segment.size_bytes
                if arena.place in self._owners:
                    usage.ranks.add(arena.place.rank)
        return found

    def lend(self, place: Tenant, owner: object, size_bytes: int, count: int) -> list[Arena]:
        """Lend `owner`, which has `place`, arenas of at least `size_bytes`: `count` of them, or fewer where the bound
        allows no more. The one whose content is oldest comes first. Their pages are made ready in the background.

        Raises:
            StorageFullError: when there is room for none.
            InvalidRequestError: for a size that can't be.
        """
        if size_bytes <= 0 or not 0 < count <= GENERATIONS:
            raise InvalidRequestError("arenas of this size can't be lent", actual=(size_bytes, count))
        with self._lock:
            self._owners[place] = owner
            self._reclaim_expired()
            for arena in self._of(place):
                if arena.segment.size_bytes < size_bytes and arena.capture is None:
                    self._drop(arena)
            # Memory that another process's save is still written from must not be filled. Nor may two fill the same: a
            # process that was stopped, and has lost its place meanwhile, goes on with its copy when it is continued.
            large = [arena for arena in self._of(place) if arena.segment.size_bytes >= size_bytes]
            own = [arena for arena in large if arena.owner is owner]
            kept = [arena for arena in large if arena.owner is None and arena.capture is None]
            kept.sort(key=lambda arena: arena.saved_at, reverse=True)
            fitting = own + kept[: max(0, count - len(own))]
            for arena in fitting:
                arena.owner = owner
            while len(fitting) < count and self._make_room(size_bytes):
                arena = Arena(next(self._ids), Segment.create(size_bytes), place, owner)
                self.arenas[arena.id] = arena
                fitting.append(arena)
                self._faulters.submit(self._prefault, arena)
            if not fitting:
                raise StorageFullError(
                    "no room for another arena: raise --arena-bytes",
                    expected=f"{size_bytes} bytes",
                    actual=f"{self.limit_bytes - self._size()} of {self.limit_bytes}",
                )
            return sorted(fitting, key=lambda arena: arena.saved_at)

    def leave(self, place: Tenant, owner: object) -> None:
        """Note that `owner` is gone; what it was lent is kept for a while for the process that takes its place."""
        with self._lock:
            if self._owners.get(place) is owner:
                del self._owners[place]
            for arena in self._of(place):
                if arena.owner is owner:
                    arena.owner = None
                    arena.idle_since = self._now()

    def begin(
        self,
        place: Tenant,
        owner: object,
        arena_id: int,
        generation: int,
        offsets: Column,
        sizes: Column,
        num_sums: int,
        *,
        is_staged: bool = False,
    ) -> Capture:
        """Follow a capture into an arena that `owner` was lent; what it held counts no longer.

        Raises:
            ConflictError: it is not its own, or an earlier save is still written from it.
            InvalidRequestError: parts are not inside it.
        """
        if len(offsets) != len(sizes) or len(offsets) > _MAX_PARTS:
            raise InvalidRequestError("a capture does not fit its manifest", expected=len(sizes), actual=len(offsets))
        with self._lock:
            arena = self.arenas.get(arena_id)
            if arena is None or arena.owner is not owner or self._owners.get(place) is not owner:
                raise ConflictError(f"arena {arena_id} is not lent to rank {place.rank} of {place.run}")
            if arena.capture is not None:
                raise ConflictError(f"arena {arena_id} is still being written from")
            outside = (
                (offsets < 0) | (offsets > arena.segment.size_bytes) | (offsets + sizes > arena.segment.size_bytes)
            )
            if outside.any():
                raise InvalidRequestError("a part of a capture lies outside of its arena", actual=int(outside.argmax()))
            self._forget(arena)
            arena.capture = Capture(
                ArenaFill(arena.segment, generation),
                offsets,
                num_sums,
                is_staged=is_staged,
                on_saved=lambda holding: self._saved(arena, generation, holding),
                on_end=lambda: self._ended(arena),
            )
            return arena.capture

    def held(self, run: str, save_id: str) -> HeldSave | None:
        """Return what is in memory of a save; None if nothing is, or is any more."""
        with self._lock:
            held = self._held.get((run, save_id))
            return None if held is None else HeldSave(held.index_crc32c, list(held.stretches))

    def keep_only(self, run: str, save_ids: Collection[str]) -> None:
        """End the offers of all saves of a run but these, also for readers that got them before.

        What memory holds belongs to one save: what is deleted, replaced or set aside must not be found under the same
        keys when they are used again.
        """
        with self._lock:
            self._end([key for key in self._held if key[0] == run and key[1] not in save_ids])

    def drop(self, run: str, save_ids: Collection[str]) -> None:
        """See `LentMemory`."""
        with self._lock:
            self._end([key for key in self._held if key[0] == run and key[1] in save_ids])

    def _end(self, keys: Iterable[tuple[str, str]]) -> None:
        for key in keys:
            self.changes += 1
            for each in self._held.pop(key).stretches:
                each.arena.segment.end(each.generation)

    def held_shards(self) -> list[tuple[str, str, dict[str, int]]]:
        """See `LentMemory`."""
        with self._lock:
            found = [(run, save_id, list(held.stretches)) for (run, save_id), held in self._held.items()]
        shards: list[tuple[str, str, dict[str, int]]] = []
        for run, save_id, stretches in found:
            sizes: Counter[str] = Counter()
            for each in stretches:
                sizes[each.stretch.shard_key] += each.stretch.size_bytes
            shards.append((run, save_id, dict(sizes)))
        return shards

    def read_held(self, run: str, save_id: str, shard_key: str, offset: int, into: memoryview) -> list[tuple[int, int]]:
        """See `LentMemory`. What its rank overwrites meanwhile is not held."""
        with self._lock:
            held = self._held.get((run, save_id))
            stretches = [] if held is None else held.of_shard(shard_key, offset, offset + len(into))
        at, gaps = 0, []
        for each in stretches:
            begin, end = max(at, each.stretch.shard_offset - offset), each.stretch.end - offset
            end = min(end, len(into))
            if begin >= end or not each.copy(offset + begin, into[begin:end]):
                continue
            if begin > at:
                gaps.append((at, begin))
            at = end
        return [*gaps, (at, len(into))] if at < len(into) else gaps

    def close(self) -> None:
        """Give all memory back to the system."""
        with self._lock:
            for arena in list(self.arenas.values()):
                self._drop(arena)
        self._faulters.shutdown(wait=False, cancel_futures=True)

    def _saved(self, arena: Arena, generation: int, holding: Holding) -> None:
        with self._lock:
            arena.saved_at = self._now()
            held = self._held.setdefault((arena.place.run, holding.save_id), HeldSave(holding.index_crc32c))
            held.add(HeldStretch(arena, generation, stretch) for stretch in holding.stretches)
            self.changes += 1

    def _forget(self, arena: Arena) -> None:
        """Offer nothing more of what an arena held; what other arenas hold of the same save is still there."""
        for key, held in list(self._held.items()):
            held.forget(arena)
            self.changes += 1
            if not held.stretches:
                del self._held[key]

    def _ended(self, arena: Arena) -> None:
        with self._lock:
            arena.capture = None
            arena.idle_since = self._now()

    def _of(self, place: Tenant) -> list[Arena]:
        return [arena for arena in self.arenas.values() if arena.place == place]

    def _size(self) -> int:
        return sum(arena.segment.size_bytes for arena in self.arenas.values())

    def _make_room(self, size_bytes: int) -> bool:
        """Reclaim what is not used, the longest idle first, until there is room; return whether there is."""
        idle = sorted(
            (arena for arena in self.arenas.values() if arena.owner is None and arena.capture is None),
            key=lambda arena: arena.idle_since,
        )
        while self._size() + size_bytes > self.limit_bytes and idle:
            self._drop(idle.pop(0))
        return self._size() + size_bytes <= self.limit_bytes

    def _reclaim_expired(self) -> None:
        for arena in list(self.arenas.values()):
            is_idle = arena.owner is None and arena.capture is None
            if is_idle and self._now() - arena.idle_since > _KEEP_S:
                self._drop(arena)

    def tick(self) -> None:
        """Give back what was kept for a process that did not come."""
        with self._lock:
            self._reclaim_expired()

    def _drop(self, arena: Arena) -> None:
        del self.arenas[arena.id]
        arena.is_dropped = True
        self._forget(arena)
        arena.segment.end(arena.segment.generation)  # no reader can be told later that it was deleted
        arena.segment.close()

    def _prefault(self, arena: Arena) -> None:
        try:
            arena.segment.prefault(arena.segment.size_bytes, lambda: not arena.is_dropped)
        except StorageFullError as error:
            _log.warning("an arena for rank %d of %s is not ready: %s", arena.place.rank, arena.place.run, error)
