"""Objects that the agents of many hosts read together: the store gives each block once.

Each block of an object has an owner among the agents that are alive: the one whose name and the block's give the
highest hash. The owner gets it from the host that has it in memory, if one has (`ckptd.agent.memory_here`), or else
from the store; the others ask the owner, and each keeps some blocks for a while. So a host is asked for what it has in
memory by one other. An agent that says nothing for two seconds is passed by, and the next one takes its place; the last
resort is to read from the store oneself. No bytes of another agent are trusted: whoever restores compares checksums
with the index, and if they differ reads the originals (`beneath`).
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import grpc

from ckptd.agent.block_cache import BlockCache
from ckptd.agent.memory_here import MemoryHere
from ckptd.agent.other_agents import OtherAgents
from ckptd.agent.silence import Silence
from ckptd.engine.reading.waits import ReadWaits
from ckptd.errors import CkptdError, CorruptionError, NotFoundError
from ckptd.storage.base import AccessPattern, Objects, ObjectStat
from ckptd.wire import status
from ckptd.wire.v1 import common_pb2, read_pb2

_log = logging.getLogger("ckptd.agent")

BLOCK_BYTES = 8 << 20
_PASSED_BY_S = 30.0  # then it is asked again
_KNOWN_S = 5.0  # how long it is believed which agents there are, and which version an object has
_BLOCK_S = 120.0
_MOST_STATS = 4096
_SHARED = (".data-", ".index")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A live agent, and where it is reached."""

    host: str
    addresses: tuple[str, ...]


class _Block(NamedTuple):
    kind: str
    key: str
    version: str
    number: int


