"""Threads for the engine's blocking calls: few, and apart for control and for data.

Bulk writes keep every data thread busy for as long as the disk likes; a declaration, a health check or an abort must
not queue behind them. Nor must one run's calls behind another's whose store hangs: each run has a share of the threads.
And what is answered from memory has threads of its own, so that it is answered whatever the store does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

from ckptd.engine.priority import Priority
from ckptd.engine.refusals import NotNowError
from ckptd.engine.saves.shares import Shares

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("ckptd.service")

MOST_WAITING = 8192
"""Control calls about one run that may wait for others of it. One whose caller is gone goes on waiting."""

_LOOK_THREADS = 4
_SHARES = 4  # runs that may each keep their whole share busy before one has to wait for another


class Pools:
    """A pool for control calls and one for bulk data."""

    def __init__(self, *, control_threads: int, data_threads: int, priority: Priority) -> None:
        """Start no thread yet. `priority` is of the threads for data."""
        self._look = ThreadPoolExecutor(_LOOK_THREADS, thread_name_prefix="ckptd-look")
        self._control = ThreadPoolExecutor(_SHARES * control_threads, thread_name_prefix="ckptd-control")
        self._data = ThreadPoolExecutor(
            _SHARES * data_threads, thread_name_prefix="ckptd-data", initializer=priority.apply
        )
        self._control_shares = Shares(self._control.submit, max(1, control_threads // 2))
        self._data_shares = Shares(self._data.submit, data_threads)

    async def look(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call that is answered from memory: it never waits for the store."""
        return await settled(self._started(self._look, call, *args, **kwargs))

    async def control(self, run: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call about `run` that is short; a waiting caller may give up, the call itself is not interrupted."""
        return await settled(self.submit(run, call, *args, **kwargs))

    async def data(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call that moves bytes."""
        return await settled(self._data.submit(call, *args, **kwargs))

    def begin(self, run: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Begin a call that moves bytes of `run`, to be awaited later; its caller may cancel it."""
        return _waiting(_shared(self._data_shares, run, partial(call, *args, **kwargs)))

    def dispatch(self, run: str, work: Callable[[], None]) -> None:
        """Run work that moves bytes of `run`; it sees to its own errors. What comes when the daemon ends is dropped."""
        with suppress(RuntimeError):
            self._data_shares.submit(run, work)

    def submit(self, run: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a control call about `run` whose outcome the caller sees to, even if that is cancelled meanwhile.

        Raises:
            NotNowError: so many calls about it wait that this one would only take memory.
        """
        if self.num_waiting(run) >= MOST_WAITING:
            raise NotNowError(f"the daemon is busy: {MOST_WAITING} calls about run {run!r} wait")
        return _shared(self._control_shares, run, partial(call, *args, **kwargs))

    def start(self, run: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a control call about `run` that no caller waits for; its failure is logged."""
        started = _shared(self._control_shares, run, partial(call, *args, **kwargs))
        started.add_done_callback(_log_failure)
        return started

    def num_waiting(self, run: str) -> int:
        """Say how many control calls about `run` wait for others of it to end."""
        return self._control_shares.num_waiting(run)

    def start_look(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a call beside all runs' own; at most one at a time may be one that waits for the store."""
        return self._started(self._look, call, *args, **kwargs)

    @staticmethod
    def _started(pool: ThreadPoolExecutor, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        try:
            return pool.submit(call, *args, **kwargs)
        except RuntimeError:  # The pool is closed: the daemon ends, and this call would come too late.
            return _too_late()

    def close(self) -> None:
        """Take no more calls. Those that run are not waited for: the daemon is about to end."""
        self._look.shutdown(wait=False, cancel_futures=True)
        self._control.shutdown(wait=False, cancel_futures=True)
        self._data.shutdown(wait=False, cancel_futures=True)


def _shared(shares: Shares, run: str, call: Callable[[], T]) -> Future[T]:
    answer: Future[T] = Future()

    def work() -> None:
        if not answer.set_running_or_notify_cancel():
            return
        try:
            result = call()
        except BaseException as error:  # it is the caller's
            answer.set_exception(error)
        else:
            answer.set_result(result)

    try:
        shares.submit(run, work)
    except RuntimeError:
        return _too_late()
    return answer


def _too_late() -> Future[Any]:
    late: Future[Any] = Future()
    late.cancel()
    return late


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
    # A caller that gave up leaves the outcome unread; asyncio would complain about its exception.
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
    return waiting


def _log_failure(done: Future[T]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        _log.info("a call failed whose result was not awaited: %s", error)
