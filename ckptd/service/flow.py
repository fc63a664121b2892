"""How much the daemon holds for its peers at once, so that its memory does not grow with what they send.

Each Write stream hands a few chunks to the bounded pool (`intake`) and reads the next when one of them is written;
meanwhile gRPC's window fills and the sender waits. What is left to bound is how many streams may be in that state
(`write_streams`), how many bytes wait for the pool (`chunk_bytes`) and how many manifests are being put together
(`manifests`): in all, for each identity, and for each peer of it, so that one cannot take what others need. A stream
that moves nothing while others wait for its place has to give it up.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from ckptd.engine.refusals import NotNowError
from ckptd.service.meter import NO_METER, Blocked, ServiceMeter

IDLE_S = 0.5
"""How long a stream may move nothing while others wait for its place. Without a crowd its own time limit holds."""

_LOOK_EVERY_S = 0.1

Keys = str | tuple[str, ...]
"""On whose account an amount is taken: one key for each kind of share that a budget has."""


class Holder(Protocol):
    """A call that holds a part of a budget while it waits for its peer. On the event loop only.

    Attributes:
        shares: on whose account it does, narrowest first.
    """

    shares: tuple[str, ...]

    @property
    def idle_s(self) -> float:
        """How long the call has waited for its peer by now."""

    def end(self, error: Exception) -> None:
        """Let the call end with `error`."""


@dataclass(slots=True, eq=False)
class _Waiting:
    keys: tuple[str, ...]
    amount: int
    loop: asyncio.AbstractEventLoop
    told: asyncio.Future[None]
    has_it: bool = False


@dataclass(slots=True)
class _Share:
    most: int
    held_by: dict[str, int] = field(default_factory=dict)

    def has_room(self, key: str, amount: int) -> bool:
        return self.held_by.get(key, 0) + amount <= self.most

    def add(self, key: str, amount: int) -> None:
        left = self.held_by.get(key, 0) + amount
        if left:
            self.held_by[key] = left
        else:
            self.held_by.pop(key, None)


class Budget:
    """An amount to share: `total` of it, and of each kind of share at most so much for each key, narrowest first.

    It is waited for on an event loop, and given back from any thread. Requests that fit are served in their order;
    one that waits for its own share holds up nothing else.
    """

    def __init__(self, what: str, total: int, *shares: int, meter: ServiceMeter = NO_METER) -> None:
        self._what, self._meter = what, meter
        self._total = total
        self._shares = [_Share(min(most, total)) for most in shares]
        self._most = min((share.most for share in self._shares), default=total)
        self._guard = threading.Lock()
        self._held = 0
        self._waiting: deque[_Waiting] = deque()
        self._holders: dict[Holder, tuple[str, ...]] = {}

    @property
    def held(self) -> int:
        """How much is in use."""
        return self._held

    @asynccontextmanager
    async def hold(
        self, keys: Keys, amount: int, *, patience_s: float, holder: Holder | None = None
    ) -> AsyncIterator[None]:
        """Hold `amount` for the block; `NotNowError` if it is not free within `patience_s`.

        An amount above the limits is cut to them: it then has the budget for itself. A `holder` is ended when others
        wait for its part, and its peer moves nothing.
        """
        await self.acquire(keys, amount, patience_s=patience_s)
        if holder is not None:
            self._holders[holder] = _each(keys)
        try:
            yield
        finally:
            if holder is not None:
                self._holders.pop(holder, None)
            self.release(keys, amount)

    async def acquire(self, keys: Keys, amount: int, *, patience_s: float) -> None:
        """Take `amount`, as `hold` does; the caller sees to it that it is released."""
        keys, amount = _each(keys), min(amount, self._most)
        with self._guard:
            if not any(self._fits(other) for other in self._waiting) and self._has_room(keys, amount):
                self._take(keys, amount)
                return
            loop = asyncio.get_running_loop()
            waiting = _Waiting(keys, amount, loop, loop.create_future())
            self._waiting.append(waiting)
        try:
            await self._granted(waiting, patience_s)
        except BaseException as e:
            with self._guard:
                has_it = waiting.has_it  # another thread may have granted it, and the future is not set yet
                if not has_it:
                    self._waiting.remove(waiting)
            if has_it:
                self.release(keys, amount)
            if isinstance(e, asyncio.TimeoutError):
                raise self._refusal(keys, patience_s) from e
            raise

    async def _granted(self, waiting: _Waiting, patience_s: float) -> None:
        """Wait until `waiting` has its part, and have idle streams give theirs up; `TimeoutError` when none is free."""
        began_at = waiting.loop.time()
        try:
            await self._told(waiting, began_at + patience_s)
        finally:
            self._meter.blocked(Blocked.MEMORY, waiting.loop.time() - began_at)

    async def _told(self, waiting: _Waiting, until: float) -> None:
        while (left_s := until - waiting.loop.time()) > 0:
            done, _ = await asyncio.wait({waiting.told}, timeout=min(left_s, _LOOK_EVERY_S))
            if done:
                return
            self._end_the_idlest(waiting)
        raise asyncio.TimeoutError

    def _end_the_idlest(self, waiting: _Waiting) -> None:
        """End one stream whose place would help: of a key whose share is full, or of any if all of it is in use."""
        full = [
            at
            for at, (share, key) in enumerate(zip(self._shares, waiting.keys, strict=True))
            if not share.has_room(key, waiting.amount)
        ]
        idle = [
            (holder.idle_s, at)
            for at, (holder, keys) in enumerate(self._holders.items())
            if all(keys[level] == waiting.keys[level] for level in full)
        ]
        idle_s, at = max(idle, default=(0.0, 0))
        if idle_s < IDLE_S:
            return
        holder = list(self._holders)[at]
        del self._holders[holder]
        holder.end(
            NotNowError(
                f"the stream was ended because {holder.shares[0]} moved nothing for {idle_s:.1f} s while others waited "
                f"for its place among the {self._what}; it may be resumed"
            )
        )

    def _refusal(self, keys: tuple[str, ...], patience_s: float) -> NotNowError:
        own = ", ".join(
            f"{share.most} for {key}, which holds {share.held_by.get(key, 0)}"
            for share, key in zip(self._shares, keys, strict=True)
        )
        return NotNowError(
            f"the daemon is busy: no room for more {self._what} within {patience_s:g} s",
            expected=", ".join(filter(None, (f"at most {self._total}", own))),
        )

    def release(self, keys: Keys, amount: int) -> None:
        """Give back what `acquire` took, from any thread."""
        keys, amount = _each(keys), min(amount, self._most)
        granted = []
        with self._guard:
            self._take(keys, -amount)
            for waiting in tuple(self._waiting):
                if self._fits(waiting):
                    self._waiting.remove(waiting)
                    self._take(waiting.keys, waiting.amount)
                    waiting.has_it = True
                    granted.append(waiting)
        for waiting in granted:
            with suppress(RuntimeError):  # the loop is closed: nothing waits there any more
                waiting.loop.call_soon_threadsafe(_tell, waiting.told)

    def _fits(self, waiting: _Waiting) -> bool:
        return self._has_room(waiting.keys, waiting.amount)

    def _has_room(self, keys: tuple[str, ...], amount: int) -> bool:
        return self._held + amount <= self._total and all(
            share.has_room(key, amount) for share, key in zip(self._shares, keys, strict=True)
        )

    def _take(self, keys: tuple[str, ...], amount: int) -> None:
        self._held += amount
        for share, key in zip(self._shares, keys, strict=True):
            share.add(key, amount)


def _each(keys: Keys) -> tuple[str, ...]:
    return (keys,) if isinstance(keys, str) else keys


def _tell(told: asyncio.Future[None]) -> None:
    if not told.done():
        told.set_result(None)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the daemon holds at once. Bytes unless it says otherwise; times in seconds."""

    write_streams: int = 128
    write_streams_per_peer: int = 96
    chunk_bytes: int = 64 << 20
    chunk_bytes_per_peer: int = 48 << 20
    manifests: int = 4
    manifest_bytes: int = 64 << 20
    read_streams: int = 64
    stall_s: float = 30.0  # a stream that moves nothing for this long is ended
    notice_s: float = 30.0  # how often a waiting thread logs what it waits for
    control_s: float = 60.0  # an ordinary call that takes longer is answered "busy"


