"""Brings events to their receivers, in a thread of its own: a receiver that hangs or fails holds up no save.

There is one such thread in a process, as there may be many `Checkpointer`s, and it takes one event after the other. A
forked child brings nothing of its parent's, and has a thread of its own. The end of the program, and
`Checkpointer.close`, wait a bounded time for what is still to be brought.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from ckptd.events.event import Event

Receiver = Callable[[Event], object]
_Item = tuple[Sequence[Receiver], Callable[[], Event]]

MOST_WAITING = 1000
"""Events that wait for a receiver that hangs; later ones push out the oldest."""

PATIENCE_S = 10.0
"""How long the end of the program waits for receivers."""

_log = logging.getLogger("ckptd.client")


class _Delivery:
    """The thread, and what it has still to bring. Any thread may use it."""

    def __init__(self) -> None:
        # Entered itself, and not by way of the condition: Ctrl-C may come as a condition is entered, which is Python.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[_Item] = deque()
        self._thread: threading.Thread | None = None
        self._is_busy = False
        self._busy_since = 0.0
        self._num_lost = 0
        self._failed: set[int] = set()

    def start(self) -> None:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="ckptd-events", daemon=True)
                with contextlib.suppress(RuntimeError):  # a limit, or the interpreter ends: the next event tries again
                    thread.start()
                    self._thread = thread

    def tell(self, item: _Item) -> None:
        self.start()
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                self._waiting.popleft()
                self._num_lost += 1
            self._waiting.append(item)
            self._changed.notify_all()

    def drain(self, patience_s: float) -> None:
        began = time.monotonic()
        with self._lock:
            while (self._waiting or self._is_busy) and self._thread not in (None, threading.current_thread()):
                # One that hangs is waited for once, however many Checkpointers are closed meanwhile.
                left_s = min(began, self._busy_since if self._is_busy else began) + patience_s - time.monotonic()
                if left_s <= 0:
                    _log.warning("on_event has not returned within %.0f s, and is not waited for", patience_s)
                    return
                self._changed.wait(left_s)

    def _run(self) -> None:
        while True:
            with self._lock:
                self._is_busy = False
                self._changed.notify_all()
                while not self._waiting:
                    self._changed.wait()
                receivers, make = self._waiting.popleft()
                self._is_busy, self._busy_since = True, time.monotonic()
                num_lost, self._num_lost = self._num_lost, 0
            if num_lost:
                _log.warning("%d events were not told, as on_event did not return", num_lost)
            try:
                event = make()
            except Exception:
                _log.exception("a bug in ckptd: an event could not be made")
                continue
            for receiver in receivers:
                self._bring(receiver, event)

    def _bring(self, receiver: Receiver, event: Event) -> None:
        try:
            receiver(event)
        except BaseException as error:  # SystemExit, too: this thread brings all events of the process
            if id(receiver) in self._failed:
                _log.debug("on_event has failed again: %r", error)
            else:
                self._failed.add(id(receiver))
                _log.exception("on_event has failed, and is called again for the next event: %s", receiver)


_delivery = _Delivery()


def start() -> None:
    """Start the thread: when the interpreter ends, none can be started any more."""
    _delivery.start()


def tell(receivers: Sequence[Receiver], make: Callable[[], Event]) -> None:
    """Have an event brought to each of `receivers` soon, in this order.

    `make` returns it, in the thread that brings it.
    """
    if receivers:
        _delivery.tell((receivers, make))


def drain() -> None:
    """Wait until all was brought, at most for `PATIENCE_S`; a receiver that calls this itself is not waited for."""
    _delivery.drain(PATIENCE_S)


def _forget() -> None:
    global _delivery
    _delivery = _Delivery()


os.register_at_fork(after_in_child=_forget)
