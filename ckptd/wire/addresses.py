"""Where a daemon is, in one string.

``grpc://host:port``, ``grpcs://host:port`` (TLS), ``unix:///path/to.sock``, or a bare ``host:port``. What has none of
these forms is a store's address: `is_daemon` tells them apart.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from ckptd.errors import InvalidRequestError

DEFAULT_PORT = 7070
DEFAULT_HTTP_PORT = 7080

# Bind and connect take a path in sockaddr_un, which has room for this many bytes and a NUL.
MAX_SOCKET_PATH = 107

ARENA_SUFFIX = ".arena"
"""What the name of the socket for shared memory ends in; it is beside the one for gRPC, if there is one."""

_FORMS = "host:port, grpc://host:port, grpcs://host:port or unix:///path"
_HTTP_FORMS = "host:port, http://host:port or https://host:port"
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-]{0,251}[A-Za-z0-9_.])?", re.ASCII)
_BARE = re.compile(r"(?:\[[0-9A-Fa-f:.%A-Za-z]+\]|[A-Za-z0-9_.\-]+):\d{1,5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """One address: `path` for a Unix socket, else `host` and `port` (0, when listening, is any free one).

    `secure` is True for ``grpcs``, False for ``grpc`` and Unix sockets, None where a bare ``host:port`` left it open.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    secure: bool | None = False

    @property
    def is_unix(self) -> bool:
        """Whether this is a socket in the file system."""
        return bool(self.path)

    @property
    def is_loopback(self) -> bool:
        """Whether only processes of this host can reach it."""
        if self.is_unix or self.host.lower() in ("localhost", "localhost."):
            return True
        try:
            return ipaddress.ip_address(self.host.split("%")[0]).is_loopback
        except ValueError:
            return False

    @property
    def target(self) -> str:
        """What gRPC calls it."""
        if self.is_unix:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix://{self.path}"
        return {True: "grpcs://", False: "grpc://", None: ""}[self.secure] + self.target


def is_daemon(text: str) -> bool:
    """Tell whether `text` has the form of a daemon's address, and not of a store's. Doesn't check it further."""
    scheme, colon, _ = text.partition("://")
    if colon:
        return scheme.lower() in ("grpc", "grpcs", "unix")
    return text.startswith("unix:") or _BARE.fullmatch(text) is not None


def parse(text: str) -> Address:
    """Read an address; a missing port is 7070.

    Raises `InvalidRequestError` that shows the forms there are.
    """
    text = text.strip()
    scheme, colon, rest = text.partition("://")
    if not colon and text.startswith("unix:"):
        scheme, rest = "unix", text.removeprefix("unix:")
    elif not colon:
        scheme, rest = "", text
    match scheme.lower():
        case "unix":
            return _parse_socket(rest, text)
        case "" | "grpc" | "grpcs":
            secure = {"": None, "grpc": False, "grpcs": True}[scheme.lower()]
            return _parse_host(rest.removesuffix("/"), text, secure)
        case _:
            raise _refused(text, f"{scheme}:// is not a daemon's address")


def parse_http(text: str) -> Address:
    """Read where pages and metrics are served: ``host:port``, ``http://host:port`` or ``https://host:port``.

    A missing port is 7080. `secure` is as for `parse`. Raises `InvalidRequestError` that shows the forms there are.
    """
    text = text.strip()
    scheme, colon, rest = text.partition("://")
    scheme, rest = (scheme.lower(), rest) if colon else ("", text)
    if scheme not in ("", "http", "https"):
        raise _refused(text, f"{scheme}:// is not served over HTTP", _HTTP_FORMS)
    secure = {"": None, "http": False, "https": True}[scheme]
    return _parse_host(rest.removesuffix("/"), text, secure, DEFAULT_HTTP_PORT, _HTTP_FORMS)


def http_url(address: Address) -> str:
    """Return what browsers and Prometheus call an address."""
    return f"{'https' if address.secure else 'http'}://{address.target}"


def _parse_socket(path: str, text: str) -> Address:
    if not path.startswith("/"):
        raise _refused(text, "the path of a Unix socket is absolute")
    if "\0" in path or path.endswith("/"):
        raise _refused(text, "this is not the path of a socket")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_SOCKET_PATH:
        raise _refused(text, f"the path of a Unix socket has at most {MAX_SOCKET_PATH} bytes")
    return Address(path=path)


def _parse_host(
    rest: str, text: str, secure: bool | None, default_port: int = DEFAULT_PORT, forms: str = _FORMS
) -> Address:
    if rest.startswith("["):
        host, bracket, tail = rest[1:].partition("]")
        try:
            ipaddress.IPv6Address(host)
        except ValueError as e:
            raise _refused(text, f"[{host}] is no IPv6 address", forms) from e
        if not bracket or (tail and not tail.startswith(":")):
            raise _refused(text, "after ] comes :port", forms)
        port = tail[1:] if tail else str(default_port)
    else:
        host, colon, port = rest.partition(":")
        port = port if colon else str(default_port)
        if ":" in port:
            raise _refused(text, f"an IPv6 address stands in brackets, [::1]:{default_port}", forms)
        if not _HOST.fullmatch(host):
            raise _refused(text, "there is no host in it" if not host else f"{host!r} is no host", forms)
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise _refused(text, f"{port!r} is no port", forms)
    return Address(host, int(port), secure=secure)


def _refused(text: str, why: str, forms: str = _FORMS) -> InvalidRequestError:
    return InvalidRequestError(f"{text[:200]!r} is not an address: {why}; write {forms}")
