"""Declarations that ranks took back: a rank gave its save up, by Ctrl-C or for want of memory, before all had declared.

It may save the same step again right after, and other ranks that come meanwhile cannot know of either. So they are not
told at once: what they begin waits a moment for that rank, and ends, naming it, when it does not come.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

GRACE_S = 5.0
"""How long others wait for a rank to save again what it has given up."""

_MOST = 1024  # of each kind, remembered


@dataclass(slots=True)
class _Withdrawn:
    """What a rank has given up, and why; `is_final` once it has gone on to another save."""

    rank: int
    prefix: str
    reason: str
    at: float
    is_final: bool = False


class Withdrawals:
    """The withdrawals of one run. Its lock is held in each call. Times are of the forward-only clock."""

    def __init__(self) -> None:
        self._requests: OrderedDict[str, str] = OrderedDict()  # ids, and why they were taken back
        self._alone: OrderedDict[tuple[int, str, int], int] = OrderedDict()  # by the same: how often by that rank alone
        self._withdrawn: OrderedDict[tuple[int, str, int], _Withdrawn] = OrderedDict()  # by epoch, prefix and rank

    def reason(self, request_id: str) -> str | None:
        """Return why a declaration was taken back, which may be before it arrives; None if it was not."""
        return self._requests.get(request_id)

    def add(self, request_id: str, reason: str) -> bool:
        """Note that a declaration is taken back; return whether that is new."""
        if request_id in self._requests:
            return False
        self._requests[request_id] = reason
        if len(self._requests) > _MOST:
            self._requests.popitem(last=False)
        return True

    def expect(self, epoch: int, prefix: str, rank: int, reason: str, now: float) -> None:
        """Note that other ranks have to be told, unless the rank declares this checkpoint again soon."""
        key = (epoch, prefix, rank)
        self._alone[key] = self._alone.pop(key, 0) + 1
        if len(self._alone) > _MOST:
            self._alone.popitem(last=False)
        self._withdrawn.pop(key, None)
        self._withdrawn[key] = _Withdrawn(rank, prefix, reason, now)
        if len(self._withdrawn) > _MOST:
            self._withdrawn.popitem(last=False)

    def alone(self, epoch: int, prefix: str, rank: int) -> int:
        """Return how many calls of `save` a rank has given up that no other rank has made."""
        return self._alone.get((epoch, prefix, rank), 0)

    def declared(self, epoch: int, prefix: str, rank: int) -> None:
        """Note that a rank declares: a new attempt for all if it had given this one up, else the end of its others."""
        if not self._withdrawn:
            return
        if (epoch, prefix, rank) in self._withdrawn:
            for key in [key for key in self._withdrawn if key[:2] == (epoch, prefix)]:
                del self._withdrawn[key]
        for each in self._withdrawn.values():
            if each.rank == rank and each.prefix != prefix:
                each.is_final = True

    def missed(self, epoch: int, prefix: str, missing: Iterable[int], began_at: float, now: float) -> dict[int, str]:
        """Return which of the ranks that a save still waits for will not come, and why they gave up."""
        if not self._withdrawn:
            return {}
        found = {rank: self._withdrawn.get((epoch, prefix, rank)) for rank in missing}
        return {
            rank: each.reason
            for rank, each in found.items()
            if each is not None and (each.is_final or now - max(each.at, began_at) >= GRACE_S)
        }
