"""What reads wait for: a line every half a minute while any of them has waited that long."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ckptd.engine.wording import describe_bytes

NOTICE_S = 30.0


class ReadWait:
    """A context in which bytes of an object are waited for."""

    def __init__(self, waits: ReadWaits, key: str, what: str, size_bytes: int) -> None:
        """Begin with `__enter__`."""
        self._waits, self.key, self.what, self.left_bytes = waits, key, what, size_bytes
        self.since = 0.0

    def __enter__(self) -> ReadWait:
        """Begin to wait."""
        self._waits.begin(self)
        return self

    def __exit__(self, *_: object) -> None:
        """ReadWait no more: what was left has arrived."""
        self._waits.end(self)

    def arrived(self, size_bytes: int) -> None:
        """Note that some of the bytes are here."""
        self._waits.arrived(self, size_bytes)


class ReadWaits:
    """See the module. Any thread may use it."""

    def __init__(self, now: Callable[[], float], log: logging.Logger) -> None:
        """ReadWait for nothing yet."""
        self._now, self._log = now, log
        self._lock = threading.Lock()
        self._waits: set[ReadWait] = set()
        self._told_at = 0.0
        self._arrived = 0

    def of(self, key: str, what: str, size_bytes: int) -> ReadWait:
        """Return a context in which bytes of an object are waited for."""
        return ReadWait(self, key, what, size_bytes)

    def begin(self, wait: ReadWait) -> None:
        """See `ReadWait`."""
        with self._lock:
            wait.since = self._now()
            if not self._waits:
                self._told_at, self._arrived = wait.since, 0
            self._waits.add(wait)

    def arrived(self, wait: ReadWait, size_bytes: int) -> None:
        """See `ReadWait`."""
        with self._lock:
            wait.left_bytes -= size_bytes
            self._arrived += size_bytes

    def end(self, wait: ReadWait) -> None:
        """See `ReadWait`."""
        with self._lock:
            self._waits.discard(wait)
            self._arrived += wait.left_bytes

    def tell(self) -> None:
        """Write a line, if it is time for one."""
        with self._lock:
            now = self._now()
            if not self._waits or now - self._told_at < NOTICE_S:
                return
            rate, left = self._arrived / (now - self._told_at), sum(each.left_bytes for each in self._waits)
            oldest = min(self._waits, key=lambda each: each.since)
            self._told_at, self._arrived = now, 0
            waited_s = now - oldest.since
        self._log.warning(
            "reading %s waits for %s, for %.0f s now; %s are requested, and %s a second arrived lately",
            oldest.key,
            oldest.what,
            waited_s,
            describe_bytes(left),
            describe_bytes(int(rate)),
        )
