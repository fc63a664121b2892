"""What all pages share: templates, assets, the visitor's rights, errors, and the threads that fill pages.

A page is a template over `base.html` and a function that returns its values. That function may block: it runs in a
bounded pool, of which a few requests may wait for a turn::

    async def page(request):
        return await shell.page(request, "checkpoint.html", lambda visitor: {"checkpoint": ...})

Templates escape everything (`autoescape`), and write text of others through the filter ``name``, which shows invisible
characters. The policy of pages (`POLICY`) allows no inline script or style, so widths are attributes of `<progress>`
or of SVG, and scripts are modules of ``static/``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from ckptd.access.visits import Visitor
from ckptd.errors import (
    CkptdError,
    ConflictError,
    CorruptionError,
    InvalidRequestError,
    NotFoundError,
    NotPermittedError,
    UnavailableError,
)
from ckptd.printable import printable
from ckptd.web import wording
from ckptd.web.assets import Assets
from ckptd.web.source import PageSource
from ckptd.wire import versions

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of every answer."""

MOST_WAITING = 64
"""Pages that may wait for a thread."""

_STATUS = (
    (NotFoundError, 404),
    (NotPermittedError, 403),
    (InvalidRequestError, 400),
    (ConflictError, 409),
    (CorruptionError, 422),
)
_NOT_NOW = 503

T = TypeVar("T")


class Shell:
    """See the module. `page` and `in_pool` belong to the event loop of the listener."""

    def __init__(self, source: PageSource, *, num_threads: int = 2) -> None:
        """Show `source`."""
        self.source, self.assets = source, Assets()
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="ckptd-pages")
        self._num_waiting = 0
        self._templates = templates(self.assets, is_live=source.is_live)

    def render(self, template: str, **values: object) -> str:
        """Return a template's text. Any thread may call."""
        return self._templates.get_template(template).render(**values)

    async def in_pool(self, work: Callable[[], T], threads: ThreadPoolExecutor | None = None) -> T:
        """Do what may block; what may take seconds has `threads` of its own.

        Raises:
            UnavailableError: too many pages wait already.
        """
        if self._num_waiting >= MOST_WAITING:
            raise UnavailableError(f"{MOST_WAITING} pages wait already; try again")
        self._num_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(threads or self._threads, work)
        finally:
            self._num_waiting -= 1

    async def page(
        self,
        request: Request,
        template: str,
        fill: Callable[[Visitor], Mapping[str, object]],
        threads: ThreadPoolExecutor | None = None,
        **headers: str,
    ) -> Response:
        """Answer with a page; `fill` returns its values, or raises why there is none.

        Every page has besides: ``about`` (`About`), ``names`` (of the runs that the visitor may read).
        """
        visitor: Visitor = request.state.visitor

        def filled() -> str:
            shared = self.shared(visitor)
            return self.render(template, **{"run": None, **shared, **fill(visitor)})

        try:
            return HTMLResponse(await self.in_pool(filled, threads), headers=headers)
        except CkptdError as error:
            return self.refusal(error)

    async def document(
        self, request: Request, fill: Callable[[Visitor], object], threads: ThreadPoolExecutor | None = None
    ) -> Response:
        """Answer with a JSON document; `fill` returns it, of dataclasses and plain values, or raises why there is none.

        What JSON lacks (NaN, infinities) is null, what is no text has escapes. An error is ``{"error": ...}``.
        """
        visitor: Visitor = request.state.visitor
        try:
            text = await self.in_pool(lambda: wording.document(fill(visitor)), threads)
        except CkptdError as error:
            return Response(wording.document({"error": str(error)}), status_of(error), media_type="application/json")
        return Response(text, media_type="application/json")

    def shared(self, visitor: Visitor) -> dict[str, object]:
        """Return the values that every page has. Blocks."""
        names = [each for each in self.source.names() if visitor.may_read(each)]
        return {"about": self.source.about(sees_all=visitor.sees_all), "names": names}

    def refusal(self, error: CkptdError) -> Response:
        """Answer with what went wrong."""
        return self.told(status_of(error), str(error))

    def told(self, status: int, text: str, **headers: str) -> Response:
        """Answer with a page that says one thing."""
        said = self.render("told.html", status=status, text=text, about=None, names=[], run=None)
        return HTMLResponse(said, status, headers)

    def readable(self, visitor: Visitor, run: str) -> str:
        """Return a run's name, if the visitor may read it; a run that it may not read is one that is not there.

        Raises:
            NotFoundError: it may not, or there cannot be such a run.
        """
        if not visitor.may_read(run):
            raise NotFoundError(f"there is no run {printable(run, limit=200)!r}, or you may not read it")
        return run

    def close(self) -> None:
        """Fill no more pages."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def status_of(error: CkptdError) -> int:
    """Return the status of HTTP for an error."""
    return next((each for kind, each in _STATUS if isinstance(error, kind)), _NOT_NOW)


def templates(assets: Assets, *, is_live: bool) -> Environment:
    """Return the templates, with the filters of `wording`."""
    found = Environment(
        loader=PackageLoader("ckptd.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(wording.FILTERS)
    shared: dict[str, Any] = {
        **wording.GLOBALS,
        "asset": assets.url,
        "is_live": is_live,
        "version": versions.VERSION,
    }
    found.globals.update(shared)
    return found
