"""A watch under way, for ``for`` and for ``async for``: what `Checkpointer.watch` and `follow` return."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import TracebackType
from typing import Protocol

from ckptd.client import dropping
from ckptd.engine.checkpoint import Checkpoint

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self


class Source(Protocol):
    """Where news of checkpoints comes from. `close` may come from any thread, the rest belongs to one."""

    def next(self, timeout_s: float | None = None) -> Checkpoint | None:
        """Wait for a checkpoint newer than the last, the newest there is. None after `timeout_s`, and once closed."""

    def close(self) -> None:
        """End a wait under way and every later one. Harmless when repeated."""


class OpenSources:
    """The sources of one transport's watches, which end when it is closed. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sources: set[Source] = set()
        self._is_closed = False

    @property
    def now(self) -> tuple[Source, ...]:
        """Those that are open now."""
        with self._lock:
            return tuple(self._sources)

    @contextmanager
    def watching(self, source: Source) -> Iterator[Source]:
        """Have `source` open within this block, closed already if `close` came first."""
        with self._lock:
            self._sources.add(source)
            is_closed = self._is_closed
        try:
            if is_closed:
                source.close()
            yield source
        finally:
            source.close()
            with self._lock:
                self._sources.discard(source)

    def close(self) -> None:
        """Close all, and each that comes later."""
        with self._lock:
            self._is_closed = True
        for source in self.now:
            source.close()


class Watch:
    """The newest checkpoint, then each newer one: an iterator, and an asynchronous one. One task or thread iterates.

    ::

        for checkpoint in ckpt.watch(): ...
        async for checkpoint in ckpt.watch(): ...

    Nothing is opened before the first item is wanted. `close` ends it, from any thread, also while it is waited for;
    so does the end of a ``with`` block, and `Checkpointer.close`.
    """

    def __init__(self, watching: AbstractContextManager[Source], timeout_s: float | None) -> None:
        """`watching` gives the source, once, and frees it; the watch ends when nothing comes for `timeout_s`."""
        self._watching = watching
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._source: Source | None = None
        self._is_over = False
        self._fetched: Future[Checkpoint | None] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Checkpoint:
        checkpoint = self._next()
        if checkpoint is None:
            raise StopIteration
        return checkpoint

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Checkpoint:
        import asyncio  # a program that does not use it does not wait for it either

        # A thread of its own, as the loop's own pool would wait at the program's end for a watch without an end.
        # A task that is cancelled leaves it waiting: what comes then is what the next call returns.
        fetched = self._fetched
        if fetched is None:
            fetched = self._fetched = Future()
            fetched.set_running_or_notify_cancel()
            threading.Thread(target=self._fetch, args=(fetched,), name="ckptd-watch-async", daemon=True).start()
        try:
            checkpoint = await asyncio.shield(asyncio.wrap_future(fetched))
        finally:
            if fetched.done():
                self._fetched = None
        if checkpoint is None:
            raise StopAsyncIteration
        return checkpoint

    def close(self) -> None:
        """End the watch and free everything. May be repeated."""
        with self._lock:
            is_open, self._is_over = self._source is not None and not self._is_over, True
        if is_open:
            self._watching.__exit__(None, None, None)

    async def aclose(self) -> None:
        """Do as `close` does, beside the event loop."""
        import asyncio

        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # The collector may come while this thread holds a lock that closing needs. Nothing else refers to this now.
        if getattr(self, "_source", None) is not None and not self._is_over:
            dropping.soon(partial(self._watching.__exit__, None, None, None))

    def _next(self) -> Checkpoint | None:
        """Wait for the next one; None at the end."""
        with self._lock:
            if self._is_over:
                return None
            if self._source is None:
                dropping.begin()
                self._source = self._watching.__enter__()
            source = self._source
        try:
            checkpoint = source.next(self._timeout_s)
        except BaseException:
            self.close()
            raise
        if checkpoint is None:
            self.close()
        return checkpoint

    def _fetch(self, into: Future[Checkpoint | None]) -> None:
        try:
            into.set_result(self._next())
        except BaseException as error:  # it has to reach the task that waits
            into.set_exception(error)
