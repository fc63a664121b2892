"""The way of a lane's chunks from the event loop to the threads that write them.

Passing on one chunk and waiting until it is written would wake two threads for every megabyte, and the disk would idle
while gRPC puts the next message together. So there is a short queue: the loop appends, one thread of the pool at a time
takes from it as long as there is something in it, and neither wakes the other unless it waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Protocol

from ckptd.engine.refusals import NotNowError
from ckptd.errors import InvalidRequestError
from ckptd.service.calls import Call
from ckptd.service.flow import Budgets
from ckptd.service.meter import Blocked
from ckptd.service.pools import Pools
from ckptd.wire.chunks import Chunk

MAX_WAITING = 4
"""Chunks of one lane that may wait to be written; then no more is read until half of them are."""

_STORE_PATIENCE_S = 120.0  # then the stream and its memory are others'; its save ends by its own deadline
_CHUNKS_PER_TURN = 16  # then other lanes have the thread


class LaneSink(Protocol):
    """What an engine's `LaneWriter` offers here."""

    size_bytes: int

    def write(self, position: int, data: memoryview, crc: int) -> int:
        """Take bytes of the lane."""


class Intake:
    """Takes the chunks of one call, in order; a context, whose end drops what has not been written by then.

    Its methods belong to the event loop. A chunk that can't be written ends the call with the reason.
    """

    def __init__(self, lane: LaneSink, run: str, pools: Pools, flow: Budgets, call: Call) -> None:
        self._lane = lane
        self._save_run = run
        self._pools = pools
        self._bytes = flow.chunk_bytes
        self._bytes_of_runs = flow.bytes_of_runs
        self._patience_s = flow.limits.stall_s
        self._call, self._meter = call, flow.meter
        self._loop = asyncio.get_running_loop()
        self._guard = threading.Lock()
        self._queue: deque[Chunk] = deque()  # the first is the one being written
        self._is_running = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._enough = 0  # the waiter continues when at most this many are left

    async def __aenter__(self) -> Intake:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guard:
            dropped = self._drop(keep=1 if self._is_running else 0)
        self._release_chunks(dropped)

    @property
    def is_empty(self) -> bool:
        """Whether all that came is written."""
        return not self._queue

    async def put(self, chunk: Chunk) -> None:
        """Take one chunk; return when there is room for the next."""
        size = len(chunk.data)
        if chunk.position + size > self._lane.size_bytes:
            raise InvalidRequestError(
                "a chunk reaches beyond the end of its lane",
                offset=chunk.position,
                expected=f"{self._lane.size_bytes} bytes",
                actual=f"{size} more",
            )
        await self._bytes_of_runs.acquire(self._save_run, size, patience_s=self._patience_s)
        try:
            await self._bytes.acquire(self._call.shares, size, patience_s=self._patience_s)
        except BaseException:
            self._bytes_of_runs.release(self._save_run, size)
            raise
        with self._guard:
            if self._error is None:
                self._queue.append(chunk)
                begins, self._is_running = not self._is_running, True
            waiting = len(self._queue)
        if self._error is not None:
            self._release(size)
            raise self._error
        if begins:
            self._pools.dispatch(self._save_run, self._run)
        if waiting >= MAX_WAITING:
            await self._wait(MAX_WAITING // 2)

    async def drained(self) -> None:
        """Return when everything is written; raise what kept it from being written."""
        await self._wait(0)
        if self._error is not None:
            raise self._error

    async def _wait(self, enough: int) -> None:
        with self._guard:
            if len(self._queue) <= enough:
                return
            self._waiter, self._enough = self._loop.create_future(), enough
        began_at = self._loop.time()
        await asyncio.wait({self._waiter}, timeout=_STORE_PATIENCE_S)
        self._meter.blocked(Blocked.DISK, self._loop.time() - began_at)
        if not self._waiter_is_told():
            raise NotNowError(
                f"the stream was ended because the store took nothing for {_STORE_PATIENCE_S:g} s; it may be resumed"
            )

    def _waiter_is_told(self) -> bool:
        with self._guard:
            waiter, self._waiter = self._waiter, None
        return waiter is None or waiter.done()

    def _run(self) -> None:
        """Write what waits, for a while. On a thread of the pool."""
        for _ in range(_CHUNKS_PER_TURN):
            with self._guard:
                if not self._queue:
                    self._is_running = False
                    return
                chunk = self._queue[0]
            error: Exception | None = None
            try:
                self._lane.write(chunk.position, memoryview(chunk.data), chunk.crc32c)
            except Exception as e:  # raised again by the call's task
                error = e
            self._written(chunk, error)
        self._pools.dispatch(self._save_run, self._run)

    def _written(self, chunk: Chunk, error: Exception | None) -> None:
        dropped: list[Chunk] = []
        with self._guard:
            # A client that left meanwhile has dropped everything but this one.
            self._queue.popleft()
            if error is not None:
                dropped, self._error = self._drop(keep=0), error
            waiter = None
            if self._waiter is not None and len(self._queue) <= self._enough:
                waiter, self._waiter = self._waiter, None
        self._release_chunks([chunk, *dropped])
        with suppress(RuntimeError):  # the loop is closed: the daemon has ended
            if waiter is not None:
                self._loop.call_soon_threadsafe(_wake, waiter)
            if error is not None:
                self._loop.call_soon_threadsafe(self._call.end, error)

    def _drop(self, *, keep: int) -> list[Chunk]:
        return [self._queue.pop() for _ in range(len(self._queue) - keep)]

    def _release_chunks(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            self._release(len(chunk.data))

    def _release(self, size: int) -> None:
        self._bytes.release(self._call.shares, size)
        self._bytes_of_runs.release(self._save_run, size)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
