"""A coordinator and agents of several "hosts", each with its server on a Unix socket, as threads of this process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc

from ckptd.agent.agent import Agent
from ckptd.daemon.app import Ticker
from ckptd.engine.catalog.term import Term
from ckptd.engine.saves.attended import AttendedHosts
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.settings import Settings
from ckptd.service.gate import Access
from ckptd.service.server import Server, ServerOptions
from ckptd.storage.base import Store
from ckptd.storage.local.local_store import LocalStore
from ckptd.wire import addresses, methods
from ckptd.wire.channels import open_channel

WAIT_S = 60.0
LEASE_S = 60.0  # long: what a test does not end by itself is not ended by a busy machine


class Serving:
    """One engine behind a server, in a loop of its own thread."""

    def __init__(self, engine: Any, path: Path, hosts: Any = None, access: Access | None = None) -> None:
        self.engine, self.address = engine, f"unix://{path}"
        self.hosts, self._access = hosts, access or Access()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._channel: grpc.Channel | None = None
        self.server = self._run(self._start())
        self._ticker = Ticker(engine, every_s=0.02)
        self._ticker.__enter__()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    async def _start(self) -> Server:
        options = ServerOptions(listen=(addresses.parse(self.address),), access=self._access)
        server = Server(self.engine, options, hosts=self.hosts)
        await server.start()
        return server

    def channel(self) -> grpc.Channel:
        """Return a connection to it, which lasts as long as it."""
        if self._channel is None:
            self._channel = open_channel(addresses.parse(self.address))
        return self._channel

    def stub(self, service: Any) -> methods.Stub:
        """Return the methods of one of its services."""
        return methods.Stub(self.channel(), service)

    def cut(self) -> None:
        """Break all connections to it; until `mend` there is none."""
        self._run(self.server.stop())

    def mend(self) -> None:
        """Listen again."""
        self.server = self._run(self._start())

    def stop(self) -> None:
        """End it, and its engine."""
        if self._channel is not None:
            self._channel.close()
        self._run(self.server.stop())
        self._ticker.__exit__()
        self.engine.close(0.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()


class ServedHosts:
    """See the module. The coordinator is of term 1 of the root, the next one of term 2."""

    def __init__(self, base: Path, root: Store, settings: Settings, access: Access | None = None) -> None:
        self.base, self.root, self.settings, self.access = base, root, settings, access
        self.agents: dict[str, Serving] = {}
        self.start_coordinator()

    def start_coordinator(self) -> None:
        """Begin a life of the coordinator."""
        coordinator = Coordinator(self.root, settings=self.settings, holder="the coordinator")
        coordinator.open()
        path = self.base / "coordinator.sock"
        term = Term(self.root, coordinator.clock, holder="the coordinator", addresses=[f"unix://{path}"])
        term.take()
        self.hosts = AttendedHosts(coordinator, term=term, lease_s=self.settings.lease_s)
        self.coordinator = Serving(coordinator, path, self.hosts, self.access)

    def stop_coordinator(self) -> None:
        """End its life."""
        self.coordinator.stop()
        self.hosts.close()

    def start(self, host: str, place: str = "") -> Serving:
        """Begin a life of a host's agent; `place` names its socket where that is not the host's."""
        place = place or host
        agent = Agent(
            self.root,
            host=host,
            root_id=self.coordinator.engine.root.id,
            coordinator=self.coordinator.address,
            addresses=[f"unix://{self.base}/{place}.sock"],
            settings=self.settings,
            again_s=0.05,
        )
        agent.open()
        self.agents[place] = Serving(agent, self.base / f"{place}.sock")
        return self.agents[place]

    def stop(self, host: str) -> None:
        """End it."""
        self.agents.pop(host).stop()


@contextlib.contextmanager
def served_hosts(
    base: Path, hosts: Sequence[str], settings: Settings | None = None, access: Access | None = None
) -> Iterator[ServedHosts]:
    """Run a coordinator, which judges callers by `access`, and agents of these hosts, over a directory in `base`."""
    running = ServedHosts(base, LocalStore(str(base / "root")), settings or Settings(lease_s=LEASE_S), access)
    try:
        for host in hosts:
            running.start(host)
        yield running
    finally:
        for host in list(running.agents):
            running.stop(host)
        running.stop_coordinator()