class Budgets:
    """The budgets of one daemon. Those of calls are shared by peer and by identity, see `Call.shares`."""

    def __init__(self, limits: Limits, meter: ServiceMeter = NO_METER) -> None:
        """`meter` is told how long streams of saves wait."""
        self.limits, self.meter = limits, meter
        streams, size, reads = limits.write_streams, limits.chunk_bytes, limits.read_streams
        per_peer, own = limits.write_streams_per_peer, _for_one(streams)
        self.write_streams = Budget("Write streams", streams, per_peer, own, meter=meter)
        self.chunk_bytes = Budget("bytes of chunks", size, limits.chunk_bytes_per_peer, _for_one(size), meter=meter)
        self.manifests = Budget("manifests", limits.manifests, _for_one(limits.manifests), _for_one(limits.manifests))
        self.read_streams = Budget("Read streams", reads, _for_one(reads), _for_one(reads))
        # A run whose store hangs keeps what its streams hold: half of everything, and the others have the rest.
        self.streams_of_runs = Budget("Write streams of its run", streams, max(1, streams // 2), meter=meter)
        self.bytes_of_runs = Budget("bytes of chunks of its run", size, size // 2, meter=meter)
        self.reads_of_runs = Budget("Read streams of its run", reads, max(1, reads * 3 // 4))


def _for_one(total: int) -> int:
    """Return what one identity may have, from however many hosts: an eighth is left to the others."""
    return max(1, total - math.ceil(total / 8))
