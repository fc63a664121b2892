"""Where each part goes in the memory that it is captured into: as it will lie in the shards, if that is known.

Then a shard is written straight from there. Before the first plan is known, parts lie in the order of the manifest,
which is what a plan makes of them as long as ranks bring different parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ckptd.engine.lanes.plan import PAGE_BYTES
from ckptd.engine.layout import Column, Lane, Rows
from ckptd.engine.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Placement:
    """Offsets of all parts, and how much memory they take. In bytes.

    `staged` lists the parts that are in their place already.
    """

    offsets: Column
    size_bytes: int
    staged: Column

    @property
    def is_staged(self) -> bool:
        """Whether there are such parts."""
        return len(self.staged) > 0


def place(
    manifest: Manifest, lanes: Sequence[Lane] = (), staged: Mapping[int, int] | None = None, used_bytes: int = 0
) -> Placement:
    """Place the parts of `manifest`; those of `lanes`, planned for an equal manifest, as they lie in their shards.

    `staged` are offsets of parts that lie in the first `used_bytes` already.
    """
    offsets = np.full(manifest.num_parts, -1, np.int64)
    rows = np.fromiter(staged or (), np.int64)
    offsets[rows] = list((staged or {}).values())
    at = used_bytes
    for lane in lanes:
        _, first = np.unique(lane.items, return_index=True)
        missing = lane.items[np.sort(first)]
        missing = missing[offsets[missing] < 0]
        if len(missing):
            at = -(-at // PAGE_BYTES) * PAGE_BYTES
            at = _put(offsets, missing, manifest.sizes, at)
    rest = np.flatnonzero(offsets < 0)
    return Placement(offsets, _put(offsets, rest, manifest.sizes, at), np.sort(rows))


def _put(offsets: Column, rows: Rows, sizes: Column, at: int) -> int:
    ends = np.cumsum(sizes[rows])
    offsets[rows] = at + ends - sizes[rows]
    return at + (int(ends[-1]) if len(ends) else 0)
