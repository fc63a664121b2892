"""How much the daemon holds for its peers at once, so that its memory does not grow with what they send.

Each Write stream hands a few chunks to the bounded pool (`intake`) and reads the next when one of them is written;
meanwhile gRPC's window fills and the sender waits. What is left to bound is how many streams may be in that state
(`write_streams`), how many bytes wait for the pool (`chunk_bytes`) and how many manifests are being put together
(`manifests`): in all, and for each peer, so that one cannot take what others need.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from ckptd.engine.refusals import NotNowError


@dataclass(slots=True, eq=False)
class _Waiting:
    peer: str
    amount: int
    loop: asyncio.AbstractEventLoop
    told: asyncio.Future[None]
    has_it: bool = False


class Budget:
    """An amount to share: `total` of it, and at most `per_peer` for each peer.

    It is waited for on an event loop, and given back from any thread. Requests that fit are served in their order;
    one that waits for its own peer's share holds up nothing else.
    """

    def __init__(self, what: str, total: int, per_peer: int) -> None:
        self._what = what
        self._total = total
        self._per_peer = min(per_peer, total)
        self._guard = threading.Lock()
        self._held = 0
        self._held_by: dict[str, int] = {}
        self._waiting: deque[_Waiting] = deque()

    @property
    def held(self) -> int:
        """How much is in use."""
        return self._held

    @asynccontextmanager
    async def hold(self, peer: str, amount: int, *, patience_s: float) -> AsyncIterator[None]:
        """Hold `amount` for the block; `NotNowError` if it is not free within `patience_s`.

        An amount above the limits is cut to them: it then has the budget for itself.
        """
        await self.acquire(peer, amount, patience_s=patience_s)
        try:
            yield
        finally:
            self.release(peer, amount)

    async def acquire(self, peer: str, amount: int, *, patience_s: float) -> None:
        """Take `amount`, as `hold` does; the caller sees to it that it is released."""
        amount = min(amount, self._per_peer)
        with self._guard:
            if not any(self._fits(other) for other in self._waiting) and self._has_room(peer, amount):
                self._take(peer, amount)
                return
            loop = asyncio.get_running_loop()
            waiting = _Waiting(peer, amount, loop, loop.create_future())
            self._waiting.append(waiting)
        try:
            await asyncio.wait_for(asyncio.shield(waiting.told), patience_s)
        except BaseException as e:
            with self._guard:
                has_it = waiting.has_it  # another thread may have granted it, and the future is not set yet
                if not has_it:
                    self._waiting.remove(waiting)
            if has_it:
                self.release(peer, amount)
            if isinstance(e, asyncio.TimeoutError):
                raise NotNowError(
                    f"the daemon is busy: no room for more {self._what} within {patience_s:g} s",
                    expected=f"at most {self._total}, {self._per_peer} for one peer",
                ) from e
            raise

    def release(self, peer: str, amount: int) -> None:
        """Give back what `acquire` took, from any thread."""
        amount = min(amount, self._per_peer)
        granted = []
        with self._guard:
            self._held -= amount
            left = self._held_by.get(peer, 0) - amount
            if left:
                self._held_by[peer] = left
            else:
                self._held_by.pop(peer, None)
            for waiting in tuple(self._waiting):
                if self._fits(waiting):
                    self._waiting.remove(waiting)
                    self._take(waiting.peer, waiting.amount)
                    waiting.has_it = True
                    granted.append(waiting)
        for waiting in granted:
            with suppress(RuntimeError):  # the loop is closed: nothing waits there any more
                waiting.loop.call_soon_threadsafe(_tell, waiting.told)

    def _fits(self, waiting: _Waiting) -> bool:
        return self._has_room(waiting.peer, waiting.amount)

    def _has_room(self, peer: str, amount: int) -> bool:
        return self._held + amount <= self._total and self._held_by.get(peer, 0) + amount <= self._per_peer

    def _take(self, peer: str, amount: int) -> None:
        self._held += amount
        self._held_by[peer] = self._held_by.get(peer, 0) + amount


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
    """The budgets of one daemon."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.write_streams = Budget("Write streams", limits.write_streams, limits.write_streams_per_peer)
        self.chunk_bytes = Budget("bytes of chunks", limits.chunk_bytes, limits.chunk_bytes_per_peer)
        self.manifests = Budget("manifests", limits.manifests, limits.manifests)
        # A run whose store hangs keeps what its streams hold: half of everything, and the others have the rest.
        streams = limits.write_streams
        self.streams_of_runs = Budget("Write streams of its run", streams, max(1, streams // 2))
        self.bytes_of_runs = Budget("bytes of chunks of its run", limits.chunk_bytes, limits.chunk_bytes // 2)
        reads = limits.read_streams
        self.reads_of_runs = Budget("Read streams of its run", reads, max(1, reads * 3 // 4))
        self.read_streams = Budget("Read streams", limits.read_streams, limits.read_streams)
