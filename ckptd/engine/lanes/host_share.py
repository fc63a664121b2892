"""What one host writes of a save that several hosts write: the rows of the layout that are of its shard. Pure.

They are a layout themselves, so a `FilledShard` fills the shard from them, with no knowledge of the rest. The checksums
that it takes, in the order of its rows, are what the whole layout needs for the index.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ckptd.engine.layout import Column, Layout
from ckptd.engine.replicas import NO_REPLICAS
from ckptd.errors import NotFoundError


@dataclass(frozen=True, slots=True)
class HostShare:
    """See the module.

    Attributes:
        shard: which shard.
        rows: which segments of the whole layout.
        layout: of that shard alone, under its number; the sizes of the others are 0 in it, and it has no slices, as
            only the index needs them.
        whole_digest: of the whole layout.
    """

    shard: int
    rows: slice
    layout: Layout
    whole_digest: bytes


def part_of(layout: Layout, host: str) -> HostShare:
    """Return what a host writes.

    Raises:
        NotFoundError: it writes nothing of this layout.
    """
    shard = layout.shard_of(host)
    if shard is None:
        raise NotFoundError(f"host {host!r} writes no shard of this save")
    rows = layout.rows_of(shard)
    begin, end = np.searchsorted(layout.entry_shard, [shard, shard + 1]).tolist()
    literals = tuple(literal for literal in layout.literals if literal.shard == shard)
    part = replace(_cut(layout, shard, rows, np.arange(begin, end)), literals=literals)
    return HostShare(shard, rows, part, layout.digest)


def passed_on(layout: Layout, ranks: Collection[int], host: str) -> Iterator[tuple[int, Layout]]:
    """Yield each shard of another host that these ranks of a host have bytes for, and which: a layout of these alone.

    Only tensors that are stored whole cross hosts so.
    """
    for shard in sorted({shard for rank in ranks for shard in layout.shards_of.get(rank, ())}):
        if layout.host_of(shard) != host:
            segments = np.concatenate(
                [layout.lane_segments[rank, shard] for rank in ranks if (rank, shard) in layout.lane_segments]
            )
            segments.sort()
            yield shard, _cut(layout, shard, segments, np.unique(layout.segment_entry[segments]))


def _cut(layout: Layout, shard: int, rows: slice | Column, entries: Column) -> Layout:
    """Return these segments of one shard, and their entries, as a layout; entries are ascending."""
    tensors, entry_tensor = np.unique(layout.entry_tensor[entries], return_inverse=True)
    return Layout(
        names=tuple(layout.names[tensor] for tensor in tensors.tolist()),
        dtypes=tuple(layout.dtypes[tensor] for tensor in tensors.tolist()),
        full_shapes=tuple(layout.full_shapes[tensor] for tensor in tensors.tolist()),
        shard_sizes=tuple(size if each == shard else 0 for each, size in enumerate(layout.shard_sizes)),
        entry_tensor=entry_tensor,
        entry_shard=layout.entry_shard[entries],
        entry_offset=layout.entry_offset[entries],
        entry_size=layout.entry_size[entries],
        entry_lengths_crc=layout.entry_lengths_crc[entries],
        slices={},
        segment_entry=np.searchsorted(entries, layout.segment_entry[rows]),
        segment_rank=layout.segment_rank[rows],
        segment_item=layout.segment_item[rows],
        segment_item_offset=layout.segment_item_offset[rows],
        segment_size=layout.segment_size[rows],
        segment_offset=layout.segment_offset[rows],
        segment_is_lengths=layout.segment_is_lengths[rows],
        literals=(),
        replicas=NO_REPLICAS,
    )


def crossing_bytes(layout: Layout, host_of_rank: Sequence[str]) -> int:
    """Return how many bytes go from a rank of one host to the shard of another."""
    numbers = {host: number for number, host in enumerate(dict.fromkeys((*host_of_rank, *layout.shard_hosts)))}
    of_rank = np.array([numbers[host] for host in host_of_rank], np.int64)
    of_shard = np.array([numbers[host] for host in layout.shard_hosts], np.int64)
    crosses = of_rank[layout.segment_rank] != of_shard[layout.segment_shard]
    return int(layout.segment_size[crosses].sum())
