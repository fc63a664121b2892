"""Calls about a run wait here until it is open, so that a slow store holds no thread that other runs' calls need."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ckptd.engine.refusals import NotNowError
from ckptd.service.pools import Pools, settled_within

if TYPE_CHECKING:
    from ckptd.engine.front import Engine

P = ParamSpec("P")
T = TypeVar("T")

OPENING_S = 20.0
"""How long a call waits for a run to be opened; then it is answered so, and may be repeated."""


class Openings:
    """See the module. Belongs to one event loop."""

    def __init__(self, coordinator: Engine, pools: Pools) -> None:
        self._coordinator = coordinator
        self._pools = pools

    async def ready(self, run: str, *, create: bool = False) -> None:
        """Wait until `run` is open, or cannot be opened, which the call itself then says.

        Raises:
            UnavailableError: when that takes too long.
        """
        opening = self._coordinator.when_open(run, create=create)
        if not await settled_within(opening, OPENING_S):
            raise NotNowError(
                f"run {run!r} is still being opened after {OPENING_S:g} s: its store answers slowly; try again"
            )

    async def control(self, run: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a control call about `run` once that is open."""
        await self.ready(run)
        return await self._pools.control(run, call, *args, **kwargs)
