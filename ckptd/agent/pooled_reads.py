"""Objects that the agents of many hosts read together: the store gives each block once.

Each block of an object has an owner among the agents that are alive: the one whose name and the block's give the
highest hash. The owner gets it from the host that has it in memory, if one has (`ckptd.agent.memory_here`), or else
from the store; the others ask the owner, and each keeps some blocks for a while. So a host is asked for what it has in
memory by one other. An agent that says nothing for two seconds is passed by, and the next one takes its place; the last
resort is to read from the store oneself. No bytes of another agent are trusted: whoever restores compares checksums
with the index, and if they differ reads the originals (`beneath`); for parts of slices see `checked_parts`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import grpc

from ckptd.agent.block_cache import BlockCache
from ckptd.agent.checked_parts import CheckedParts
from ckptd.agent.kept_block import KeptBlock
from ckptd.agent.memory_here import MemoryHere
from ckptd.agent.neighbourhood import KNOWN_S, Neighbour, Neighbourhood
from ckptd.agent.other_agents import OtherAgents
from ckptd.agent.reading_ahead import ReadingAhead
from ckptd.agent.silence import Silence
from ckptd.engine.reading.waits import ReadWaits
from ckptd.errors import CkptdError, CorruptionError, NotFoundError
from ckptd.storage.base import AccessPattern, Objects, ObjectStat
from ckptd.storage.capabilities import SlicePart
from ckptd.wire import status
from ckptd.wire.v1 import common_pb2, read_pb2

_log = logging.getLogger("ckptd.agent")

BLOCK_BYTES = 8 << 20
_BLOCK_S = 120.0
_MOST_STATS = 4096
_SHARED = (".data-", ".index")

_Load = Callable[[ObjectStat, int], KeptBlock | None]


class _Block(NamedTuple):
    kind: str
    key: str
    version: str
    number: int


class _OtherVersionError(CorruptionError):
    """Another agent has another version of an object, as it was replaced just now."""


class PooledReads:
    """See the module. Any thread may use it.

    Attributes:
        own: the same objects, read for other agents: nobody is asked, and so no two wait for each other.
    """

    def __init__(
        self,
        store: Objects,
        host: str,
        others: OtherAgents,
        neighbours: Callable[[], Sequence[Neighbour]],
        peer: common_pb2.Peer,
        memory: MemoryHere,
        *,
        cache: BlockCache[KeptBlock] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read nothing yet.

        Args:
            store: where the objects are.
            host: of this agent.
            others: the agents of other hosts.
            neighbours: returns the agents that are alive, as the coordinator knows them.
            peer: of this agent.
            memory: of hosts, this one and others.
            cache: for blocks.
            now: seconds on a forward-only clock.
        """
        self._store, self._host, self._others, self._peer, self._now = store, host, others, peer, now
        self._neighbours = Neighbourhood(host, neighbours, now)
        self._cache: BlockCache[KeptBlock] = BlockCache() if cache is None else cache
        self._memory, self._ahead = memory, ReadingAhead(now)
        self._lock = threading.Lock()
        self._stats: dict[str, tuple[ObjectStat, float]] = {}
        self._waits = ReadWaits(now, _log)
        self._parts = CheckedParts(BLOCK_BYTES, self._block, self._original, self.forget)
        self.own = _OwnReads(self)

    @property
    def beneath(self) -> Objects:
        """The originals. They are read where copies were damaged: what is kept here is forgotten."""
        return self._store

    @property
    def access(self) -> AccessPattern:
        """As many readers as there may be requests to the store at once."""
        return AccessPattern(self._store.access.num_readers, self._store.access.gap_bytes, BLOCK_BYTES)

    def forget(self, key: str) -> None:
        """Keep nothing more of an object, and read it from no memory, as a reader has found it damaged."""
        self._memory.distrust(key)
        if self._cache.forget(lambda block: isinstance(block, _Block) and block.key == key):
            _log.warning("%s was damaged in memory, here or at another agent: it is read from the store", key)

    def get(self, key: str, *, limit_bytes: int = 1 << 31) -> bytes:
        """See `Objects`."""
        return self._store.get(key, limit_bytes=limit_bytes)

    def location(self, key: str) -> str:
        """See `Objects`."""
        return self._store.location(key)

    def stat(self, key: str) -> ObjectStat:
        """See `Objects`. A data file is described as it was at most some seconds ago: its key is used only once."""
        return self.known(key) if ".data-" in key else self._look(key)

    def _look(self, key: str) -> ObjectStat:
        found = self._store.stat(key)
        with self._lock:
            if len(self._stats) >= _MOST_STATS:
                self._stats.clear()
            self._stats[key] = found, self._now()
        return found

    def known(self, key: str) -> ObjectStat:
        """Describe an object as it was at most some seconds ago."""
        with self._lock:
            known = self._stats.get(key)
        if known is not None and self._now() - known[1] <= KNOWN_S:
            return known[0]
        return self._look(key)

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        """See `Objects`."""
        self.fill(key, offset, into, self._block)

    def views(self, key: str, offset: int, size: int) -> list[memoryview]:
        """See `ViewedObjects`."""
        return list(self.views_by(key, offset, size, self._block))

    def fill(self, key: str, offset: int, into: Sequence[memoryview], block: _Load) -> None:
        """Fill `into` from blocks, each of which `block` returns by its number."""
        if not any(each in key for each in _SHARED):
            self._store.read_into(key, offset, *into)
            return
        for place in (view.cast("B") for view in into):
            at = 0
            for view in self.views_by(key, offset, len(place), block):
                place[at : at + len(view)] = view
                at += len(view)
            offset += len(place)

    def views_by(self, key: str, offset: int, size: int, block: _Load) -> Iterator[memoryview]:
        """Yield these bytes from blocks, each of which `block` returns by its number."""
        if not any(each in key for each in _SHARED):
            if size:
                whole = KeptBlock.filled(size, lambda places: self._store.read_into(key, offset, *places))
                yield from whole.views(0, size)
            return
        stat, end = self.known(key), offset + size
        while offset < end:
            number, within = divmod(offset, BLOCK_BYTES)
            found = block(stat, number)
            if found is None or within >= len(found):
                raise CorruptionError("object ends early", key=key, offset=offset, actual=stat.size_bytes)
            for view in found.views(within, within + end - offset):
                yield view
                offset += len(view)

    def expect(self, key: str, offset: int, size: int) -> None:
        """Hear that a rank will read these bytes soon: what is ours of them is read from the store for everyone."""
        if ".data-" not in key or self._memory.needs_nobody(key):
            return
        try:
            stat = self.known(key)
        except CkptdError:
            return  # whoever reads it meets the same error
        end = min(offset + size, stat.size_bytes)
        numbers = range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES))
        self._ahead.expect(
            (block, lambda number=number: self.own_block(stat, number))  # type: ignore[misc]
            for number in numbers
            if self._owner(stat, number) is None
            and not self._cache.has(block := _Block("own", key, stat.version, number))
        )

    # Blocks

    def own_block(self, stat: ObjectStat, number: int) -> KeptBlock | None:
        """Return a block: from memory here, or that of the host that has it, or the store; None behind the end."""
        begin = number * BLOCK_BYTES
        size = min(BLOCK_BYTES, stat.size_bytes - begin)
        if size <= 0:
            return None
        missing: list[int] = []  # how much of each part is not in memory here

        def from_here(places: list[memoryview]) -> None:
            at = begin
            for place in places:
                missing.append(sum(end - start for start, end in self._memory.read(stat.key, at, place)))
                at += len(place)

        if self._memory.has_here(stat.key):
            here = KeptBlock.filled(size, from_here)
            if not any(missing):
                return here

        def load() -> KeptBlock:
            is_partly_here = bool(missing) and sum(missing) < size
            held = None if is_partly_here else self._from_memory_elsewhere(stat, number)
            return held or KeptBlock.filled(size, lambda places: self.fill_held(stat.key, begin, places))

        return self._cache.get(_Block("own", stat.key, stat.version, number), load)

    def fill_held(self, key: str, offset: int, places: Sequence[memoryview], save: str | None = None) -> None:
        """Fill places, side by side, from memory here, and from the store what is missing there.

        `NotFoundError` if that is all, and a `save` is meant.
        """
        missing, at = 0, offset
        runs: list[tuple[int, list[memoryview]]] = []
        for place in places:
            for begin, end in self._memory.read(key, at, place, save):
                missing += end - begin
                if runs and runs[-1][0] + sum(map(len, runs[-1][1])) == at + begin:
                    runs[-1][1].append(place[begin:end])
                else:
                    runs.append((at + begin, [place[begin:end]]))
            at += len(place)
        if save is not None and missing == at - offset:
            raise NotFoundError("these bytes are not in memory here any more", key=key, offset=offset)
        for begin, views in runs:
            with self._waits.of(key, "the store", sum(map(len, views))):
                self._store.read_into(key, begin, *views)

    def _from_memory_elsewhere(self, stat: ObjectStat, number: int) -> KeptBlock | None:
        """Return a block from the memory of another host, None if none has it and answers."""
        save, holders = self._memory.holders(stat.key)
        for host in holders:
            owner = self._neighbours.live().get(host)
            if owner is None or self._neighbours.is_silent(host):
                continue
            try:
                return self._ask(owner, stat, number, held_save=save)
            except NotFoundError:
                continue  # evicted meanwhile
            except CkptdError as error:
                self._neighbours.pass_by(host, error)
        return None

    def _block(self, stat: ObjectStat, number: int) -> KeptBlock | None:
        if number * BLOCK_BYTES >= stat.size_bytes:
            return None
        owner = None if self._memory.needs_nobody(stat.key) else self._owner(stat, number)
        if owner is None:
            return self.own_block(stat, number)
        # What is asked for is never waited for by who was asked: blocks of the two kinds are kept apart.
        return self._cache.get(_Block("far", stat.key, stat.version, number), lambda: self._far(stat, number))

    def _owner(self, stat: ObjectStat, number: int) -> Neighbour | None:
        return self._neighbours.owner(stat.key, stat.version, number, -(-stat.size_bytes // BLOCK_BYTES))

    def _far(self, stat: ObjectStat, number: int) -> KeptBlock:
        while (owner := self._owner(stat, number)) is not None:
            try:
                return self._ask(owner, stat, number)
            except _OtherVersionError:
                break
            except CkptdError as error:
                self._neighbours.pass_by(owner.host, error)
        found = self.own_block(stat, number)
        assert found is not None, "it begins within the object"
        return found

    def _ask(self, owner: Neighbour, stat: ObjectStat, number: int, held_save: str = "") -> KeptBlock:
        stubs = self._others.to(owner.host, owner.addresses)
        begin = number * BLOCK_BYTES
        size = min(BLOCK_BYTES, stat.size_bytes - begin)
        request = read_pb2.ReadRequest(
            peer=self._peer, key=stat.key, offset=begin, size=size, for_agent=True, held_save=held_save
        )
        parts: list[memoryview] = []
        call = stubs.read.Read(request, timeout=_BLOCK_S)
        silence = Silence(call.cancel)
        try:
            with self._others.busy(owner.host), self._waits.of(stat.key, f"the agent on {owner.host}", size):
                for reply in call:
                    silence.is_over()
                    if not isinstance(reply, read_pb2.ReadReply):
                        parts.append(reply)
                        continue
                    if reply.version and reply.version != stat.version:
                        raise _OtherVersionError("another agent has another version of it", key=stat.key)
                    if reply.data:
                        parts.append(memoryview(reply.data))
        except grpc.RpcError as error:
            self._others.avoid(stubs)
            raise status.from_wire(error, address=stubs.address) from None
        finally:
            silence.end()
            call.cancel()
        arrived = sum(map(len, parts))
        if arrived != size:
            raise CorruptionError("another agent sent too few bytes", key=stat.key, expected=size, actual=arrived)
        self._others.read(owner.host, size)
        return KeptBlock(parts)

    def _original(self, key: str, offset: int, size: int) -> KeptBlock:
        return KeptBlock.filled(size, lambda places: self.fill_held(key, offset, places))

    def views_checked(
        self, key: str, offset: int, size: int, slices: Sequence[SlicePart], num_ranks: int
    ) -> list[memoryview]:
        """See `PooledObjects.checked`."""
        return list(self._parts.views(self.known(key), offset, size, slices, num_ranks))

    def checked(self, slices: Sequence[SlicePart], num_ranks: int) -> Objects:
        """See `PooledObjects`."""
        return _CheckedReads(self, slices, num_ranks)

    def held(self, save: str) -> Objects:
        """Return the same objects, as far as this host has them in memory of a save, for another agent."""
        return _HeldReads(self, save)

    def tick(self) -> None:
        """Write a line about what is waited for, from time to time."""
        self._waits.tell()


class _OwnReads:
    """See `PooledReads.own`."""

    def __init__(self, pooled: PooledReads) -> None:
        self._pooled = pooled

    @property
    def access(self) -> AccessPattern:
        return self._pooled.access

    def get(self, key: str, *, limit_bytes: int = 1 << 31) -> bytes:
        return self._pooled.get(key, limit_bytes=limit_bytes)

    def location(self, key: str) -> str:
        return self._pooled.location(key)

    def stat(self, key: str) -> ObjectStat:
        return self._pooled.stat(key)

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        self._pooled.fill(key, offset, into, self._pooled.own_block)

    def views(self, key: str, offset: int, size: int) -> list[memoryview]:
        return list(self._pooled.views_by(key, offset, size, self._pooled.own_block))


class _CheckedReads(_OwnReads):
    """See `PooledReads.checked`."""

    def __init__(self, pooled: PooledReads, slices: Sequence[SlicePart], num_ranks: int) -> None:
        super().__init__(pooled)
        self._slices, self._num_ranks = slices, num_ranks

    def views(self, key: str, offset: int, size: int) -> list[memoryview]:
        return self._pooled.views_checked(key, offset, size, self._slices, self._num_ranks)

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        for place in (view.cast("B") for view in into):
            at = 0
            for view in self.views(key, offset, len(place)):
                place[at : at + len(view)] = view
                at += len(view)
            offset += len(place)


class _HeldReads(_OwnReads):
    """See `PooledReads.held`. No other agent is asked: so no two wait for each other."""

    def __init__(self, pooled: PooledReads, save: str) -> None:
        super().__init__(pooled)
        self._save = save

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        self._pooled.fill_held(key, offset, into, self._save)

    def views(self, key: str, offset: int, size: int) -> list[memoryview]:
        held = KeptBlock.filled(size, lambda places: self.read_into(key, offset, *places))
        return list(held.views(0, size))
