"""How long another agent may say nothing while it is asked for something."""

from __future__ import annotations

import threading
from collections.abc import Callable

SILENT_S = 2.0
"""One that waits for its store says so."""


class Silence:
    """Calls something once nothing was heard for `SILENT_S`. Belongs to one thread."""

    def __init__(self, then: Callable[[], object]) -> None:
        self._then = then
        self._timer: threading.Timer | None = None
        self.is_over()

    def is_over(self) -> None:
        """Hear something."""
        self.end()
        self._timer = threading.Timer(SILENT_S, self._then)
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """Wait no more."""
        if self._timer is not None:
            self._timer.cancel()
