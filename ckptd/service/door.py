"""Where a call comes in: its identity, or a refusal, which comes late after many wrong ones.

A refusal costs the peer nothing, so one connection could request 1,350 a second. After a few of them in a minute those
of the same peer are answered a second later; where more than a few wait for that, their connections are closed.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ckptd.access.callers import Caller, UnauthenticatedError
from ckptd.engine.refusals import NotNowError
from ckptd.service.connections import Connections
from ckptd.service.gate import Gate, shown_by
from ckptd.service.pacing import Pacing
from ckptd.service.proxied_call import ProxiedContext
from ckptd.service.refusal_log import LineBudget, network_of

AT_ONCE = 10
"""So many refusals of one peer come at once; of later ones one every six seconds does."""

LATE_S = 1.0
"""How much later the others come."""

MOST_CALLS = 16_384
"""So many calls may be in progress, waiting ones included: of an identity 3/4 from one host, and 7/8 from all."""

MOST_LATE = 512
"""So many may wait for that, of all peers, and an eighth of them of one: the connections of the others are closed."""

_PER_SECOND = 1 / 6
_MOST_PEERS = 1024
_AGAIN_S = 0.5  # after that a request that came too early is looked at again
_BURST_S = 2  # of what a caller may request, at once


class Door:
    """Belongs to one event loop. `connections` is there once the server listens."""

    def __init__(self, gate: Gate, now: Callable[[], float] = time.monotonic, most_calls: int = MOST_CALLS) -> None:
        """Let `gate` find the identity of a caller; so many calls may be in progress."""
        self.connections: Connections | None = None
        self.gate, self._now = gate, now
        self.pacing = Pacing(gate)
        self._budgets: OrderedDict[str, LineBudget] = OrderedDict()
        self._late: dict[str, int] = {}
        self._calls: Counter[str] = Counter()
        self._num_calls, self._most_calls = 0, most_calls
        self._rates: OrderedDict[tuple[Caller, str], LineBudget] = OrderedDict()

    async def caller(self, context: Any) -> Caller:
        """Return the identity behind a call.

        Raises:
            UnauthenticatedError: it shows none, or one that is not known or has expired.
        """
        try:
            caller = self.gate.caller(shown_by(context))
        except UnauthenticatedError:
            await self._hold_back(context.peer())
            raise
        if isinstance(context, ProxiedContext):
            await context.is_known()
        elif self.connections is not None:
            self.connections.note(context.peer(), str(caller))
        return caller

    def check_rate(self, caller: Caller, peer: str) -> None:
        """Count a call; `NotNowError` if its caller has begun more in these seconds than the policy allows it."""
        limit = self.gate.access.policy.limit(caller)
        self._check_rate(caller, "", limit.requests_per_s)
        self._check_rate(caller, network_of(peer), limit.requests_per_s_per_host)

    async def in_turn(self, caller: Caller, peer: str) -> None:
        """Count a request of a call in progress, once its caller may make another."""
        while self.gate.access.policy.limits:
            try:
                return self.check_rate(caller, peer)
            except NotNowError:
                await asyncio.sleep(_AGAIN_S)

    def _check_rate(self, caller: Caller, host: str, rate: int | None) -> None:
        if rate is None:
            return
        now, at_once = self._now(), max(rate * _BURST_S, AT_ONCE)
        budget = self._rates.setdefault((caller, host), LineBudget(at_once, now))
        self._rates.move_to_end((caller, host))
        while len(self._rates) > _MOST_PEERS:
            self._rates.popitem(last=False)
        if not budget.take(now, at_once, rate):
            whose, where = (f"{caller} at {host}", " from one host") if host else (str(caller), "")
            raise NotNowError(f"{whose} calls too often: the daemon's policy allows it {rate} requests a second{where}")

    @contextmanager
    def inside(self, caller: Caller, peer: str) -> Iterator[None]:
        """Count a call as in progress for the block; `NotNowError` if it is one too many, and whose are."""
        most = self._most_calls
        shares = ((f"{caller} at {network_of(peer)}", most * 3 // 4), (str(caller), most * 7 // 8))
        for whose, share in shares:
            if self._calls[whose] >= share:
                raise NotNowError(f"{whose} has {self._calls[whose]} calls in progress, and may have {share}")
        if self._num_calls >= most:
            raise NotNowError(f"the daemon is busy: {self._num_calls} calls are in progress, and there may be {most}")
        self._num_calls += 1
        for whose, _ in shares:
            self._calls[whose] += 1
        try:
            yield
        finally:
            self._num_calls -= 1
            for whose, _ in shares:
                self._calls[whose] -= 1
                if not self._calls[whose]:
                    del self._calls[whose]

    async def _hold_back(self, peer: str) -> None:
        network, now = network_of(peer), self._now()
        budget = self._budgets.setdefault(network, LineBudget(AT_ONCE, now))
        self._budgets.move_to_end(network)
        while len(self._budgets) > _MOST_PEERS:
            self._budgets.popitem(last=False)
        if budget.take(now, AT_ONCE, _PER_SECOND):
            return
        waiting = self._late.get(network, 0)
        if self.connections is not None and (waiting >= MOST_LATE // 8 or sum(self._late.values()) >= MOST_LATE):
            self.connections.expel(peer)  # and with it this call, and what waits beside it
        self._late[network] = waiting + 1
        try:
            await asyncio.sleep(LATE_S)
        finally:
            self._late[network] -= 1
            if not self._late[network]:
                del self._late[network]
