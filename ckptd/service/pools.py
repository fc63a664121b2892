"""Threads for the engine's blocking calls: few, and apart for control and for data.

Bulk writes keep every data thread busy for as long as the disk likes; a declaration, a health check or an abort must
not queue behind them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import ParamSpec, TypeVar

from ckptd.storage.priority import Priority

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("ckptd.service")


class Pools:
    """A pool for control calls and one for bulk data."""

    def __init__(self, *, control_threads: int, data_threads: int, priority: Priority) -> None:
        """Start no thread yet. `priority` is of the threads for data."""
        self._control = ThreadPoolExecutor(control_threads, thread_name_prefix="ckptd-control")
        self._data = ThreadPoolExecutor(data_threads, thread_name_prefix="ckptd-data", initializer=priority.apply)

    async def control(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call that is short; whoever waits may give up, the call itself is not interrupted."""
        return await settled(self.submit(call, *args, **kwargs))

    async def data(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call that moves bytes."""
        return await settled(self._data.submit(call, *args, **kwargs))

    def begin(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Begin a call that moves bytes, to be awaited later; whoever loses interest may cancel it."""
        return _waiting(self._data.submit(call, *args, **kwargs))

    def hand_over(self, work: Callable[[], None]) -> None:
        """Run work that moves bytes; it sees to its own errors. What comes when the daemon ends is dropped."""
        with suppress(RuntimeError):
            self._data.submit(work)

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a control call whose outcome the caller sees to, even if the caller is cancelled meanwhile."""
        try:
            return self._control.submit(call, *args, **kwargs)
        except RuntimeError:  # The pool is closed: the daemon ends, and this call would come too late.
            late: Future[T] = Future()
            late.cancel()
            return late

    def start(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a control call that nobody needs to wait for; its failure is logged."""
        started = self.submit(call, *args, **kwargs)
        started.add_done_callback(_log_failure)
        return started

    def close(self) -> None:
        """Take no more calls. Those that run are not waited for: the daemon is about to end."""
        self._control.shutdown(wait=False, cancel_futures=True)
        self._data.shutdown(wait=False, cancel_futures=True)


async def settled(future: Future[T]) -> T:
    """Await a future of another thread without owning it.

    The engine's futures are shared: giving up the wait must not cancel the future, as other ranks, or the same one
    after a retry, wait for it too.
    """
    return await asyncio.shield(_waiting(future))


async def settled_within(future: Future[T], timeout_s: float) -> bool:
    """Wait for a shared future at most so long; tell whether it is done."""
    await asyncio.wait({_waiting(future)}, timeout=timeout_s)
    return future.done()


def _waiting(future: Future[T]) -> asyncio.Future[T]:
    waiting = asyncio.wrap_future(future)
    # Somebody who gave up leaves the outcome unread; asyncio would complain about its exception.
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
    return waiting


def _log_failure(done: Future[T]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        _log.info("a call that nobody waited for failed: %s", error)
