"""The calls that last: they end when their caller no longer has the right to make them.

A call is judged when it begins. One that goes on for hours (a membership, a watcher) is judged again whenever the
files of identities are read again, and when a token expires.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ckptd.errors import NotPermittedError
from ckptd.service.gate import Gate

if TYPE_CHECKING:
    from ckptd.service.calls import Call

_AT_ONCE = 100  # calls that are judged before others have the event loop
_LOOK_EVERY_S = 30.0  # at the wall clock, which may be set


class CallsUnderWay:
    """See the module. Belongs to one event loop, but `look_again`, which any thread may call."""

    def __init__(self, gate: Gate, also: Callable[[], None]) -> None:
        """`also` is called with each look, for what is no call."""
        self._gate, self._also = gate, also
        self._calls: set[Call] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._look: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look at what expires from now on."""
        self._loop = asyncio.get_running_loop()
        self._set_timer()

    def stop(self) -> None:
        """Look no more. May be repeated."""
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
        if self._look is not None:
            self._look.cancel()

    @contextlib.contextmanager
    def noted(self, call: Call) -> Iterator[None]:
        """Keep a call in view while the block runs."""
        self._calls.add(call)
        try:
            yield
        finally:
            self._calls.discard(call)

    def look_again(self) -> None:
        """End what is no longer allowed, soon."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: all calls have ended
                loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if self._loop is None:
            return
        if self._look is not None:
            self._look.cancel()  # it began with what was known before
        self._look = self._loop.create_task(self._end_what_is_not_allowed())

    async def _end_what_is_not_allowed(self) -> None:
        self._also()
        for number, call in enumerate(tuple(self._calls), start=1):
            try:
                call.check_still()
            except NotPermittedError as error:
                call.revoke(error)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        tokens = self._gate.access.tokens
        expiring = [] if tokens is None else [each.expires_at for each in tokens if each.expires_at is not None]
        now = time.time()
        coming = [at for at in expiring if at > now]
        if coming and self._loop is not None:
            self._timer = self._loop.call_later(min(min(coming) - now, _LOOK_EVERY_S), self._begin)
