"""Counts the calls of `save` for each step: by that a coordinator tells those of one call from what is left of another.

Every rank calls `save` for the same steps, and again for a step that was not saved. So the same number on all ranks is
the same call.
"""

from __future__ import annotations

from collections import OrderedDict

_MOST = 64  # steps, remembered


class CallCount:
    """See the module. One thread at a time calls it."""

    def __init__(self) -> None:
        """Begin without calls."""
        self._counts: OrderedDict[tuple[str, int | None], int] = OrderedDict()

    def next(self, name: str, step: int | None) -> int:
        """Return which call of `save` for a step this is, from 1."""
        count = self._counts.pop((name, step), 0) + 1
        self._counts[name, step] = count
        if len(self._counts) > _MOST:
            self._counts.popitem(last=False)
        return count
