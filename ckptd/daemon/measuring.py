"""What a daemon with `--http` measures: its figures, and the journal that moves them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from urllib.parse import urlsplit

from grpc import __version__ as grpc_version
from prometheus_client import Gauge

from ckptd.daemon.config import Config
from ckptd.engine.front import Engine
from ckptd.engine.journal import Journal, Journals
from ckptd.metrics.exposition import render
from ckptd.metrics.figures import Figures
from ckptd.metrics.seen import SeenFigures
from ckptd.metrics.told import ToldFigures
from ckptd.service.meter import ServiceMeter
from ckptd.service.server import Server
from ckptd.storage.metered import Meter
from ckptd.wire import versions

ARENA_STATES = ("free", "filled", "leased")
_TURN_S = 0.5
_LOOK_AT_STORE_TURNS = 60


class Measuring:
    """The figures of one daemon.

    Attributes:
        render: returns them as text; see `ckptd.metrics.exposition`.
    """

    def __init__(self, config: Config) -> None:
        """Begin at 0."""
        self._figures = Figures(
            version=versions.VERSION, grpc=grpc_version, role=config.role, store=_scheme_of(config.root)
        )
        registry = self._figures.registry
        self.render: Callable[..., tuple[bytes, str]] = functools.partial(render, registry)
        self._free = Gauge(
            "ckptd_store_free_bytes",
            "Free space of the store, as it said within the last half minute; NaN where that has no meaning.",
            ["store"],
            registry=registry,
        ).labels(self._figures.store)
        self._free.set(float("nan"))
        self._watchers = Gauge("ckptd_watchers", "Streams that wait for newer checkpoints.", registry=registry)
        self._arena = Gauge(
            "ckptd_arena_bytes",
            "Shared memory: filled with a published save, lent to ranks without one, free to be lent.",
            ["state"],
            registry=registry,
        )

    @property
    def store_meter(self) -> Meter:
        """What is to be told of requests to the store."""
        return self._figures.of_store

    @property
    def service_meter(self) -> ServiceMeter:
        """What is to be told of calls."""
        return self._figures.of_service

    def journal(self, first: Journal, *others: Journal) -> Journals:
        """Return a journal that tells `first`, then moves the figures, and then tells `others`."""
        return Journals(first, ToldFigures(self._figures), *others)

    def look_at(self, engine: Engine, server: Server) -> None:
        """Show what is in an engine's memory at each scrape, and the shared memory that a server lends."""
        self._figures.registry.register(SeenFigures(engine.runs, self._figures.runs))
        self._watchers.set_function(lambda: server.hub.num_watchers)
        for state in ARENA_STATES:
            self._arena.labels(state).set_function(functools.partial(_arena_bytes, server, state))

    async def run(self, server: Server) -> None:
        """Measure the event loop that this runs in, and look at the store now and then, until cancelled."""
        loop = asyncio.get_running_loop()
        turn = 0
        while True:
            if turn % _LOOK_AT_STORE_TURNS == 0:
                free_bytes = await server.free_bytes()
                self._free.set(float("nan") if free_bytes is None else free_bytes)
            turn += 1
            due = loop.time() + _TURN_S
            await asyncio.sleep(_TURN_S)
            self._figures.loop_lag.observe(max(0.0, loop.time() - due))


def _arena_bytes(server: Server, state: str) -> int:
    return 0 if server.arenas is None else server.arenas.lender.states()[state]


def _scheme_of(root: str) -> str:
    scheme = urlsplit(root).scheme if "://" in root else ""
    return scheme or "file"
