"""Bytes a second: what the policy limits is delayed, and never refused.

Each message is counted once it has come or before it goes, and what moves next waits until it is paid for. So an
identity that floods waits for itself, and what it holds meanwhile (a place among the streams) counts as idle: others
get it when they need it. Memory that is lent passes no bytes over a socket; what was captured there is counted when it
is sealed, as it is stored then.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ckptd.access.callers import Caller
from ckptd.access.policy import Limit, Policy
from ckptd.errors import readable_size
from ckptd.service import refusal_log
from ckptd.service.gate import Gate

_BURST_S = 1.0  # unused time that may be made up for
_SLOW_S = 1.0  # a delay of this length is logged
_MOST = 4096  # identities, and hosts of them, that are known at once


@dataclass(slots=True)
class _Bucket:
    """What one identity, or one host of it, moves. Belongs to its owner's lock."""

    next_at: float
    second: int = 0
    moved: int = 0  # in that second
    moved_before: int = 0  # in the one before

    def take(self, now: float, size: int, rate: int) -> float:
        self._turn(now)
        self.moved += size
        self.next_at = max(self.next_at, now - _BURST_S) + size / rate
        return self.next_at - now

    def rate(self, now: float) -> int:
        """Return how much moved in the last whole second."""
        self._turn(now)
        return self.moved_before

    def _turn(self, now: float) -> None:
        if int(now) != self.second:
            self.moved_before = self.moved if int(now) == self.second + 1 else 0
            self.second, self.moved = int(now), 0


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast an identity moves bytes at this moment; `host` is empty where all of its hosts are meant."""

    whose: str
    host: str
    used: int
    most: int


class Pacing:
    """Counts bytes by the limits of a policy, as it is then. Any thread may use it."""

    def __init__(self, gate: Gate, now: Callable[[], float] = time.monotonic) -> None:
        self._gate, self._now = gate, now
        self._guard = threading.Lock()
        self._policy: Policy | None = None
        self._limits: dict[Caller, Limit] = {}
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()

    @property
    def policy(self) -> Policy:
        """The policy that holds now: a delay that an earlier one caused is over."""
        return self._gate.access.policy

    def moved(self, caller: Caller, host: str, size_bytes: int) -> float:
        """Count bytes of `caller` at `host`; return for how many seconds it must move no more."""
        if not self.policy.limits:
            return 0.0
        with self._guard:
            limit = self._limit(caller)
            now = self._now()
            rates = (("", limit.bytes_per_s), (host, limit.bytes_per_s_per_host))
            waits = [
                self._bucket((str(caller), at), now).take(now, size_bytes, rate)
                for at, rate in rates
                if rate is not None
            ]
        wait_s = max(waits, default=0.0)
        if wait_s >= _SLOW_S:
            self._tell(caller, host, limit, wait_s)
        return max(wait_s, 0.0)

    def _limit(self, caller: Caller) -> Limit:
        policy = self.policy
        if policy is not self._policy or len(self._limits) >= _MOST:
            if policy is not self._policy:
                self._buckets.clear()
            self._policy, self._limits = policy, {}
        limit = self._limits.get(caller)
        if limit is None:
            limit = self._limits[caller] = policy.limit(caller)
        return limit

    def _bucket(self, key: tuple[str, str], now: float) -> _Bucket:
        bucket = self._buckets.setdefault(key, _Bucket(now - _BURST_S))
        self._buckets.move_to_end(key)
        while len(self._buckets) > _MOST:
            self._buckets.popitem(last=False)
        return bucket

    @staticmethod
    def _tell(caller: Caller, host: str, limit: Limit, wait_s: float) -> None:
        if refusal_log.log.is_repeated(f"the bytes of {caller} are delayed"):
            return
        most = [
            f"{readable_size(rate)} a second{where}"
            for rate, where in ((limit.bytes_per_s, ""), (limit.bytes_per_s_per_host, " from one host"))
            if rate is not None
        ]
        said = f"{caller} at {host} waits {wait_s:.1f} s: the daemon's policy allows it {' and '.join(most)}"
        fields = {"event": "paced", "identity": str(caller), "peer": host, "wait_s": round(wait_s, 1)}
        refusal_log.log.refused(f"{host}:0", said, fields)

    def rates(self) -> Iterator[Rate]:
        """Yield how fast each identity that has a limit moves bytes now, and from which host."""
        with self._guard:
            now = self._now()
            if self.policy is not self._policy:
                return
            limits = {str(caller): limit for caller, limit in self._limits.items()}
            used = {key: bucket.rate(now) for key, bucket in self._buckets.items()}
        for (whose, host), rate in sorted(used.items()):
            limit = limits.get(whose, Limit())
            most = limit.bytes_per_s_per_host if host else limit.bytes_per_s
            if most is not None:
                yield Rate(whose, host, rate, most)
