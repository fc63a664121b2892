"""Log lines for long waits: every half minute, what a save waits for.

They are warnings of the logger ``ckptd.client``, which Python writes to stderr in a program that has set up no logging.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ckptd.latch import Latch

NOTICE_S = 30.0

Tell = Callable[[str, float], None]
"""Takes what is waited for, and for how many seconds so far."""

_log = logging.getLogger("ckptd.client")
_here = threading.local()


class _Wait:
    """What one thread waits for at this moment."""

    def __init__(self, caller: str, tell: Tell | None) -> None:
        self.what: Callable[[], str] = lambda: "its beginning"
        self._caller = caller
        self._tell = tell
        self._began = time.monotonic()
        self._is_over = Latch()

    def run(self) -> None:
        while not self._is_over.wait(NOTICE_S):
            what, waited_s = self.what(), time.monotonic() - self._began
            _log.warning("%s waits for %s, %.0f s after it began", self._caller, what, waited_s)
            if self._tell is not None:
                self._tell(what, waited_s)

    def end(self) -> None:
        self._is_over.set()


@contextmanager
def told(caller: str, tell: Tell | None = None) -> Iterator[None]:
    """Write a line every half minute, while this lasts, about what `caller` waits for; `waiting_for` says what.

    `tell` is called with each line's content.
    """
    wait = _Wait(caller, tell)
    with suppress(RuntimeError):  # no thread can be started: then there are no lines
        threading.Thread(target=wait.run, name="ckptd-waits", daemon=True).start()
    before = getattr(_here, "wait", None)
    _here.wait = wait
    try:
        yield
    finally:
        wait.end()
        _here.wait = before


def waiting_for(what: str | Callable[[], str]) -> None:
    """Say what this thread waits for from now on, or how to find out."""
    wait: _Wait | None = getattr(_here, "wait", None)
    if wait is not None:
        wait.what = what if callable(what) else lambda: what
