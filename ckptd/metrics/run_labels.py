"""Which runs have series of their own: clients name runs, and there may be any number of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection

MOST_RUNS = 200
OTHER = "_other"
"""The label of the runs beyond, and of a run that has this name."""


class RunLabels:
    """See the module. The run that was quiet for longest gives way, unless it is in use. Any thread may use it."""

    def __init__(self, forget: Callable[[str], None], begin: Callable[[str], None], most: int = MOST_RUNS) -> None:
        """`begin` makes the series of a label, `forget` removes them."""
        self._begin, self._forget, self._most = begin, forget, most
        self._lock = threading.Lock()
        self._known: OrderedDict[str, None] = OrderedDict()
        self._in_use: frozenset[str] = frozenset()
        begin(OTHER)

    def label(self, run: str) -> str:
        """Return the label of a run."""
        if run == OTHER:
            return OTHER
        with self._lock:
            if run in self._known:
                self._known.move_to_end(run)
                return run
            if len(self._known) >= self._most:
                quiet = next((each for each in self._known if each not in self._in_use), None)
                if quiet is None:
                    return OTHER
                del self._known[quiet]
                self._forget(quiet)
            self._known[run] = None
            self._begin(run)
            return run

    def has(self, run: str) -> bool:
        """Say whether a run has series of its own."""
        with self._lock:
            return run in self._known

    def use(self, runs: Collection[str]) -> None:
        """Note which runs are in use now."""
        with self._lock:
            self._in_use = frozenset(runs)
