"""What hosts have in memory of published saves, for restores: as each agent says, and as its coordinator knows it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

MOST_SAVES = 64
"""Of one host, in one message."""

NEWEST = 2
"""Saves of one run that are known to be in memory."""

MOST_SHARDS = 1024
"""Of one save, on one host."""


@dataclass(frozen=True, slots=True)
class InMemory:
    """What one host has in memory of one save.

    Attributes:
        run: of the save.
        save: its id.
        shards: how many bytes of which shards.
    """

    run: str
    save: str
    shards: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Where:
    """Which hosts have parts of a checkpoint in memory.

    Attributes:
        save: the id of the save that it is of; "" when nobody has any of it.
        holders: by host, how many bytes of which shards.
    """

    save: str
    holders: Mapping[str, Mapping[int, int]]

    def holders_of(self, shard: int) -> list[str]:
        """Return the hosts that have bytes of a shard, those that have most first."""
        found = [(-shards[shard], host) for host, shards in self.holders.items() if shards.get(shard)]
        return [host for _, host in sorted(found)]


class LentMemory(Protocol):
    """Memory that the ranks of a host captured into, and what of it may be restored."""

    @property
    def changes(self) -> int:
        """Rises whenever what it holds may have changed."""

    def held_shards(self) -> Sequence[tuple[str, str, Mapping[str, int]]]:
        """Return run, save and how many bytes of which data files are held, oldest save first."""

    def read_held(self, run: str, save_id: str, shard_key: str, offset: int, into: memoryview) -> list[tuple[int, int]]:
        """Fill `into` with bytes of a data file from `offset` on; return begin and end, in it, of what is not held."""

    def drop(self, run: str, save_ids: Collection[str]) -> None:
        """End the offers of saves, also for readers that got them before."""


@runtime_checkable
class OffersMemory(Protocol):
    """An engine that offers to other hosts what is in memory of its own."""

    def lends(self, memory: LentMemory) -> None:
        """Hear which memory is lent to the ranks of this host."""


class Memories:
    """What a coordinator knows of the memory of hosts. Not thread-safe."""

    def __init__(self) -> None:
        """Know of none."""
        self._held: dict[str, dict[str, Mapping[int, int]]] = {}  # by host and save

    def note(self, host: str, saves: Iterable[InMemory]) -> None:
        """Hear what a host has in memory: all of it."""
        self._held[host] = {each.save: each.shards for each in saves}
        if not self._held[host]:
            del self._held[host]

    def forget(self, host: str) -> None:
        """Hear that nothing is known of a host's memory any more."""
        self._held.pop(host, None)

    def where(self, save: str, hosts: Iterable[str]) -> Where:
        """Return which of these hosts have parts of a save."""
        known = {host: self._held[host] for host in hosts if host in self._held}
        holders = {host: saves[save] for host, saves in known.items() if save in saves}
        return Where(save if holders else "", holders)
