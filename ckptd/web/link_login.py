"""Signing in by a link: what knows the token of the link gets a cookie, and needs no token in its addresses any more.

The cookie is the token itself, kept from scripts, and sent by no other site's requests but plain links. Each program
makes a new token when it starts.
"""

from __future__ import annotations

import hmac
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

from starlette.responses import RedirectResponse

from ckptd.access.callers import UnauthenticatedError, of_token
from ckptd.access.visits import Visit, Visitor
from ckptd.web.host_names import HostNames

PARAMETER = "token"


class LinkPorter:
    """Lets in who shows the token. See `ckptd.web.application.ServedDaemon`."""

    def __init__(self, token: str) -> None:
        """`token` is the only identity."""
        self._token = token

    async def admit(self, visit: Visit) -> Visitor:
        """See `Porter`."""
        if not hmac.compare_digest((visit.authorization or "").encode(), f"Bearer {self._token}".encode()):
            raise UnauthenticatedError("this page opens by the link that `ckptd ui` printed when it started")
        return Visitor(of_token("ui"), lambda _run: True, True)

    async def redeem(self, code: str) -> str | None:
        """See `ServedDaemon`: there are no codes here, the link itself signs in."""
        return None

    async def is_alive(self) -> bool:
        """See `ServedDaemon`."""
        return True

    def why_not_ready(self) -> str:
        """See `ServedDaemon`."""
        return ""


class LinkLogin:
    """An ASGI application around another, which takes the token as a bearer's."""

    def __init__(self, application: Any, names: HostNames, token: str, port: int) -> None:
        """`port` is in the name of the cookie: browsers send cookies to all ports of a host."""
        self._application, self._names, self._token = application, names, token
        self._cookie = f"ckptd-{port}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        is_known = self._names.knows(headers.get(b"host", ""))
        query = scope["query_string"].decode("latin-1")
        shown = parse_qs(query).get(PARAMETER, [""])[-1] if is_known else ""
        if shown and self._is_right(shown):
            rest = [(name, value) for name, value in parse_qsl(query) if name != PARAMETER]
            there = scope["path"] if scope["path"].startswith("/") and not scope["path"].startswith("//") else "/"
            answer = RedirectResponse(there + (f"?{urlencode(rest)}" if rest else ""), 303)
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax", path="/")
            await answer(scope, receive, send)
            return
        if is_known and b"authorization" not in headers and self._is_right(self._of_cookie(headers)):
            bearer = (b"authorization", f"Bearer {self._token}".encode())
            scope = {**scope, "headers": [*scope["headers"], bearer]}
        await self._application(scope, receive, send)

    def _of_cookie(self, headers: dict[bytes, str]) -> str:
        try:
            kept = SimpleCookie(headers.get(b"cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return "" if kept is None else kept.value

    def _is_right(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), self._token.encode())


def new_token() -> str:
    """Return a token that nobody can guess."""
    return secrets.token_urlsafe(24)
