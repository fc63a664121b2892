"""The layouts that are remembered, so that equal saves are planned once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import fields

import numpy as np

from ckptd.engine.lanes.plan import PAGE_BYTES, plan
from ckptd.engine.layout import Layout
from ckptd.engine.manifest import Manifest
from ckptd.engine.settings import MAX_SHARDS
from ckptd.storage.base import Durability

_REMEMBERED = 4
_REMEMBERED_BYTES = 256 << 20  # of those before the latest

_Key = tuple[tuple[bytes, ...], frozenset[str], tuple[str, ...]]


class KnownLayouts:
    """The layouts of a run's latest saves, and the manifests of the latest: its next save names them. Thread-safe."""

    def __init__(self, durability: Durability, num_shards: int | None) -> None:
        """Begin empty.

        Args:
            durability: of the store: on a disk, shards are written in whole pages.
            num_shards: of each save; None means one per rank.
        """
        self._align_bytes = PAGE_BYTES if durability is Durability.LOCAL_DISK else 1
        self._num_shards = num_shards
        self._lock = threading.Lock()
        self._layouts: OrderedDict[_Key, Layout] = OrderedDict()  # the one that was used last at the end
        self._latest: tuple[Manifest, ...] = ()

    def of(
        self,
        manifests: tuple[Manifest, ...],
        from_lowest: frozenset[str] = frozenset(),
        hosts: tuple[str, ...] = (),
    ) -> Layout:
        """Plan, or return the plan of an equal save; `from_lowest` and `hosts` as for `plan`."""
        key = tuple(manifest.digest for manifest in manifests), from_lowest, hosts
        with self._lock:
            self._latest = manifests
            known = self._layouts.get(key)
            if known is not None:
                self._layouts.move_to_end(key)
                return known
        num_shards = self._num_shards or min(len(manifests), MAX_SHARDS)
        known = plan(manifests, num_shards, self._align_bytes, from_lowest, hosts)
        with self._lock:
            self._layouts[key] = known
            while len(self._layouts) > 1 and self._is_too_much():
                self._layouts.popitem(last=False)
        return known

    def _is_too_much(self) -> bool:
        *earlier, _ = self._layouts.values()
        return len(earlier) >= _REMEMBERED or sum(map(memory_bytes, earlier)) > _REMEMBERED_BYTES


def memory_bytes(layout: Layout) -> int:
    """Return about how much memory the columns of a layout take."""
    columns = (getattr(layout, each.name) for each in fields(layout))
    of_slices = sum(each.starts.nbytes + each.shapes.nbytes + each.entries.nbytes for each in layout.slices.values())
    return of_slices + sum(column.nbytes for column in columns if isinstance(column, np.ndarray))
