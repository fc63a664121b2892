"""How fast one of many hosts sends to a bucket, so that all of them together stay below what that takes a second.

A bucket takes about 3,500 writing requests a second below one prefix, and answers those above it with 503. So each host
has its turns: they are as far apart as there are hosts, and those of different hosts come one after another. With a few
hosts that holds up nobody; with thousands, larger parts make up for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ALL_REQUESTS_PER_S = 3000.0
"""Of all hosts together; the rest is for what is repeated, read or deleted meanwhile."""

_HOST_BYTES_PER_S = 1e9  # that a host may want to send
_PART_BYTES, _MOST_PART_BYTES = 16 << 20, 64 << 20
_PARTS_BYTES = 256 << 20  # of the parts that a host sends at once
_MOST_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """Of one host. 0 is no limit.

    Attributes:
        part_bytes: parts of an upload are at least so large.
        at_once: so many of them are sent at once.
        requests_per_s: so many requests are made a second.
    """

    part_bytes: int = 0
    at_once: int = 0
    requests_per_s: float = 0.0


NO_LIMITS = UploadLimits()


def limits_of_each(num_hosts: int) -> UploadLimits:
    """Return what each of so many hosts may send."""
    requests_per_s = ALL_REQUESTS_PER_S / max(1, num_hosts)
    part_bytes = _PART_BYTES
    while part_bytes < _MOST_PART_BYTES and part_bytes * requests_per_s < _HOST_BYTES_PER_S:
        part_bytes *= 2
    return UploadLimits(part_bytes, min(_MOST_AT_ONCE, _PARTS_BYTES // part_bytes), requests_per_s)


class Pace:
    """Keeps to limits, for all that one process uploads. Any thread may use it."""

    def __init__(self, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
        """Begin without limits."""
        self._now, self._sleep = now, sleep
        self._changed = threading.Condition()
        self._limits = NO_LIMITS
        self._next_at = 0.0
        self._num_sending = 0

    def follow(self, limits: UploadLimits, place: float) -> None:
        """Keep to these from now on; `place`, from 0 to 1, is that of this host's turns between those of the others."""
        with self._changed:
            self._limits = limits
            if limits.requests_per_s:
                self._next_at = max(self._next_at, self._now() + place / limits.requests_per_s)
            self._changed.notify_all()

    @property
    def part_bytes(self) -> int:
        """How large a part is at least."""
        return self._limits.part_bytes

    def turn(self, requests: int = 1) -> None:
        """Wait until so many requests may be made."""
        with self._changed:
            if not self._limits.requests_per_s:
                return
            now = self._now()
            at = max(self._next_at, now)
            self._next_at = at + requests / self._limits.requests_per_s
        if at > now:
            self._sleep(at - now)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Wait until one more part may be sent; it is being sent until the end of this."""
        with self._changed:
            self._changed.wait_for(lambda: not self._limits.at_once or self._num_sending < self._limits.at_once)
            self._num_sending += 1
        try:
            self.turn()
            yield
        finally:
            with self._changed:
                self._num_sending -= 1
                self._changed.notify_all()
