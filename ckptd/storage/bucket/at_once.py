"""How many large bodies are sent at once: fewer while the server or the way to it does not keep up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)


class AtOnce:
    """Half as many after one that came to a stop, one more after each that arrived. Any thread may use it."""

    def __init__(self, most: int) -> None:
        """Begin with the most."""
        self._most = self._limit = most
        self._num_now = 0
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """How many may be sent at once now."""
        return self._limit

    @contextmanager
    def one(self) -> Iterator[None]:
        """Wait until one more may be sent; it is being sent until the end of this."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_now < self._limit)
            self._num_now += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_now -= 1
                self._changed.notify_all()

    def arrived(self) -> None:
        """One has arrived."""
        with self._changed:
            self._limit = min(self._limit + 1, self._most)
            self._changed.notify_all()

    def stopped(self, why: str) -> None:
        """One came to a stop, and may be sent again."""
        with self._changed:
            limit = max(1, min(self._limit, self._num_now) // 2)
            if limit < self._limit:
                _log.warning("%s; at most %d large bodies are sent at once now", why, limit)
            self._limit = min(limit, self._limit)
