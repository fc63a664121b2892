"""The routes by which lanes can be sent: to the daemon itself, which takes every lane, and to processes beside it.

Those have ports of their own, which a firewall or a forwarded port may block. So each is tried before it is used, and
skipped for a while when it does not answer.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import grpc

from ckptd.wire.addresses import Address
from ckptd.wire.methods import SAVE, Stub

_CONNECT_TIMEOUT_S = 2.0
AVOID_S = 600.0

_log = logging.getLogger("ckptd.client")


@dataclass(frozen=True, slots=True)
class Route:
    """Where to send: the stub of the save service there, and its address; `port` is 0 for the daemon itself."""

    stub: Any
    address: str
    port: int = 0


class Routes:
    """The routes to one daemon. Any thread may use it."""

    def __init__(self, stub: Any, address: Address, open_channel: Callable[[Address], grpc.Channel]) -> None:
        """`stub` is the daemon's own, at `address`; `open_channel` connects as it was connected."""
        self._daemon = Route(stub, str(address))
        self._address = address
        self._open_channel = open_channel
        self._lock = threading.Lock()
        self._routes: dict[int, Route] = {}
        self._avoided_until: dict[int, float] = {}
        self._channels: list[grpc.Channel] = []

    def to(self, port: int) -> Route:
        """Return the route to the process at this port; the daemon's own for 0, and while it cannot be reached."""
        if not port:
            return self._daemon
        with self._lock:
            if time.monotonic() < self._avoided_until.get(port, 0.0):
                return self._daemon
            if port not in self._routes:
                address = replace(self._address, port=port)
                try:
                    socket.create_connection((address.host, port), _CONNECT_TIMEOUT_S).close()
                except OSError as error:
                    self._avoid(port, str(error))
                    return self._daemon
                channel = self._open_channel(address)
                self._channels.append(channel)
                self._routes[port] = Route(Stub(channel, SAVE), str(address), port)
            return self._routes[port]

    def avoid(self, route: Route, reason: Exception) -> None:
        """Send to the daemon itself for a while, as this route does not work."""
        with self._lock:
            self._avoid(route.port, str(reason))

    def _avoid(self, port: int, reason: str) -> None:
        now = time.monotonic()
        if now >= self._avoided_until.get(port, 0.0):
            self._avoided_until[port] = now + AVOID_S
            _log.warning(
                "port %d of %s takes no streams (%s): this rank sends to the daemon itself, which may be slower",
                port,
                self._daemon.address,
                reason,
            )

    def close(self) -> None:
        """Close every channel but the daemon's."""
        with self._lock:
            channels, self._channels, self._routes = self._channels, [], {}
        for channel in channels:
            channel.close()
