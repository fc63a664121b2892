"""One connection over HTTP: uvicorn's, within bounds of time and number, and with the certificate of its client."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_BYTES = 16 << 10
"""Of a request: its first line and headers."""

CONNECTION = "ckptd.connection"
"""Where the scope of a request has its `OtherEnd`."""


CONTINUES = "ckptd.continues"
"""Where the scope of a request has a function that gives its answer its whole time again: for a stream of events, which
calls it whenever its client has taken a piece."""


@dataclass(frozen=True, slots=True)
class ConnectionBounds:
    """What connections may take.

    Attributes:
        request_s: how long a client may take to send a request, and to take the end of an answer.
        answer_s: how long an answer may take as a whole.
        most, most_of_a_host: how many may be open.
    """

    request_s: float = 10.0
    answer_s: float = 30.0
    most: int = 256
    most_of_a_host: int = 128


class OtherEnd:
    """The other end of a connection, as far as its transport tells.

    Attributes:
        peer: as gRPC names it, ``ipv4:10.0.0.7:4711``.
        host: its address; of IPv6 its network, as one host has all addresses there.
        is_encrypted: whether TLS is used.
        common_names, alternative_names: of the certificate that was checked.
    """

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        """Read them off a connection that is made."""
        host, port, *_ = transport.get_extra_info("peername") or ("", 0)
        self.peer = f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
        self.host = _network(host)
        self.is_encrypted = transport.get_extra_info("ssl_object") is not None
        shown = transport.get_extra_info("peercert") or {}
        fields = [pair for each in shown.get("subject", ()) for pair in each]
        self.common_names = tuple(value for key, value in fields if key == "commonName")
        self.alternative_names = tuple(value for _, value in shown.get("subjectAltName", ()))


class ConnectionCounts:
    """How many there are of one listener. Belongs to its event loop."""

    def __init__(self, bounds: ConnectionBounds) -> None:
        """Begin with none."""
        self.bounds = bounds
        self._of_host: Counter[str] = Counter()

    def take(self, host: str) -> bool:
        """Count one more; say whether there may be one."""
        if self._of_host.total() >= self.bounds.most or self._of_host[host] >= self.bounds.most_of_a_host:
            return False
        self._of_host[host] += 1
        return True

    def leave(self, host: str) -> None:
        """Count one less."""
        self._of_host[host] -= 1
        if not self._of_host[host]:
            del self._of_host[host]


class BoundedConnection(asyncio.Protocol):
    """See the module. Made for each connection, as uvicorn makes its own protocol."""

    def __init__(self, counts: ConnectionCounts, **of_uvicorn: Any) -> None:
        """Begin nothing before the connection is made."""
        self._counts, self._bounds = counts, counts.bounds
        self._inner = H11Protocol(**of_uvicorn)
        self._origin: OtherEnd | None = None  # once it is counted
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let uvicorn have it, unless there are too many."""
        assert isinstance(transport, asyncio.Transport)
        origin = OtherEnd(transport)
        if not self._counts.take(origin.host):
            transport.abort()
            return
        self._origin, self._transport = origin, transport
        answer = self._inner.app

        async def answer_in_time(scope: Any, receive: Any, send: Any) -> None:
            self._expect_within(self._bounds.answer_s)
            scope[CONNECTION] = origin
            scope[CONTINUES] = lambda: self._expect_within(self._bounds.answer_s)
            try:
                await answer(scope, receive, send)
            finally:
                self._expect_within(self._bounds.request_s)

        self._inner.app = answer_in_time
        self._expect_within(self._bounds.request_s)
        self._inner.connection_made(transport)

    def _expect_within(self, seconds: float) -> None:
        """Abort the connection after this time, unless this is called again."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._origin is not None:
            self._inner.data_received(data)

    def eof_received(self) -> None:
        """See `asyncio.Protocol`."""
        self._inner.eof_received()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if self._origin is None:
            return
        self._counts.leave(self._origin.host)
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._inner.connection_lost(exc)


def _network(host: str) -> str:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address) or address.ipv4_mapped:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False).network_address)
