"""The ranks that have sent all that a save wants of them, and are about to ask how it has ended.

A daemon that ends publishes such a save, and would be gone before they ask: they would wait for its next life.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from ckptd.engine.identity import SaveRef

_SOON_S = 2.0  # a rank asks at once; one that does not is gone, or sends more first
_LOOK_S = 0.02


class LastWords:
    """See the module. Belongs to one event loop."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Expect nothing yet."""
        self._now = now
        self._sent: OrderedDict[tuple[str, int], float] = OrderedDict()  # since when; the oldest first

    def sent(self, save: SaveRef) -> None:
        """Hear that `save.rank` has sent a lane of it, or has nothing to send."""
        self._sent.pop(place := (save.save_id, save.rank), None)
        self._sent[place] = self._now()
        self._forget_old()

    def asked(self, save: SaveRef) -> None:
        """Hear that it asks: its call is answered, whatever ends."""
        self._sent.pop((save.save_id, save.rank), None)

    async def settle(self) -> None:
        """Wait until all of them have asked; for those that do not, two seconds from when they were heard."""
        while self._sent:
            self._forget_old()
            await asyncio.sleep(_LOOK_S)

    def _forget_old(self) -> None:
        while self._sent and next(iter(self._sent.values())) < self._now() - _SOON_S:
            self._sent.popitem(last=False)
