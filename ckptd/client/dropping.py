"""`Checkpointer`s that were collected and not closed: each leaves its run once its saves have ended.

The collector calls at any moment, in any thread, whatever locks that thread holds. So the call only adds an entry to a
queue that needs no Python lock; a thread that waits on the queue does the rest.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Protocol

from ckptd import threads
from ckptd.errors import CkptdError

_log = logging.getLogger("ckptd.client")


class Droppable(Protocol):
    """The part of a `Checkpointer` that outlives it."""

    def mark_dropped(self) -> None:
        """Note that it was dropped. Called by the collector: takes no lock."""

    def release(self) -> None:
        """Leave the run. What still reads through it may go on."""


class _Dropped:
    """The thread of this process, and its queue."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_begun = False

    def begin(self) -> None:
        if self._is_begun:
            return
        with self._lock:
            if not self._is_begun:
                with contextlib.suppress(RuntimeError):  # no thread can be started now: the next call tries again
                    threading.Thread(target=_serve, args=(self.queue,), name="ckptd-dropped", daemon=True).start()
                    self._is_begun = True


def _serve(dropped: queue.SimpleQueue[Callable[[], None]]) -> None:
    while True:
        work = dropped.get()
        try:
            threads.start(work, "ckptd-drop")  # one that waits for its saves delays no other
        except RuntimeError:
            threads.guarded(work)
        del work


_dropped = _Dropped()


def _forget() -> None:
    global _dropped
    _dropped = _Dropped()


os.register_at_fork(after_in_child=_forget)


def begin() -> None:
    """Start the thread: called by whatever makes something that may be dropped later."""
    _dropped.begin()


def soon(work: Callable[[], object]) -> None:
    """Do `work` in another thread, soon. For the collector: takes no lock. `begin` comes first."""
    _dropped.queue.put(partial(threads.guarded, work))


def follow(owner: object, what: Droppable, wait: Callable[[], None]) -> Callable[[], object]:
    """Drop `what` once `owner` was collected and `wait` has returned; return a function that cancels this.

    Neither may refer to the owner. At the end of the program nothing is dropped: `end_of_process` does that work.
    """
    finalizer = weakref.finalize(owner, _note, what, wait)
    finalizer.atexit = False
    return finalizer.detach


def _note(what: Droppable, wait: Callable[[], None]) -> None:
    what.mark_dropped()
    _dropped.queue.put(partial(_drop, what, wait))


def _drop(what: Droppable, wait: Callable[[], None]) -> None:
    try:
        wait()
    except CkptdError as error:  # the end of the program reports the save
        _log.debug("a Checkpointer that was dropped leaves its run: %s", error)
    finally:
        what.release()
