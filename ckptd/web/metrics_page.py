"""`/metrics`: rendered in a thread of its own, one scrape at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ckptd.access.visits import Visitor

MOST_WAITING = 16
"""Scrapes that may wait for those before them."""

Render = Callable[..., tuple[bytes, str]]
"""Returns text and type: ``render(accept, may_read, sees_all=...)``."""


class MetricsPage:
    """Answers scrapes. Belongs to the event loop of the listener."""

    def __init__(self, render: Render) -> None:
        """Start no thread yet."""
        self._render = render
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ckptd-metrics")
        self._num_waiting = 0

    async def answer(self, request: Request) -> Response:
        """Answer one."""
        if self._num_waiting >= MOST_WAITING:
            return PlainTextResponse(f"{MOST_WAITING} scrapes wait\n", 503, {"Retry-After": "1"})
        visitor: Visitor = request.state.visitor
        accept = request.headers.get("accept", "")
        self._num_waiting += 1
        try:
            text, content_type = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._text, accept, visitor
            )
        finally:
            self._num_waiting -= 1
        return Response(text, headers={"Content-Type": content_type})

    def _text(self, accept: str, visitor: Visitor) -> tuple[bytes, str]:
        return self._render(accept, visitor.may_read, sees_all=visitor.sees_all)

    def close(self) -> None:
        """Take no more scrapes."""
        self._thread.shutdown(wait=False, cancel_futures=True)
