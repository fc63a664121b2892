"""The places that ranks have by the agents of their hosts: who has them, and which did not come back.

A later life of a host's agent gets its ranks' places again as they connect to it; those that do not connect to it
within a lease have lost their connection.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ckptd.engine.hosts.messages import AgentLife
from ckptd.engine.identity import Member, RunOptions
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.errors import CkptdError

PlaceKey = tuple[str, str, int]
"""A host, a run and a rank."""


@dataclass(frozen=True, slots=True)
class _Placed:
    member: Member
    epoch: int
    by: str  # the life of the agent


class HostPlaces:
    """See the module. Thread-safe."""

    def __init__(self, coordinator: Coordinator, present: Callable[[str], AgentLife | None]) -> None:
        """Begin without places; `present` returns the present life of a host's agent, and must not block."""
        self._coordinator, self._present = coordinator, present
        self._lock = threading.Lock()
        self._placed: dict[PlaceKey, _Placed] = {}

    def place(self, host: str, run: str, member: Member, options: RunOptions) -> int:
        """Give a rank of a host its place; return the epoch."""
        epoch = self._coordinator.join(run, member, options)
        life = self._present(host)
        with self._lock:
            self._placed[host, run, member.rank] = _Placed(member, epoch, "" if life is None else life.incarnation)
        return epoch

    def ranks_of(self, host: str, run: str) -> tuple[list[int], int]:
        """Return the ranks of a run that have places by a host's agent, and how many have on all hosts."""
        with self._lock:
            ours = [(each, rank) for each, name, rank in self._placed if name == run]
        return sorted(rank for each, rank in ours if each == host), len(ours)

    def depart(self, host: str, run: str, member: Member, epoch: int, *, for_good: bool) -> None:
        """Hear that a rank has gone."""
        with self._lock:
            self._placed.pop((host, run, member.rank), None)
        leave = self._coordinator.leave if for_good else self._coordinator.disconnect
        leave(run, member, epoch)

    def of_host(self, host: str) -> list[PlaceKey]:
        """Return the places of a host."""
        with self._lock:
            return [key for key in self._placed if key[0] == host]

    def not_back(self, is_late: Callable[[str], bool]) -> list[PlaceKey]:
        """Return the places by former lives of agents whose present life `is_late` with them."""
        with self._lock:
            placed = [(key, each.by) for key, each in self._placed.items()]
        return [
            key
            for key, by in placed
            if (life := self._present(key[0])) is not None and life.incarnation != by and is_late(key[0])
        ]

    def disconnect(self, keys: Sequence[PlaceKey]) -> None:
        """Note that ranks are connected no more."""
        for key in keys:
            with self._lock:
                placed = self._placed.pop(key, None)
            if placed is not None:
                with suppress(CkptdError):
                    self._coordinator.disconnect(key[1], placed.member, placed.epoch)
