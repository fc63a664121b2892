"""Follows a directory of checkpoints: each newer one once it is whole, and only forward.

Nothing is required of the writer: ckptd in direct mode, a daemon, or TensorFlow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from ckptd.engine.checkpoint import Checkpoint
from ckptd.errors import CorruptionError, UnavailableError
from ckptd.format.names import ANY_NAME, STATE_KEY
from ckptd.storage.base import Store
from ckptd.watch.hints import Hints, hints_for
from ckptd.watch.look import Looker
from ckptd.watch.news import News

PATIENCE_S = 10.0
"""How long a directory may be unreadable before that is an error: a state file may be half written by a copy."""

_RETRY_S = 0.2


class Follower:
    """One watcher of one directory. `close` may come from any thread, the rest belongs to one."""

    def __init__(
        self,
        store: Store,
        directory: str = "",
        *,
        latest_filename: str = STATE_KEY,
        name: str = ANY_NAME,
        poll_s: float | None = None,
        hints: Hints | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Describe what to follow; nothing is opened yet, and nothing need be there.

        Args:
            store: where the directory is.
            directory: its key there, "" for the root.
            latest_filename: the state file's name.
            name: follow only what this means, see `ckptd.engine.series`.
            poll_s: check so often, and do not rely on events; default: events where the file system has them.
            hints: say when to check; default: what fits the directory.
            now: seconds on a clock that only runs forward.
        """
        self._looker = Looker(store, directory, latest_filename, name)
        self._hints = hints or hints_for(store, directory, poll_s)
        self._news = News()
        self._now = now
        self._is_closed = threading.Event()
        self._failing_since: float | None = None

    def next(self, timeout_s: float | None = None) -> Checkpoint | None:
        """Wait for a checkpoint newer than the last, the newest there is. None after `timeout_s`, and once closed.

        Raises:
            CorruptionError: the state file has been unreadable for `PATIENCE_S`.
            UnavailableError: the store has been.
            NotPermittedError: it can't be read at all.
        """
        end_s = None if timeout_s is None else self._now() + timeout_s
        while not self._is_closed.is_set():
            self._hints.arm()
            checkpoint = self._look()
            last = self._news.last
            if checkpoint is not None and last is not None and (reason := self._looker.quarantine_of(last)):
                checkpoint = replace(checkpoint, rolled_back=reason)
            if checkpoint is not None and self._news.accept(checkpoint, listed=self._looker.listed):
                return checkpoint
            rest_s = None if end_s is None else end_s - self._now()
            if rest_s is not None and rest_s <= 0:
                return None
            if self._failing_since is not None:
                rest_s = _RETRY_S if rest_s is None else min(rest_s, _RETRY_S)
            self._hints.wait(rest_s)
        return None

    def close(self) -> None:
        """End a wait under way and every later one. Harmless when repeated."""
        self._is_closed.set()
        self._hints.close()

    def _look(self) -> Checkpoint | None:
        try:
            checkpoint = self._looker.look()
        except (CorruptionError, UnavailableError) as error:
            if self._failing_since is None:
                self._failing_since = self._now()
            elif self._now() - self._failing_since >= PATIENCE_S:
                error.add_note(f"this has lasted for {PATIENCE_S:g} s")
                raise
            return None
        self._failing_since = None
        return checkpoint
