"""Regular checks, for places without events: network file systems, buckets, memory."""

from __future__ import annotations

import threading

from ckptd.errors import InvalidRequestError


class PollingHints:
    """Gives a hint every `poll_s` seconds. See `ckptd.watch.hints.Hints`."""

    def __init__(self, poll_s: float) -> None:
        if not 0 < poll_s <= threading.TIMEOUT_MAX:
            raise InvalidRequestError("the time between two checks is a number of seconds above zero", actual=poll_s)
        self._poll_s = poll_s
        self._is_closed = threading.Event()

    def arm(self) -> None:
        """See `Hints`. Nothing can be missed between checks that read everything."""

    def wait(self, timeout_s: float | None) -> None:
        """See `Hints`."""
        self._is_closed.wait(self._poll_s if timeout_s is None else min(self._poll_s, timeout_s))

    def close(self) -> None:
        """See `Hints`."""
        self._is_closed.set()
