"""What restores of this process wait for, when a daemon sends the bytes: a line every half a minute."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator

from ckptd import threads
from ckptd.engine.reading.waits import ReadWait, ReadWaits

_log = logging.getLogger("ckptd.client")

LOOK_EVERY_S = 1.0


class ToldWaits:
    """See the module. Any thread may use it. One thread looks while anything is waited for, and a moment longer."""

    def __init__(self) -> None:
        """Wait for nothing yet."""
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._waits = ReadWaits(time.monotonic, _log)
        self._changed = threading.Condition()
        self._num_waits = 0
        self._is_watched = False

    @contextlib.contextmanager
    def of(self, key: str, address: str, size_bytes: int) -> Iterator[ReadWait]:
        """Say that bytes of an object are waited for, which a daemon sends."""
        if self._pid != os.getpid():
            self._begin()  # the thread of a parent is not its child's
        with self._changed:
            self._num_waits += 1
            is_new, self._is_watched = not self._is_watched, True
        try:
            if is_new:
                self._watch()
            with self._waits.of(key, f"the daemon at {address}", size_bytes) as wait:
                yield wait
        finally:
            with self._changed:
                self._num_waits -= 1

    def _watch(self) -> None:
        try:
            threads.start(self._look, "ckptd-waits")
        except RuntimeError:  # there is no thread: then there are no lines
            with self._changed:
                self._is_watched = False

    def _look(self) -> None:
        while True:
            with self._changed:
                self._changed.wait(LOOK_EVERY_S)
                if not self._num_waits:
                    self._is_watched = False
                    return
            self._waits.tell()


waits = ToldWaits()
"""Of this process."""
