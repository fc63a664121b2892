"""Blocks that an agent gets before anyone waits for them: those of its own that its ranks say they will read.

All hosts that restore read in the same order, and each waits for the owners of the next blocks. If owners read the
store only when they are asked, those that own none of these do nothing meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable

from ckptd import threads
from ckptd.errors import CkptdError

_MOST_AT_ONCE = 8
_FEWEST_AT_ONCE = 2
_QUICK_S, _SLOW_S = 0.25, 0.75  # a block that takes longer has too many beside it, on its way from the store
_MOST_WAITING = 256


class ReadingAhead:
    """See the module. Any thread may use it."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Read nothing yet."""
        self._now = now
        self._lock = threading.Lock()
        self._waiting: OrderedDict[Hashable, Callable[[], object]] = OrderedDict()
        self._pool = threads.Pool(_MOST_AT_ONCE, "ckptd-ahead")
        self._num_busy, self._at_once = 0, _FEWEST_AT_ONCE

    def expect(self, blocks: Iterable[tuple[Hashable, Callable[[], object]]]) -> None:
        """Call the function of each block soon, in this order, unless it waits for that already."""
        wanted = list(blocks)  # finding them may take a call
        with self._lock:
            for block, load in wanted:
                if len(self._waiting) >= _MOST_WAITING:
                    break
                self._waiting.setdefault(block, load)
        self._begin()

    def _begin(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or self._num_busy >= self._at_once:
                    return
                _, load = self._waiting.popitem(last=False)
                self._num_busy += 1
            try:
                self._pool.submit(lambda load=load: self._run(load))  # type: ignore[misc]
            except RuntimeError:  # there is no thread: it is read when it is wanted
                with self._lock:
                    self._num_busy -= 1
                return

    def _run(self, load: Callable[[], object]) -> None:
        began = self._now()
        try:
            load()
        except CkptdError:
            pass  # who wants it meets the same error
        finally:
            took_s = self._now() - began
            with self._lock:
                self._num_busy -= 1
                if took_s > _SLOW_S:
                    self._at_once = max(_FEWEST_AT_ONCE, self._at_once - 1)
                elif took_s < _QUICK_S:
                    self._at_once = min(_MOST_AT_ONCE, self._at_once + 1)
        self._begin()
