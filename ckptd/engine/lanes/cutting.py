"""Where the entries of a layout go: to which shard, and to which byte of it. Pure.

On one host all shards have about equal bytes. Where several hosts write, shards end at their borders: each host that
has bytes fills one shard, from the memory of its own ranks. Only a tensor that has to be stored whole, as TensorFlow
cannot join slices of its dtype, crosses hosts if ranks of several hold it: one of them takes it, the one with least to
write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ckptd.engine.layout import Column

_LONG_BYTES = 256 << 10  # fewer bytes of a sender are not worth a gap


@dataclass(frozen=True, eq=False, slots=True)
class Hosts:
    """Which host each rank is on, by numbers: hosts are numbered in the order of their lowest ranks.

    `here` is the number of "", where ranks are that have no agent; -1 if there are none.
    """

    names: tuple[str, ...]
    of_rank: Column
    here: int

    @classmethod
    def of(cls, host_of_rank: Sequence[str]) -> Hosts:
        """Number the hosts of these ranks."""
        numbers = {name: number for number, name in enumerate(dict.fromkeys(host_of_rank))}
        of_rank = np.array([numbers[name] for name in host_of_rank], np.int64)
        return cls(tuple(numbers), of_rank, numbers.get("", -1))


def choose_hosts(entry: Column, hosts: Column, sizes: Column, here: int = -1) -> Column:
    """Return the host that writes each entry: the one that its parts are on, or the one of these with least to write.

    The largest entry first, as that evens out best. Ranks without an agent reach only the coordinator, so what they
    have a part of is written `here`.

    Args:
        entry: per part, of which entry it is; ascending from 0, without gaps.
        hosts: per part, the host that it is on.
        sizes: per part, bytes.
    """
    begins = np.flatnonzero(np.diff(entry, prepend=-1))
    chosen, entry_sizes = hosts[begins].copy(), np.add.reduceat(sizes, begins)
    crosses = np.minimum.reduceat(hosts, begins) != np.maximum.reduceat(hosts, begins)
    load = np.zeros(int(hosts.max()) + 1, np.int64)
    np.add.at(load, chosen[~crosses], entry_sizes[~crosses])
    ends = np.append(begins[1:], len(entry))
    for each in sorted(np.flatnonzero(crosses).tolist(), key=lambda each: (-int(entry_sizes[each]), each)):
        candidates = np.unique(hosts[begins[each] : ends[each]])
        chosen[each] = here if here in candidates else candidates[load[candidates].argmin()]
        load[chosen[each]] += entry_sizes[each]
    return chosen


def cut_by_bytes(sizes: Column, wanted_shards: int) -> Column:
    """Give each entry a shard so that all have about the same bytes; every shard from 0 on has an entry."""
    total = int(sizes.sum())
    middles = np.cumsum(sizes) - sizes // 2
    shard = np.minimum(middles * wanted_shards // max(total, 1), wanted_shards - 1)
    return np.cumsum(np.diff(shard, prepend=shard[0]) > 0)


def cut_by_host(sizes: Column, hosts: Column) -> tuple[Column, Column]:
    """Give each entry the shard of its host; also return the host of each shard. Entries come host by host.

    An entry without bytes is no reason for a shard: it goes with those before it.
    """
    has_bytes = sizes > 0
    if not has_bytes.any():
        return np.zeros(len(sizes), np.int64), hosts[:1]
    row = np.maximum.accumulate(np.where(has_bytes, np.arange(len(sizes)), -1))
    host = hosts[np.where(row < 0, has_bytes.argmax(), row)]
    return np.cumsum(np.diff(host, prepend=host[0]) > 0), host[np.diff(host, prepend=-1) > 0]


def place(sizes: Column, shards: Column, senders: Column, align_bytes: int) -> tuple[Column, tuple[int, ...]]:
    """Return where each entry begins in its shard, and how long the shards are. Entries come shard by shard."""
    position = np.cumsum(sizes) - sizes
    begins = np.flatnonzero((np.diff(shards, prepend=-1) != 0) | (np.diff(senders, prepend=-1) != 0))
    ends = np.append(begins[1:], len(sizes))
    moved = np.empty(len(begins), np.int64)  # per run of one sender in one shard: how far its entries move
    shard_sizes: list[int] = []
    shard = -1
    for number, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        size = int(position[end - 1] + sizes[end - 1] - position[begin])
        if shards[begin] != shard:
            shard = int(shards[begin])
            shard_sizes.append(0)
        at = shard_sizes[-1]
        if size >= _LONG_BYTES:
            at = -(-at // align_bytes) * align_bytes
        moved[number] = at - position[begin]
        shard_sizes[-1] = at + size
    return position + np.repeat(moved, ends - begins), tuple(shard_sizes)
