"""Join streams ⇄ memberships: a member is connected for as long as any of its streams lives.

When a connection breaks, the same process may be back on a new stream before the old one is found dead, so the end of
a stream is the end of the connection only if it was the last; and what is told to the coordinator about one member
is told in order, although it is told from a pool of threads.

The streams of a member that an operator evicts end with the reason: so its process hears of it at once. So do those
of an identity that may save to the run no longer, and its place is free then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptd.engine.identity import Member, RunOptions
from ckptd.errors import NotPermittedError
from ckptd.service.pools import Pools, settled

if TYPE_CHECKING:
    from ckptd.engine.front import Engine

_Place = tuple[str, int, str]


@dataclass(slots=True)
class _Presence:
    """One member's streams, and its turn to be reported."""

    streams: int
    turn: asyncio.Lock
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Presences:
    """The members that are connected. Belongs to one event loop."""

    def __init__(self, coordinator: Engine, pools: Pools) -> None:
        self._coordinator = coordinator
        self._pools = pools
        self._here: dict[_Place, _Presence] = {}
        self._departing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def arrive(self, run: str, member: Member, options: RunOptions) -> AsyncIterator[tuple[int, asyncio.Event]]:
        """Join, and be connected for the block; yields the epoch, and what is set when the member is evicted.

        `ConflictError` if the place is taken.
        """
        place = (run, member.rank, member.incarnation)
        presence = self._here.setdefault(place, _Presence(0, asyncio.Lock()))
        presence.streams += 1
        joined: Future[int] | None = None
        leave = self._coordinator.disconnect
        try:
            async with presence.turn:
                joined = self._pools.submit(run, self._coordinator.join, run, member, options)
                epoch = await settled(joined)
            yield epoch, presence.over
        except NotPermittedError:
            leave = self._coordinator.leave  # it may not come back: its place is free for others at once
            raise
        finally:
            # The caller may be gone, and this task with it, before the engine has answered: another one sees to it.
            departing = asyncio.ensure_future(self._depart(place, presence, member, joined, leave))
            self._departing.add(departing)
            departing.add_done_callback(self._departing.discard)

    def evicted(self, run: str, members: Iterable[Member]) -> None:
        """End the streams of members that have lost their places."""
        for member in members:
            presence = self._here.get((run, member.rank, member.incarnation))
            if presence is not None:
                presence.over.set()

    async def settle(self, timeout_s: float) -> None:
        """Wait until every member that left has been reported to the coordinator, up to a limit."""
        if self._departing:
            await asyncio.wait(self._departing, timeout=timeout_s)

    async def _depart(
        self,
        place: _Place,
        presence: _Presence,
        member: Member,
        joined: Future[int] | None,
        leave: Callable[[str, Member, int], None],
    ) -> None:
        async with presence.turn:
            if joined is not None and not joined.done():
                await asyncio.wait({asyncio.wrap_future(joined)})
            presence.streams -= 1
            if presence.streams:
                return
            if joined is not None and not joined.cancelled() and joined.exception() is None:
                told = self._pools.start(place[0], leave, place[0], member, joined.result())
                await asyncio.wait({asyncio.wrap_future(told)})
            if not presence.streams:  # No stream came while the coordinator was told.
                self._here.pop(place, None)


async def first_of(*events: asyncio.Event) -> None:
    """Wait until one of several things has happened."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
