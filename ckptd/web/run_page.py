"""The page of one run, and `/`, which is that of the run that matters most now. Its parts are rendered alone, too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from ckptd.access.visits import Visitor
from ckptd.engine.hosts.views import HostsView
from ckptd.engine.saves.views import RunView
from ckptd.errors import InvalidRequestError
from ckptd.web import checkpoint_rows, timeline, wording
from ckptd.web.saves_now import saves_now
from ckptd.web.shell import Shell
from ckptd.web.timeline import FailedSave

PARTS = ("health", "now", "timeline", "charts", "checkpoints")
"""The parts that change, by the names of their templates and of the events that bring them."""


class Recent(Protocol):
    """What has happened lately; see `ckptd.web.recent`."""

    def failed(self, run: str) -> Sequence[FailedSave]:
        """Return the saves of a run that came to nothing, oldest first."""

    def charts(self, run: str) -> Mapping[str, object]:
        """Return what is drawn of a run: columns of numbers."""

    def summary(self, run: str) -> Sequence[Mapping[str, str]]:
        """Return the figures of the last hour: ``{"name": ..., "value": ...}`` each."""

    def rates(self, view: RunView) -> Mapping[str, float]:
        """Return how fast the saves under way come, in bytes per second, by their ids."""

    def events(self, run: str | None, visitor: Visitor) -> Sequence[object]:
        """Return the last events that a visitor may see, newest first."""


class RunPages:
    """See the module.

    Attributes:
        begins_at: returns the id of the last event that a page has when it is loaded; set where there are events.
    """

    def __init__(
        self,
        shell: Shell,
        recent: Recent | None,
        hosts: Callable[[], HostsView | None] = lambda: None,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """`recent` is None where nothing happens; `hosts` describes those whose agents attend."""
        self._shell, self._recent, self._hosts, self._wall_s = shell, recent, hosts, wall_s
        self.begins_at: Callable[[], str] = str

    async def any_run(self, request: Request) -> Response:
        """Answer `/`: with the run that is asked for, or that matters most."""
        wanted = request.query_params.get("run")

        def fill(visitor: Visitor) -> Mapping[str, object]:
            skip = _number(request, "skip")
            run = self._foremost(visitor) if wanted is None else self._shell.readable(visitor, wanted)
            return {"run": None} if run is None else self._filled(run, visitor, skip)

        return await self._shell.page(request, "run.html", fill)

    async def one_run(self, request: Request) -> Response:
        """Answer `/runs/RUN`."""
        run = request.path_params["run"]

        def fill(visitor: Visitor) -> Mapping[str, object]:
            return self._filled(self._shell.readable(visitor, run), visitor, _number(request, "skip"))

        return await self._shell.page(request, "run.html", fill)

    def _foremost(self, visitor: Visitor) -> str | None:
        """Return the run that saves, or else that saved last, or the first; None if there is none."""
        views = [each for each in self._shell.source.runs() if visitor.may_read(each.run)]
        best = max(
            views, key=lambda each: (bool(each.saves), each.latest.saved_at if each.latest else 0.0), default=None
        )
        if best is not None:
            return best.run
        return next((each for each in self._shell.source.names() if visitor.may_read(each)), None)

    def _filled(self, run: str, visitor: Visitor, skip: int) -> Mapping[str, object]:
        begins_at, view = self.begins_at(), self._shell.source.run(run)
        events = () if self._recent is None else self._recent.events(run, visitor)
        return {"run": run, **self.values(view, skip=skip), "events": events, "begins_at": begins_at}

    def values(self, view: RunView, *, skip: int = 0) -> dict[str, object]:
        """Return what the templates of all parts need, but `about`."""
        recent, now = self._recent, self._wall_s()
        rows = checkpoint_rows.rows(view, skip=skip)
        num_checkpoints = len(view.checkpoints) + len(view.damaged)
        behind = skip + checkpoint_rows.MOST_ROWS
        return {
            "run": view.run,
            "view": view,
            "saves": saves_now(view, {} if recent is None else recent.rates(view), self._hosts()),
            "marks": timeline.marks(view, () if recent is None else recent.failed(view.run), now),
            "rows": rows,
            "num_checkpoints": num_checkpoints,
            "total_bytes": sum(each.size_bytes for each in view.checkpoints),
            "next_to_go": checkpoint_rows.next_to_go(view),
            "older": f"{wording.run_url(view.run)}?{urlencode({'skip': behind})}" if behind < num_checkpoints else "",
            "actions": checkpoint_rows.actions(view),
            "charts": {} if recent is None else recent.charts(view.run),
            "summary": () if recent is None else recent.summary(view.run),
        }


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidRequestError(f"{name} is a whole number", actual=text[:40])
    return int(text)
