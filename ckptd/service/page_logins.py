"""Logins to pages: a link that works once, and the cookie that it is exchanged for. Both stand for a caller of gRPC.

A cookie holds the caller, until when, and a code of authentication (HMAC-SHA-256), so that it is good after a restart
of the daemon, too; the key is in a file beside the daemon's socket, which its user alone may read. A cookie of a token
ends with that, and what it allows is the policy's to say at each request, as for every caller.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import stat
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from ckptd.access import callers
from ckptd.access.callers import Caller, UnauthenticatedError
from ckptd.service.gate import Gate

CODE_S = 60.0
"""How long a link works."""

COOKIE_S = 12 * 3600
"""How long a cookie is good."""

KEY_SUFFIX = ".pages"
"""Of the key's file, behind the path of the daemon's socket."""

_MOST_CODES = 256
_MOST_COOKIE = 4000
_KEY_BYTES = 32


class PageLogins:
    """See the module. Belongs to one event loop."""

    def __init__(self, gate: Gate, audience: str, wall_s: Callable[[], float] = time.time) -> None:
        """Give out logins to `audience`: what else has the key must not take its cookies. No key is read yet."""
        self._gate, self._audience, self._wall_s = gate, audience, wall_s
        self._codes: OrderedDict[str, tuple[Caller, float]] = OrderedDict()
        self._key: bytes | None = None
        self.key_file: Path | None = None

    def code(self, caller: Caller) -> str:
        """Return what lets `caller` in once, within a minute."""
        code = secrets.token_urlsafe(24)
        self._codes[_digest(code)] = caller, time.monotonic() + CODE_S
        while len(self._codes) > _MOST_CODES:
            self._codes.popitem(last=False)
        return code

    def redeem(self, code: str) -> str | None:
        """Return the cookie for a code; None if it is none, or has been used, or its minute is over."""
        caller, until = self._codes.pop(_digest(code), (None, 0.0))
        if caller is None or time.monotonic() > until:
            return None
        told = [caller.kind, caller.name, list(caller.aliases), caller.proof, round(self._wall_s() + COOKIE_S)]
        content = json.dumps(told).encode()
        return _text(content) + "." + _text(self._mac(content))

    def caller_of(self, cookie: str) -> Caller:
        """Return the caller that a cookie stands for.

        Raises:
            UnauthenticatedError: it is none of ours, has expired, or its caller is no longer known.
        """
        refused = UnauthenticatedError("the login has expired, or is of another daemon: `ckptd open` makes a new one")
        if len(cookie) > _MOST_COOKIE:
            raise refused
        try:
            content, mac = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in cookie.split("."))
        except ValueError as error:
            raise refused from error
        if not hmac.compare_digest(mac, self._mac(content)):
            raise refused
        kind, name, aliases, proof, until = json.loads(content)
        if self._wall_s() > until:
            raise refused
        access = self._gate.access
        if (kind == callers.LOOPBACK and not access.admits_loopback) or (
            kind == callers.USER and not access.admits_users
        ):
            raise refused
        caller = Caller(kind, name, tuple(aliases), proof)
        self._gate.check_known(caller)
        return caller

    def _mac(self, content: bytes) -> bytes:
        if self._key is None:
            self._key = _kept_key(self.key_file)
        return hmac.digest(self._key, self._audience.encode("utf-8", "surrogateescape") + b"\0" + content, "sha256")


def _kept_key(path: Path | None) -> bytes:
    """Return the key in a file, which is made if need be; one that is kept nowhere where that is not possible."""
    fresh = secrets.token_bytes(_KEY_BYTES)
    if path is None:
        return fresh
    with contextlib.suppress(OSError):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            return _read_key(path) or fresh
        with os.fdopen(descriptor, "wb") as file:
            file.write(fresh)
    return fresh


def _read_key(path: Path) -> bytes | None:
    """Return a key that nobody else can read or has made; None of any other."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            return None
        key = file.read(_KEY_BYTES + 1)
    return key if len(key) == _KEY_BYTES else None


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode("utf-8", "surrogateescape")).hexdigest()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
