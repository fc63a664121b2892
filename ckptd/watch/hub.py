"""Notify many watchers of newer checkpoints, each at its own pace.

A watcher owns a mailbox with room for one: the newest checkpoint that it has not taken yet. Publishing replaces what
is there, so a slow watcher skips straight to the newest, never blocks anything, and costs the same whatever it
misses. What is taken out only ever goes forward, in the order in which checkpoints were published.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from ckptd.engine.catalog.survey import AllInQuarantineError
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.series import name_of
from ckptd.format.names import ANY_NAME
from ckptd.watch.news import is_same

OnPublished = Callable[[Checkpoint], None]
Subscribe = Callable[[str, OnPublished], Callable[[], None]]
Latest = Callable[..., Checkpoint | None]
"""Called with a run, and with a name where one is wanted."""


class Watcher:
    """One mailbox. `take` and `close` belong to one owner; the rest may come from any thread."""

    def __init__(
        self, wake: Callable[[], None], wants: Callable[[Checkpoint], bool], *, after_save_id: str = ""
    ) -> None:
        self._wake = wake
        self._wants = wants
        self._lock = threading.Lock()
        self._known_save_id = after_save_id
        self._waiting: Checkpoint | None = None
        self._last: Checkpoint | None = None
        self._heard, self._news_since = False, 0.0
        self._leave: Callable[[], None] = lambda: None

    def take(self) -> Checkpoint | None:
        """Return the newest checkpoint that was not taken yet, None when there is nothing new."""
        with self._lock:
            checkpoint, self._waiting = self._waiting, None
            return checkpoint

    @property
    def news_since(self) -> float:
        """When it was last told of something newer, by `time.monotonic`."""
        return self._news_since

    @property
    def has_heard(self) -> bool:
        """Whether anything was published since it was made: otherwise `take` returns what existed before."""
        return self._heard

    def close(self) -> None:
        """Receive nothing more. Harmless when repeated."""
        leave, self._leave = self._leave, lambda: None
        leave()

    def _put(self, checkpoint: Checkpoint) -> None:
        """Store what was just published."""
        if not self._wants(checkpoint):
            return
        with self._lock:
            self._heard = True
            is_news = self._accept(checkpoint)
        if is_news:
            self._wake()

    def _start_with(self, latest: Checkpoint) -> None:
        """Store what was the latest when the watcher came, unless something newer has been published since."""
        with self._lock:
            is_news = not self._heard and self._accept(latest)
        if is_news:
            self._wake()

    def _accept(self, checkpoint: Checkpoint) -> bool:
        # The order of publishing decides what is newer: clocks may be set back, and steps trained again.
        if checkpoint.save_id and checkpoint.save_id == self._known_save_id:
            return False
        if self._last is not None and is_same(checkpoint, self._last):
            return False
        self._last = self._waiting = checkpoint
        self._news_since = time.monotonic()
        return True


class Hub:
    """Makes watchers. Safe from any thread."""

    def __init__(
        self, subscribe: Subscribe, latest: Latest, quarantine_of: Callable[[str, str], str] = lambda run, save_id: ""
    ) -> None:
        """`quarantine_of` returns why the save of a run is in quarantine, "" when it is not."""
        self._quarantine_of = quarantine_of
        self._subscribe = subscribe
        self._latest = latest
        self._lock = threading.Lock()
        self._watchers: set[Watcher] = set()

    def watch(self, run: str, wake: Callable[[], None], *, after_save_id: str = "", name: str = ANY_NAME) -> Watcher:
        """Return a mailbox that starts with the latest checkpoint of `run` that `name` means, if that is news.

        `wake` is called from any thread whenever there is something to take, and must not block. `after_save_id`: the
        save that the caller knows already. Blocks while it reads the store. Close the watcher when done.
        """

        def wants(checkpoint: Checkpoint) -> bool:
            if name in (ANY_NAME, name_of(checkpoint)):
                return True
            try:
                latest = self._latest(run, name)  # quick: the engine remembers
            except AllInQuarantineError:
                return False
            return latest is not None and is_same(latest, checkpoint)

        watcher = Watcher(wake, wants, after_save_id=after_save_id)
        # First subscribe, then read: a checkpoint published in between is received, and what was read is ignored.
        unsubscribe = self._subscribe(run, watcher._put)
        with self._lock:
            self._watchers.add(watcher)
        watcher._leave = lambda: self._forget(watcher, unsubscribe)
        try:
            latest = self._latest(run) if name == ANY_NAME else self._latest(run, name)
        except AllInQuarantineError:
            latest = None  # there is nothing to follow yet
        except BaseException:
            watcher.close()
            raise
        if latest is not None:
            # A watcher that was away while its newest one was found damaged would wait for a newer one.
            reason = self._quarantine_of(run, after_save_id) if after_save_id else ""
            watcher._start_with(replace(latest, rolled_back=reason) if reason else latest)
        return watcher

    @property
    def num_watchers(self) -> int:
        """How many watchers there are, over all runs."""
        with self._lock:
            return len(self._watchers)

    def _forget(self, watcher: Watcher, unsubscribe: Callable[[], None]) -> None:
        unsubscribe()
        with self._lock:
            self._watchers.discard(watcher)
