"""The parts of uploads in progress, of all writers of a store: how many, their memory, and their threads.

Their bytes are limited; a writer that needs one more part waits until another is sent. When no part is being sent, the
wait would never end, as all of them still lack bytes: then the limit does not apply. Fresh memory is slow, as the
kernel zeroes each page at its first touch: so a part's buffer is kept when it is sent, and used again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from ckptd import threads
from ckptd.errors import UnavailableError

T = TypeVar("T")

NUM_SENDERS = 8
_LIMIT_BYTES = 256 << 20
_KEPT_BYTES = 256 << 20
_WAIT_S = 1800.0  # on a slow link one part takes minutes


class Parts:
    """Admits parts, lends them buffers, and has threads that send them. Any thread may use it."""

    def __init__(self, *, limit_bytes: int = _LIMIT_BYTES, num_senders: int = NUM_SENDERS) -> None:
        """Allocate nothing yet."""
        self._limit_bytes = limit_bytes
        self._changed = threading.Condition()
        self._free: list[bytearray] = []
        self._out_bytes = 0
        self._num_sending = 0
        self._num_ended = 0
        self._senders = threads.Pool(num_senders, "ckptd-upload")

    @property
    def out_bytes(self) -> int:
        """Bytes of the parts that are under way."""
        return self._out_bytes

    def admit(self, size_bytes: int) -> None:
        """Let one more part be under way; wait while the limit is reached.

        Raises:
            UnavailableError: when no part could be sent for half an hour.
        """
        with self._changed:

            def may_go_on() -> bool:
                return self._out_bytes + size_bytes <= self._limit_bytes or self._num_sending == 0

            num_ended = -1
            while not may_go_on():
                if num_ended == self._num_ended:
                    raise UnavailableError("no part of any upload could be sent for half an hour")
                num_ended = self._num_ended
                self._changed.wait_for(may_go_on, _WAIT_S)
            self._out_bytes += size_bytes

    def dismiss(self, size_bytes: int, buffer: bytearray | None = None) -> None:
        """Note that a part is sent, or no longer needed, and take back its buffer."""
        with self._changed:
            self._out_bytes -= size_bytes
            if buffer is not None:
                self._free.append(buffer)
                while sum(map(len, self._free)) > _KEPT_BYTES:
                    self._free.pop(0)
            self._changed.notify_all()

    def buffer(self, size_bytes: int) -> bytearray:
        """Return a buffer of exactly that size, with anything in it, for a part that was admitted. Never waits."""
        with self._changed:
            for number, buffer in enumerate(self._free):
                if len(buffer) == size_bytes:
                    return self._free.pop(number)
        return bytearray(size_bytes)

    def send(self, work: Callable[[], T]) -> Future[T]:
        """Do `work` on one of the senders' threads."""
        with self._changed:
            self._num_sending += 1

        def counted() -> T:
            try:
                return work()
            finally:
                with self._changed:
                    self._num_sending -= 1
                    self._num_ended += 1
                    self._changed.notify_all()

        return self._senders.call(counted)
