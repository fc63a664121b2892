"""What is answered at which path. `/livez` and `/readyz` are for all; everything else needs an identity."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from ckptd.access.callers import UnauthenticatedError
from ckptd.access.roles import Right
from ckptd.access.visits import Porter, Visit
from ckptd.errors import CkptdError, NotPermittedError, UnavailableError
from ckptd.web.connection import CONNECTION, HEAD_BYTES, OtherEnd
from ckptd.web.host_names import HostNames
from ckptd.web.shell import POLICY, Shell

LOGIN = "/login"
FOR_ALL = frozenset({"/livez", "/readyz", LOGIN})
FOR_ALL_BELOW = "/static/"
"""The style and scripts of pages are no secret, and the page that refuses a visitor has them, too."""

_RIGHTS = {"/metrics": Right.METRICS}
"""What a page needs besides `Right.READ`."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_MISDIRECTED, _UNAUTHENTICATED, _FORBIDDEN, _TOO_MANY, _FAILED, _NOT_NOW = 421, 401, 403, 429, 500, 503
_TOO_LONG = 431

COOKIE_S = 12 * 3600
"""How long a browser keeps a login; the daemon says itself how long that is good."""

_log = logging.getLogger("ckptd.web")


class ServedDaemon(Porter, Protocol):
    """What is told of a daemon. Its methods belong to the event loop of the listener."""

    async def redeem(self, code: str) -> str | None:
        """Return the cookie for the code of a link; None if that is not good any more."""

    async def is_alive(self) -> bool:
        """Say whether the daemon answers calls."""

    def why_not_ready(self) -> str:
        """Return why it takes no new saves, in words; "" while it does."""


class Application:
    """An ASGI application over one daemon."""

    def __init__(
        self, daemon: ServedDaemon, names: HostNames, routes: Mapping[str, Any], shell: Shell | None = None
    ) -> None:
        """Answer at the paths of health, and with `routes` at those that need an identity.

        With a `shell` refusals are pages to who wants pages.
        """
        self._daemon, self._names, self._shell = daemon, names, shell
        health = {"/livez": self._live, "/readyz": self._ready, LOGIN: self._login}
        self._inner = Starlette(
            routes=[Route(path, answer) for path, answer in {**health, **routes}.items()],
            exception_handlers={Exception: _failed},
        )
        self._inner.router.redirect_slashes = False  # to where the request's `Host` says
        self._compressed = GZipMiddleware(self._inner, minimum_size=1000, compresslevel=6)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""

        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                told = {name.lower() for name, _ in message["headers"]}
                own = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *(one for one in own if one[0] not in told)]}
            await send(message)

        answer: Any = self._inner
        if _head_bytes(scope) > HEAD_BYTES:
            answer = _text(_TOO_LONG, f"the request has more than {HEAD_BYTES} bytes before its body")
        elif scope["path"] not in FOR_ALL and not scope["path"].startswith(FOR_ALL_BELOW):
            answer = await self._refusal(Request(scope)) or self._inner
        if answer is self._inner and _is_compressed(scope):
            answer = self._compressed
        try:
            await answer(scope, receive, send_guarded)
        except Exception:  # Starlette raises again what it has answered
            _log.exception("a bug in ckptd: a request for %r failed", scope["path"])

    async def _refusal(self, request: Request) -> Response | None:
        """Return why a request is refused; None, and note the visitor in its state, where it is not."""
        shown = _authorization(request)
        host = request.headers.get("host", "")
        # A token is shown by none that a stranger's page could make call us.
        if shown is None and not self._names.knows(host):
            return self._told(
                request,
                _MISDIRECTED,
                f"it is not known by the name {host[:200]!r}: use its address, or the name of its host",
            )
        try:
            request.state.visitor = await self._daemon.admit(visit_of(request))
        except UnauthenticatedError as error:
            how = f"{error}; over HTTP a token is the header Authorization: Bearer TOKEN"
            return self._told(request, _UNAUTHENTICATED, how, {"WWW-Authenticate": 'Bearer realm="ckptd"'})
        except NotPermittedError as error:
            return self._told(request, _FORBIDDEN, str(error))
        except UnavailableError as error:
            return self._told(request, _TOO_MANY, str(error), {"Retry-After": "1"})
        except CkptdError as error:
            return self._told(request, _NOT_NOW, str(error))
        return None

    def _told(self, request: Request, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
        """Answer with text, or as a page where a browser wants one."""
        if self._shell is None or "text/html" not in request.headers.get("accept", ""):
            return _text(status, text, headers)
        return self._shell.told(status, text, **(headers or {}))

    async def _login(self, request: Request) -> Response:
        """Exchange the code of a link for a cookie."""
        cookie = None
        if request.method == "GET":  # what only looks at a link must not use it up
            cookie = await self._daemon.redeem(request.query_params.get("code", "")[:100])
        if cookie is None:
            told = "this link has been used, or its minute is over; `ckptd open` makes a new one"
            return self._told(request, _UNAUTHENTICATED, told)
        origin: OtherEnd = request.scope[CONNECTION]
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            cookie_name(request), cookie, COOKIE_S, path="/", secure=origin.is_encrypted, httponly=True, samesite="lax"
        )
        return answer

    async def _live(self, _request: Request) -> Response:
        if await self._daemon.is_alive():
            return _text(200, "ok")
        return _text(_NOT_NOW, "the daemon answers no calls: its event loop is busy, or hangs")

    async def _ready(self, _request: Request) -> Response:
        why_not = self._daemon.why_not_ready()
        return _text(_NOT_NOW, why_not) if why_not else _text(200, "ok")


def cookie_name(request: Request) -> str:
    """Return the name of a daemon's cookie: browsers send those of all ports of a host."""
    server = request.scope.get("server") or ("", 0)
    return f"ckptd-{server[1]}"


def visit_of(request: Request) -> Visit:
    """Return a request as what lets visitors in knows it."""
    origin: OtherEnd = request.scope[CONNECTION]
    return Visit(
        f"{request.method} {request.url.path}"[:200],
        origin.peer,
        _authorization(request),
        origin.is_encrypted,
        origin.common_names,
        origin.alternative_names,
        _RIGHTS.get(request.url.path, Right.READ),
        request.cookies.get(cookie_name(request)),
    )


def _head_bytes(scope: Any) -> int:
    """Return how long a request is before its body. h11 bounds only what comes in several pieces."""
    target = len(scope["raw_path"]) + len(scope["query_string"])
    return target + sum(len(name) + len(value) for name, value in scope["headers"])


def _is_compressed(scope: Any) -> bool:
    """Say whether an answer may be compressed.

    One that repeats what a link asks for is not: its length would tell the author of the link what else is on the page.
    """
    path = scope["path"]
    return path.startswith(FOR_ALL_BELOW) or (not scope["query_string"] and (path == "/" or path.startswith("/runs/")))


def _authorization(request: Request) -> str | None:
    """Return what a request shows, with the name of its scheme as tokens have it: HTTP ignores its case."""
    shown = request.headers.get("authorization")
    if shown is None:
        return None
    scheme, space, token = shown.partition(" ")
    return f"{scheme.capitalize()}{space}{token}"


async def _failed(_request: Request, error: Exception) -> Response:
    return _text(_FAILED, f"a bug in the daemon, see its log: {type(error).__name__}")


def _text(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return PlainTextResponse(text + "\n", status, headers)
