"""The places that ranks have by the agents of their hosts: who has them, and which did not come back.

A later life of a host's agent gets its ranks' places again as they connect to it; those that do not connect to it
within a lease have lost their connection.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

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


@dataclass(slots=True)
class _Host:
    places: dict[tuple[str, int], _Placed] = field(default_factory=dict)  # by run and rank
    lives: Counter[str] = field(default_factory=Counter)  # how many of them by each life of the agent
    runs: Counter[str] = field(default_factory=Counter)  # how many of them in each run
    present: str = ""  # the life that attended last

    @property
    def has_others(self) -> bool:
        """Whether it has places by other lives than the one that attended last."""
        return any(life != self.present for life in self.lives)

    def put(self, place: tuple[str, int], placed: _Placed) -> None:
        """Note a place."""
        self.take(place)
        self.places[place] = placed
        self.lives[placed.by] += 1
        self.runs[place[0]] += 1

    def take(self, place: tuple[str, int]) -> _Placed | None:
        """Forget a place; return it."""
        placed = self.places.pop(place, None)
        if placed is not None:
            self.lives[placed.by] -= 1
            if not self.lives[placed.by]:
                del self.lives[placed.by]
            self.runs[place[0]] -= 1
            if not self.runs[place[0]]:
                del self.runs[place[0]]
        return placed


class HostPlaces:
    """See the module. Thread-safe. What it costs does not grow with the hosts."""

    def __init__(self, coordinator: Coordinator, present: Callable[[str], AgentLife | None]) -> None:
        """Begin without places; `present` returns the present life of a host's agent, and must not block."""
        self._coordinator, self._present = coordinator, present
        self._lock = threading.Lock()
        self._changing: dict[str, threading.Lock] = {}  # by host: held while the places of its ranks change
        self._hosts: dict[str, _Host] = {}
        self._changed: set[str] = set()  # hosts with places by other lives than the present one

    def attended(self, life: AgentLife) -> None:
        """Note which life of a host's agent is the present one."""
        with self._lock:
            self._hosts.setdefault(life.host, _Host()).present = life.incarnation
            self._look_at(life.host)

    def _look_at(self, host: str) -> None:
        if self._hosts[host].has_others:
            self._changed.add(host)
        else:
            self._changed.discard(host)

    def place(self, host: str, run: str, member: Member, options: RunOptions) -> int:
        """Give a rank of a host its place; return the epoch."""
        with self._changes(host):
            member = replace(member, agent=host)
            epoch = self._coordinator.join(run, member, options)
            life = self._present(host)
            placed = _Placed(member, epoch, "" if life is None else life.incarnation)
            with self._lock:
                self._hosts.setdefault(host, _Host()).put((run, member.rank), placed)
                self._look_at(host)
        return epoch

    def _changes(self, host: str) -> threading.Lock:
        with self._lock:
            return self._changing.setdefault(host, threading.Lock())

    def epochs_of(self, host: str, run: str, members: Sequence[Member]) -> list[int | None]:
        """Return the epoch of each rank's place by the present life of its host's agent; None without one."""
        life = self._present(host)
        with self._lock:
            places = self._hosts[host].places if host in self._hosts else {}
            held = [places.get((run, member.rank)) for member in members]
        if life is None:
            return [None] * len(members)
        return [
            placed.epoch if placed is not None and placed.by == life.incarnation and placed.member == member else None
            for placed, member in zip(held, members, strict=True)
        ]

    def all(self) -> dict[str, dict[str, list[int]]]:
        """Return the ranks that have places, ascending, by host and run."""
        with self._lock:
            placed = sorted((host, *place) for host, each in self._hosts.items() for place in each.places)
        found: dict[str, dict[str, list[int]]] = {}
        for host, run, rank in placed:
            found.setdefault(host, {}).setdefault(run, []).append(rank)
        return found

    def runs(self) -> dict[str, tuple[str, ...]]:
        """Return the runs in which ranks of each host have places."""
        with self._lock:
            return {host: tuple(each.runs) for host, each in self._hosts.items() if each.runs}

    def depart(self, host: str, run: str, member: Member, epoch: int, *, for_good: bool) -> None:
        """Hear that a rank has gone."""
        with self._changes(host):
            placed = self._placed((host, run, member.rank))
            if placed is not None and placed.member.incarnation == member.incarnation:
                self._take((host, run, member.rank))
                member, epoch = placed.member, placed.epoch  # the agent may know that of a former coordinator
            leave = self._coordinator.leave if for_good else self._coordinator.disconnect
            leave(run, member, epoch)

    def host_lost(self, host: str, lost_s: Callable[[], float | None]) -> None:
        """Note that a host's ranks have lost their connections, unless their agent is back.

        `lost_s` returns for how long the agent is gone, None if it is back; it must not block.
        """
        with self._changes(host):
            silent_s = lost_s()
            with self._lock:
                found = self._hosts.get(host)
                ours = [] if found is None else [(host, *place) for place in found.places]
            if silent_s is not None:
                self._disconnect(ours, silent_s)

    def not_back(self, is_late: Callable[[str], bool]) -> list[PlaceKey]:
        """Return the places by former lives of agents whose present life `is_late` with them."""
        with self._lock:
            lives = [(host, tuple(self._hosts[host].lives)) for host in sorted(self._changed)]
        late: list[PlaceKey] = []
        for host, by in lives:
            life = self._present(host)
            if life is not None and by not in ((), (life.incarnation,)) and is_late(host):
                late += self._by_others(host, life)
        return late

    def _by_others(self, host: str, life: AgentLife) -> list[PlaceKey]:
        with self._lock:
            places = self._hosts[host].places.items()
            return [(host, *place) for place, each in places if each.by != life.incarnation]

    def disconnect_late(self, is_late: Callable[[str], bool], since_s: Callable[[str], float]) -> None:
        """Note that ranks are connected no more whose agent `is_late` with them.

        Their connections broke with the former life of their agent, so at the latest when the present one attended,
        `since_s` seconds ago: a rank that replaces one of them does not wait for a second lease.
        """
        for host in {key[0] for key in self.not_back(is_late)}:
            with self._changes(host):
                self._disconnect([key for key in self.not_back(is_late) if key[0] == host], since_s(host))

    def _disconnect(self, keys: Sequence[PlaceKey], silent_s: float) -> None:
        for key in keys:
            placed = self._take(key)
            if placed is not None:
                with suppress(CkptdError):
                    self._coordinator.disconnect(key[1], placed.member, placed.epoch, silent_s)

    def _placed(self, key: PlaceKey) -> _Placed | None:
        host, run, rank = key
        with self._lock:
            found = self._hosts.get(host)
            return None if found is None else found.places.get((run, rank))

    def _take(self, key: PlaceKey) -> _Placed | None:
        host, run, rank = key
        with self._lock:
            found = self._hosts.get(host)
            taken = None if found is None else found.take((run, rank))
            if taken is not None:
                self._look_at(host)
            return taken