def owner_of(block: tuple[str, str, int], hosts: Iterable[str]) -> str:
    """Return which host owns a block of an object in a version: every host finds the same, without a word.

    If a host goes, only what it owned gets another owner. `ValueError` without hosts.
    """
    words = "\0".join(map(str, block)).encode("utf-8", "surrogateescape")

    def weight(host: str) -> tuple[bytes, str]:
        name = host.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(words, digest_size=8, key=hashlib.sha256(name).digest()).digest(), host

    return max(hosts, key=weight)


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
        cache: BlockCache | None = None,
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
        self._find_neighbours, self._cache = neighbours, BlockCache() if cache is None else cache
        self._memory = memory
        self._lock, self._finding = threading.Lock(), threading.Lock()
        self._stats: dict[str, tuple[ObjectStat, float]] = {}
        self._neighbours: dict[str, Neighbour] = {}
        self._neighbours_at: float | None = None
        self._silent_until: dict[str, float] = {}
        self._waits = ReadWaits(now, _log)
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
        """See `Objects`."""
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
        if known is not None and self._now() - known[1] <= _KNOWN_S:
            return known[0]
        return self.stat(key)

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        """See `Objects`."""
        self.read_blocks(key, offset, into, self._block)

    def read_blocks(
        self, key: str, offset: int, into: Sequence[memoryview], block: Callable[[ObjectStat, int], bytes]
    ) -> None:
        """Fill `into` from blocks, each of which `block` returns by its number."""
        if not any(each in key for each in _SHARED):
            self._store.read_into(key, offset, *into)
            return
        stat = self.known(key)
        for place in (view.cast("B") for view in into):
            at = 0
            while at < len(place):
                number, within = divmod(offset + at, BLOCK_BYTES)
                part = memoryview(block(stat, number))[within : within + len(place) - at]
                if not len(part):
                    raise CorruptionError("object ends early", key=key, offset=offset + at, actual=stat.size_bytes)
                place[at : at + len(part)] = part
                at += len(part)
            offset += len(place)

    # Blocks

    def own_block(self, stat: ObjectStat, number: int) -> bytes:
        """Return a block: from memory here, or that of the host that has it, or the store."""
        begin = number * BLOCK_BYTES
        if begin >= stat.size_bytes:
            return b""
        data = bytearray(min(BLOCK_BYTES, stat.size_bytes - begin))
        gaps = self._memory.read(stat.key, begin, memoryview(data))
        if not gaps:
            return bytes(data)

        def load() -> bytes:
            if gaps == [(0, len(data))] and (held := self._from_memory_elsewhere(stat, number)) is not None:
                return held
            self.read_gaps(stat.key, begin, memoryview(data), gaps)
            return bytes(data)

        return self._cache.get(_Block("own", stat.key, stat.version, number), load)

    def read_gaps(self, key: str, offset: int, into: memoryview, gaps: Iterable[tuple[int, int]]) -> None:
        """Read from the store what memory did not hold."""
        for begin, end in gaps:
            with self._waits.of(key, "the store", end - begin):
                self._store.read_into(key, offset + begin, into[begin:end])

    def _from_memory_elsewhere(self, stat: ObjectStat, number: int) -> bytes | None:
        """Return a block from the memory of another host, None if none has it and answers."""
        save, holders = self._memory.holders(stat.key)
        for host in holders:
            owner = self._live().get(host)
            if owner is None or self._is_silent(host):
                continue
            try:
                data = self._ask(owner, stat, number, held_save=save)
            except NotFoundError:
                continue  # evicted meanwhile
            except CkptdError as error:
                self._pass_by(host, error)
                continue
            self._others.read(host, len(data))
            return data
        return None

    def _is_silent(self, host: str) -> bool:
        with self._lock:
            return self._silent_until.get(host, 0.0) > self._now()

    def _pass_by(self, host: str, error: CkptdError) -> None:
        with self._lock:
            is_new = self._silent_until.get(host, 0.0) <= self._now()
            self._silent_until[host] = self._now() + _PASSED_BY_S
        if is_new:
            _log.warning("the agent on %s is passed by for %.0f s: %s", host, _PASSED_BY_S, error)

    def _block(self, stat: ObjectStat, number: int) -> bytes:
        if number * BLOCK_BYTES >= stat.size_bytes:
            return b""
        owner = None if self._memory.needs_nobody(stat.key) else self._owner(stat, number)
        if owner is None:
            return self.own_block(stat, number)
        # What is asked for is never waited for by who was asked: blocks of the two kinds are kept apart.
        return self._cache.get(_Block("far", stat.key, stat.version, number), lambda: self._far(stat, number))

    def _owner(self, stat: ObjectStat, number: int) -> Neighbour | None:
        """Return who is asked for a block, None if that is ours."""
        live, now = self._live(), self._now()
        with self._lock:
            hosts = [host for host in live if self._silent_until.get(host, 0.0) <= now]
        owner = owner_of((stat.key, stat.version, number), {*hosts, self._host})
        return None if owner == self._host else live[owner]

    def _live(self) -> dict[str, Neighbour]:
        with self._lock:
            at, now = self._neighbours_at, self._now()
            if at is not None and now - at <= _KNOWN_S:
                return self._neighbours
            if at is not None:
                self._neighbours_at = now  # others go on with what is known
        if at is not None:
            return self._find()
        with self._finding:  # nothing is known yet: one asks, and the others wait for its answer
            with self._lock:
                if self._neighbours_at is not None:
                    return self._neighbours
            return self._find()

    def _find(self) -> dict[str, Neighbour]:
        try:
            found = {each.host: each for each in self._find_neighbours() if each.addresses and each.host != self._host}
        except CkptdError as error:
            _log.info("which agents there are is not known: %s", error)
            found = {}
        with self._lock:
            self._neighbours, self._neighbours_at = found, self._now()
            return found

    def _far(self, stat: ObjectStat, number: int) -> bytes:
        while (owner := self._owner(stat, number)) is not None:
            try:
                data = self._ask(owner, stat, number)
            except CkptdError as error:
                self._pass_by(owner.host, error)
                continue
            self._others.read(owner.host, len(data))
            return data
        return self.own_block(stat, number)

    def _ask(self, owner: Neighbour, stat: ObjectStat, number: int, held_save: str = "") -> bytes:
        stubs = self._others.to(owner.host, owner.addresses)
        begin = number * BLOCK_BYTES
        size = min(BLOCK_BYTES, stat.size_bytes - begin)
        request = read_pb2.ReadRequest(
            peer=self._peer, key=stat.key, offset=begin, size=size, for_agent=True, held_save=held_save
        )
        data = bytearray()
        call = stubs.read.Read(request, timeout=_BLOCK_S)
        silence = Silence(call.cancel)
        try:
            with self._others.busy(owner.host), self._waits.of(stat.key, f"the agent on {owner.host}", size):
                for reply in call:
                    silence.is_over()
                    if not isinstance(reply, read_pb2.ReadReply):
                        data += reply
                        continue
                    if reply.version and reply.version != stat.version:
                        raise CorruptionError("another agent has another version of it", key=stat.key)
                    data += reply.data
        except grpc.RpcError as error:
            self._others.avoid(stubs)
            raise status.from_wire(error, address=stubs.address) from None
        finally:
            silence.end()
            call.cancel()
        if len(data) != size:
            raise CorruptionError("another agent sent too few bytes", key=stat.key, expected=size, actual=len(data))
        return bytes(data)

    def held(self, save: str) -> Objects:
        """Return the same objects, as far as this host has them in memory of a save, for another agent."""
        return _HeldReads(self, self._memory, save)

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
        self._pooled.read_blocks(key, offset, into, self._pooled.own_block)


class _HeldReads(_OwnReads):
    """See `PooledReads.held`. No other agent is asked: so no two wait for each other."""

    def __init__(self, pooled: PooledReads, memory: MemoryHere, save: str) -> None:
        super().__init__(pooled)
        self._memory, self._save = memory, save

    def stat(self, key: str) -> ObjectStat:
        return self._pooled.known(key)

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        for place in (view.cast("B") for view in into):
            gaps = self._memory.read(key, offset, place, self._save)
            if gaps == [(0, len(place))]:
                raise NotFoundError("these bytes are not in memory here any more", key=key, offset=offset)
            self._pooled.read_gaps(key, offset, place, gaps)
            offset += len(place)
