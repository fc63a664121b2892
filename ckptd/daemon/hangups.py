"""What SIGHUP requests: files that were replaced are read, or written, anew. A storm of signals is answered rarely."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ckptd.service.refusal_log import LineBudget

AT_ONCE = 5
"""So many are answered at once, and then one a second, which stands for all that came before it."""


class Hangups:
    """Belongs to one event loop."""

    def __init__(self, reopen: Callable[[], None], look_now: Callable[[], None]) -> None:
        """`reopen` may block; `look_now` must not."""
        self._reopen, self._look_now = reopen, look_now
        self._came = asyncio.Event()

    def came(self) -> None:
        """Note a signal."""
        self._came.set()

    async def run(self) -> None:
        """Answer them until cancelled."""
        budget = LineBudget(AT_ONCE, time.monotonic())
        while True:
            await self._came.wait()
            while not budget.take(time.monotonic(), AT_ONCE, 1.0):
                await asyncio.sleep(0.2)
            self._came.clear()
            self._look_now()
            await asyncio.to_thread(self._reopen)
