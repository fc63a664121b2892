from __future__ import annotations

import http.client
import socket
from dataclasses import dataclass, field

import pytest

from ckptd.access.callers import Caller, UnauthenticatedError
from ckptd.access.visits import Visit, Visitor
from ckptd.web.application import Application
from ckptd.web.connection import ConnectionBounds
from ckptd.web.host_names import HostNames
from ckptd.web.listener import Listener, bind
from ckptd.wire import addresses

WAIT_S = 60


@dataclass
class FakeDaemon:
    """Lets in whoever shows ``Bearer good``; `visits` are those that came."""

    visits: list[Visit] = field(default_factory=list)
    error: Exception | None = None
    alive: bool = True
    not_ready: str = ""

    async def admit(self, visit: Visit) -> Visitor:
        self.visits.append(visit)
        if self.error is not None:
            raise self.error
        if visit.authorization != "Bearer good":
            raise UnauthenticatedError("the call shows no token")
        return Visitor(Caller("token", "good"), lambda run: True, True)

    async def is_alive(self) -> bool:
        return self.alive

    def why_not_ready(self) -> str:
        return self.not_ready


class Site:
    """A listener, and what a client sees of it."""

    def __init__(self, routes=None, **bounds):
        self.daemon = FakeDaemon()
        listening, self.address = bind(addresses.parse_http("127.0.0.1:0"))
        self.listener = Listener(
            Application(self.daemon, HostNames([]), routes or {}), listening, bounds=ConnectionBounds(**bounds)
        )
        self.listener.start()

    def connect(self):
        return socket.create_connection((self.address.host, self.address.port), WAIT_S)

    def get(self, path, method="GET", **headers):
        connection = http.client.HTTPConnection(self.address.host, self.address.port, timeout=WAIT_S)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): each for name, each in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), dict(answer.getheaders())
        finally:
            connection.close()

    def raw(self, data):
        with self.connect() as connection:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture(scope="module")
def shared_site():
    running = Site()
    yield running
    running.listener.stop()


@pytest.fixture
def site(shared_site):
    """Give a site that answers as at its start; ending one takes a tenth of a second."""
    vars(shared_site.daemon).update(vars(FakeDaemon()))
    return shared_site
