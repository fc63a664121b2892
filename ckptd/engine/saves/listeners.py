"""Listeners for each new checkpoint of a run, called in the order of publication."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.log import logger

OnPublished = Callable[[Checkpoint], None]


class Listeners:
    """Safe from any thread."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._listeners: list[OnPublished] = []
        self._telling = threading.Lock()
        self._num_told = 0  # the last publication that they know, guarded by `_telling`

    def add(self, on_published: OnPublished) -> Callable[[], None]:
        """Call `on_published`, which must not block, for each checkpoint; return a function that ends that."""
        self._listeners.append(on_published)

        def remove() -> None:
            if on_published in self._listeners:
                self._listeners.remove(on_published)

        return remove

    @property
    def is_empty(self) -> bool:
        """Whether nothing listens."""
        return not self._listeners

    def tell(self, checkpoint: Checkpoint, number: int) -> None:
        """Notify all of publication `number`; one that a newer notification has overtaken does nothing."""
        with self._telling:
            if number <= self._num_told:
                return
            self._num_told = number
            self._tell_all(checkpoint)

    def tell_again(self, checkpoint: Checkpoint) -> None:
        """Notify all that the newest one that they know is damaged, and which earlier one is to be used."""
        with self._telling:
            self._tell_all(checkpoint)

    def _tell_all(self, checkpoint: Checkpoint) -> None:
        for on_published in list(self._listeners):
            try:
                on_published(checkpoint)
            except Exception:
                logger.exception("a watcher of %s failed", self._run)
