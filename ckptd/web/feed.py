"""`/events`: what changes on the page of a run, as server-sent events; one stream a tab.

A part of the page that has changed comes whole, rendered once for all who look at that run, at most four times a
second, and so seldom that it takes at most a fiftieth of a core. Nobody looks: nothing is done. A beat a second tells a
page that it is up to date; a stream ends with a closing event, so that the daemon's end waits for none.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from ckptd.access.visits import Visitor
from ckptd.engine.saves.views import RunView
from ckptd.errors import CkptdError
from ckptd.web.connection import CONTINUES
from ckptd.web.recent import RecentPast
from ckptd.web.run_page import PARTS, RunPages
from ckptd.web.shell import Shell

MOST_STREAMS = 128
"""Of all visitors together."""

EVERY_S = 0.25
_SHARE = 50.0  # so many times as long as an update took, there is no other
_BEAT_S = 1.0
_ADMIT_S = 0.5  # between two looks at whether a visitor may still be here
_AGAIN_MS = 1000
_TOO_MANY = 503

LookAgain = Callable[[Request], Awaitable[Visitor]]
"""Returns the visitor behind a request, as it is let in now; raises why it is not any more."""


@dataclass(frozen=True, slots=True)
class _Part:
    number: int
    text: str


class _Topic:
    """One run as one kind of visitor sees it: its parts, as they were rendered last, and who waits for the next."""

    def __init__(self) -> None:
        self.parts: dict[str, _Part] = {}
        self.seen: object = None
        self.num_viewers = 0
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.error = ""


class Feed:
    """See the module. Belongs to the event loop of the listener, but `close`, which any thread may call.

    Attributes:
        num_streams: how many pages are followed.
    """

    def __init__(self, shell: Shell, pages: RunPages, recent: RecentPast, look_again: LookAgain) -> None:
        """Follow nothing yet."""
        self._shell, self._pages, self._recent, self._look_again = shell, pages, recent, look_again
        self._life = uuid.uuid4().hex[:12]
        self._topics: dict[tuple[str, bool], _Topic] = {}
        self._number = 0
        self.num_streams = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closing = False

    def begins_at(self) -> str:
        """Return the id that a page is loaded with: of everything that it has already."""
        return f"{self._life}.0.{self._recent.number}"

    async def answer(self, request: Request) -> Response:
        """Answer with the events of one run, from `Last-Event-ID` on."""
        visitor: Visitor = request.state.visitor
        try:
            run = self._shell.readable(visitor, request.query_params.get("run", ""))
        except CkptdError as error:
            return PlainTextResponse(f"{error}\n", 404)
        if self.num_streams >= MOST_STREAMS:
            return PlainTextResponse(f"{MOST_STREAMS} pages are followed already\n", _TOO_MANY, {"Retry-After": "5"})
        after = request.headers.get("last-event-id") or request.query_params.get("after", "")
        return StreamingResponse(
            self._stream(request, run, visitor, after), headers={"Content-Type": "text/event-stream; charset=utf-8"}
        )

    async def _stream(self, request: Request, run: str, visitor: Visitor, after: str) -> AsyncIterator[str]:
        self._loop = asyncio.get_running_loop()
        number, line = self._resumed(after)
        key = run, visitor.sees_all
        topic = self._topics.setdefault(key, _Topic())
        topic.num_viewers += 1
        self.num_streams += 1
        if topic.task is None:
            topic.task = asyncio.create_task(self._keep_rendering(run, visitor.sees_all, topic))
        admitted_at = self._loop.time()
        goes_on: Callable[[], None] = request.scope.get(CONTINUES, lambda: None)
        try:
            yield f"retry: {_AGAIN_MS}\n\n"
            while not self._is_closing:
                goes_on()  # the last piece was taken
                # Before anything is sent: a right that was taken away ends the stream within a second.
                if self._loop.time() - admitted_at > _ADMIT_S:
                    visitor, admitted_at = await self._look_again(request), self._loop.time()
                    self._shell.readable(visitor, run)
                    if visitor.sees_all != key[1]:
                        break  # it opens another stream, and sees what it may see now
                for name, part in list(topic.parts.items()):
                    if part.number > number:
                        yield _event(name, part.text)
                number = max((part.number for part in topic.parts.values()), default=number)
                lines = self._recent.events(run, visitor, line)
                if lines:
                    line = lines[0].number
                    yield _event("log", "".join(self._shell.render("event.html", event=each) for each in lines))
                yield _event("beat", topic.error, f"{self._life}.{number}.{line}")
                await _within(topic.changed, _BEAT_S)
            yield _event("bye", "the daemon ends" if self._is_closing else "")
        except CkptdError as error:
            yield _event("bye", str(error))
        finally:
            topic.num_viewers -= 1
            self.num_streams -= 1
            if not topic.num_viewers:
                self._topics.pop(key, None)
                if topic.task is not None:
                    topic.task.cancel()

    def _resumed(self, after: str) -> tuple[int, int]:
        """Return which parts and lines a page has; of another life of the daemon it has none."""
        life, _, rest = after.partition(".")
        number, _, line = rest.partition(".")
        if life != self._life or not (number.isdigit() and line.isdigit()) or len(rest) > 40:
            return 0, 0
        return int(number), int(line)

    async def _keep_rendering(self, run: str, sees_all: bool, topic: _Topic) -> None:
        """Render what has changed, for as long as there are viewers."""
        while True:
            cost_s = 0.0
            try:
                texts, cost_s = await self._shell.in_pool(lambda: self._rendered(run, sees_all, topic))
                topic.error = ""
            except CkptdError as error:
                texts, topic.error = {}, str(error)
            is_news = False
            for name, text in texts.items():
                known = topic.parts.get(name)
                if known is None or known.text != text:
                    self._number += 1
                    topic.parts[name] = _Part(self._number, text)
                    is_news = True
            if is_news:
                topic.changed.set()
                topic.changed = asyncio.Event()
            await asyncio.sleep(max(EVERY_S, _SHARE * cost_s))

    def _rendered(self, run: str, sees_all: bool, topic: _Topic) -> tuple[Mapping[str, str], float]:
        """Return the parts, if anything can have changed, and the processor time that this took. In the pool."""
        began = time.thread_time()
        about, view = self._shell.source.about(sees_all=sees_all), self._shell.source.run(run)
        seen = about, _without_age(view), self._recent.version(run), bool(view.saves)
        if seen == topic.seen and not view.saves:
            return {}, time.thread_time() - began
        topic.seen = seen
        values = {**self._pages.values(view), "about": about, "names": []}
        texts = {name: self._shell.render(f"{name}.html", **values) for name in PARTS}
        return texts, time.thread_time() - began

    def close(self) -> None:
        """End all streams, now."""
        self._is_closing = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for topic in self._topics.values():
            topic.changed.set()


def _without_age(view: RunView) -> RunView:
    return replace(view, saves=()) if view.saves else view


async def _within(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:
        return


def _event(name: str, text: str, number: str = "") -> str:
    lines = "".join(f"data: {line}\n" for line in text.splitlines() or [""])
    return f"event: {name}\n{f'id: {number}' + chr(10) if number else ''}{lines}\n"
