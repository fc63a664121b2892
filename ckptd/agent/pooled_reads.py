"""Objects that the agents of many hosts read together: the store gives each block once.

Each block of an object has an owner among the agents that are alive: the one whose name and the block's give the
highest hash. The owner reads it from the store, the others ask the owner, and each keeps some blocks for a while. An
owner that says nothing for two seconds is passed by, and the next one takes its place; the last resort is to read from
the store oneself. No bytes of another agent are trusted: whoever restores compares checksums with the index, and if
they differ reads the originals (`beneath`).
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
from ckptd.agent.other_agents import OtherAgents
from ckptd.engine.wording import describe_bytes
from ckptd.errors import CkptdError, CorruptionError
from ckptd.storage.base import AccessPattern, Objects, ObjectStat
from ckptd.wire import status
from ckptd.wire.v1 import common_pb2, read_pb2

_log = logging.getLogger("ckptd.agent")

BLOCK_BYTES = 8 << 20
SILENT_S = 2.0
"""How long an owner may say nothing; one that waits for its store says so."""

NOTICE_S = 30.0
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
            cache: for blocks.
            now: seconds on a forward-only clock.
        """
        self._store, self._host, self._others, self._peer, self._now = store, host, others, peer, now
        self._find_neighbours, self._cache = neighbours, BlockCache() if cache is None else cache
        self._lock = threading.Lock()
        self._stats: dict[str, tuple[ObjectStat, float]] = {}
        self._neighbours: dict[str, Neighbour] = {}
        self._neighbours_at: float | None = None
        self._silent_until: dict[str, float] = {}
        self._waits = _Waits(now)
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
        """Keep nothing more of an object, as a reader has found it damaged."""
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

    def _known(self, key: str) -> ObjectStat:
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
        stat = self._known(key)
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
        """Return a block, from the store if it is not here."""

        def load() -> bytes:
            data = bytearray(min(BLOCK_BYTES, stat.size_bytes - number * BLOCK_BYTES))
            with self._waits.of(stat.key, "the store", len(data)):
                self._store.read_into(stat.key, number * BLOCK_BYTES, memoryview(data))
            return bytes(data)

        if number * BLOCK_BYTES >= stat.size_bytes:
            return b""
        return self._cache.get(_Block("own", stat.key, stat.version, number), load)

    def _block(self, stat: ObjectStat, number: int) -> bytes:
        if number * BLOCK_BYTES >= stat.size_bytes:
            return b""
        owner = self._owner(stat, number)
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
            self._neighbours_at = now  # others go on with what is known
        try:
            found = {each.host: each for each in self._find_neighbours() if each.addresses and each.host != self._host}
        except CkptdError as error:
            _log.info("which agents there are is not known: %s", error)
            found = {}
        with self._lock:
            self._neighbours = found
            return found

    def _far(self, stat: ObjectStat, number: int) -> bytes:
        while (owner := self._owner(stat, number)) is not None:
            try:
                data = self._ask(owner, stat, number)
            except CkptdError as error:
                with self._lock:
                    is_new = self._silent_until.get(owner.host, 0.0) <= self._now()
                    self._silent_until[owner.host] = self._now() + _PASSED_BY_S
                if is_new:
                    _log.warning("the agent on %s is passed by for %.0f s: %s", owner.host, _PASSED_BY_S, error)
                continue
            self._others.read(owner.host, len(data))
            return data
        return self.own_block(stat, number)

    def _ask(self, owner: Neighbour, stat: ObjectStat, number: int) -> bytes:
        stubs = self._others.to(owner.host, owner.addresses)
        begin = number * BLOCK_BYTES
        size = min(BLOCK_BYTES, stat.size_bytes - begin)
        request = read_pb2.ReadRequest(peer=self._peer, key=stat.key, offset=begin, size=size, for_agent=True)
        data = bytearray()
        call = stubs.read.Read(request, timeout=_BLOCK_S)
        silence = _Silence(call.cancel)
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


class _Silence:
    """Calls something once nothing was heard for `SILENT_S`."""

    def __init__(self, then: Callable[[], object]) -> None:
        self._then = then
        self._timer: threading.Timer | None = None
        self.is_over()

    def is_over(self) -> None:
        """Hear something."""
        self.end()
        self._timer = threading.Timer(SILENT_S, self._then)
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """Wait no more."""
        if self._timer is not None:
            self._timer.cancel()


class _Wait:
    def __init__(self, waits: _Waits, key: str, what: str, size_bytes: int) -> None:
        self._waits, self.key, self.what, self.size_bytes = waits, key, what, size_bytes
        self.since = 0.0

    def __enter__(self) -> None:
        self._waits.begin(self)

    def __exit__(self, *_: object) -> None:
        self._waits.end(self)


class _Waits:
    """What reads wait for: a line every half a minute while any of them has waited that long."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._waits: set[_Wait] = set()
        self._told_at = 0.0
        self._arrived = 0

    def of(self, key: str, what: str, size_bytes: int) -> _Wait:
        """Return a context in which bytes of an object are waited for."""
        return _Wait(self, key, what, size_bytes)

    def begin(self, wait: _Wait) -> None:
        with self._lock:
            wait.since = self._now()
            if not self._waits:
                self._told_at, self._arrived = wait.since, 0
            self._waits.add(wait)

    def end(self, wait: _Wait) -> None:
        with self._lock:
            self._waits.discard(wait)
            self._arrived += wait.size_bytes

    def tell(self) -> None:
        with self._lock:
            now = self._now()
            if not self._waits or now - self._told_at < NOTICE_S:
                return
            rate, left = self._arrived / (now - self._told_at), sum(each.size_bytes for each in self._waits)
            oldest = min(self._waits, key=lambda each: each.since)
            self._told_at, self._arrived = now, 0
            waited_s = now - oldest.since
        _log.warning(
            "reading %s waits for %s, for %.0f s now; %s are requested, and %s a second arrived lately",
            oldest.key,
            oldest.what,
            waited_s,
            describe_bytes(left),
            describe_bytes(int(rate)),
        )
