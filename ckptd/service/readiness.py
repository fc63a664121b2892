"""Whether a daemon takes new saves, as gRPC's health service tells: not while it ends, is fenced off, or is cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ckptd.engine.hosts.views import AttendingView
from ckptd.service.pools import Pools
from ckptd.wire import methods

_LOOK_S = 0.5
_STATES = health_pb2.HealthCheckResponse


class Readiness:
    """See the module. Belongs to one event loop.

    Attributes:
        is_draining: whether the daemon is about to end.
    """

    def __init__(self, attending: Callable[[], AttendingView | None], pools: Pools) -> None:
        """`attending` describes the coordinator that calls are passed on to; it may block."""
        self._attending, self._pools = attending, pools
        self._servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # imported conditionally there
        self._taken_over: set[str] = set()
        self._serves_nothing = False
        self._has_coordinator = True
        self._is_started = False
        self.is_draining = False
        self._looking: asyncio.Task[None] | None = None

    def add_to(self, server: grpc.aio.Server) -> None:
        """Let a server answer with it."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def start(self) -> None:
        """Begin to tell."""
        if await self._look() is not None:
            self._looking = asyncio.create_task(self._look_again())
        self._is_started = True
        await self._tell()

    async def stop(self) -> None:
        """Look no more for a coordinator."""
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking

    async def drain(self) -> None:
        """Tell that the daemon is about to end."""
        self.is_draining = True
        await self._tell()

    async def taken_over(self, runs: Collection[str], is_all: bool) -> None:
        """Tell which runs another owner has taken over: every save of them fails.

        Each has a name of its own, see `methods.RUN_HEALTH`. Of the daemon as a whole it says so when these are all
        that it serves.
        """
        if self.is_draining or (self._taken_over == set(runs) and self._serves_nothing == is_all):
            return
        for run in self._taken_over - set(runs):
            await self._servicer.set(methods.RUN_HEALTH + run, _STATES.SERVING)
        for run in set(runs):
            await self._servicer.set(methods.RUN_HEALTH + run, _STATES.NOT_SERVING)
        self._taken_over, self._serves_nothing = set(runs), is_all
        await self._tell()

    async def _look(self) -> AttendingView | None:
        view = await self._pools.look(self._attending)
        self._has_coordinator = view is None or (view.attends and not view.is_replaced)
        return view

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            before = self._has_coordinator
            await self._look()
            if before != self._has_coordinator:
                await self._tell()

    def why_not(self) -> str:
        """Return why no new saves are taken, in words; "" while they are. Any thread may call."""
        if not self._is_started:
            return "the daemon is starting"
        if self.is_draining:
            return "the daemon is about to end"
        if self._serves_nothing:
            return "another owner has taken over all runs"
        return "" if self._has_coordinator else "the agent has no coordinator"

    async def _tell(self) -> None:
        state: Any = _STATES.NOT_SERVING if self.why_not() else _STATES.SERVING
        for service in ("", *methods.SERVICES):
            await self._servicer.set(service, state)
