"""The check of every stored run after a start: what a crash left is completed or swept, even if the run is not used.

It goes on in the background while the daemon serves, a few runs side by side. A run that is needed meanwhile is
opened at once, by the call itself.
"""

from __future__ import annotations

import logging
import threading
import time
from queue import Empty, Queue

from ckptd.engine.catalog.root import stored_runs
from ckptd.engine.saves.runs import Runs
from ckptd.errors import CkptdError, InvalidRequestError
from ckptd.printable import counted
from ckptd.storage.base import Durability, Store

_log = logging.getLogger("ckptd.engine")

_AT_ONCE_IN_A_BUCKET = 8  # most of the time is waiting for the store
_STOP_S = 10.0


class Inspection:
    """See the module. Begun once, and over when every run has been checked."""

    def __init__(self, store: Store, runs: Runs) -> None:
        """Begin nothing yet."""
        self._store = store
        self._runs = runs
        self._names: Queue[str] = Queue()
        self._is_ended = threading.Event()
        self._num_looked_at = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, on threads of its own."""
        self._thread = threading.Thread(target=self._work, name="ckptd-inspect", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, after the runs that are being checked."""
        self._is_ended.set()
        if self._thread is not None:
            self._thread.join(_STOP_S)

    def wait(self, timeout_s: float) -> bool:
        """Wait until every run has been checked, at most so long; return whether that happened in time."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def _work(self) -> None:
        began = time.monotonic()
        try:
            for name in stored_runs(self._store):
                self._names.put(name)
                if self._is_ended.is_set():
                    return
        except CkptdError as error:
            _log.warning("not all runs below %s could be looked at after the start: %s", self._store.url, error)
        num_threads = _AT_ONCE_IN_A_BUCKET if self._store.durability is Durability.OBJECT_STORE else 1
        threads = [threading.Thread(target=self._look, daemon=True) for _ in range(num_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if not self._is_ended.is_set() and self._num_looked_at:
            _log.info(
                "looked at %s in %.1f s; %d cannot be opened",
                counted(self._num_looked_at, "stored run"),
                time.monotonic() - began,
                len(self._runs.quarantined()),
            )

    def _look(self) -> None:
        while not self._is_ended.is_set():
            try:
                name = self._names.get_nowait()
            except Empty:
                return
            try:
                if not self._runs.is_noted_at_rest(name):
                    with self._runs.use(name):
                        pass
                    self._runs.close_if_at_rest(name)
            except InvalidRequestError:
                _log.info("%s is no name of a run, and is left alone", name)
            except CkptdError:
                pass  # it is quarantined, and the log has said why
            self._num_looked_at += 1
