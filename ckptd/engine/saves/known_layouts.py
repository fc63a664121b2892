"""The layouts that are remembered, so that equal saves are planned once."""

from __future__ import annotations

import threading
from collections import OrderedDict

from ckptd.engine.lanes.plan import PAGE_BYTES, plan
from ckptd.engine.layout import Layout
from ckptd.engine.manifest import Manifest
from ckptd.engine.settings import MAX_SHARDS
from ckptd.storage.base import Durability

_REMEMBERED = 4

_Key = tuple[tuple[bytes, ...], frozenset[str], tuple[str, ...]]


class KnownLayouts:
    """The layouts of a run's latest saves. Thread-safe."""

    def __init__(self, durability: Durability, num_shards: int | None) -> None:
        """Begin empty.

        Args:
            durability: of the store: on a disk, shards are written in whole pages.
            num_shards: of each save; None means one per rank.
        """
        self._align_bytes = PAGE_BYTES if durability is Durability.LOCAL_DISK else 1
        self._num_shards = num_shards
        self._lock = threading.Lock()
        self._layouts: OrderedDict[_Key, Layout] = OrderedDict()

    def of(
        self,
        manifests: tuple[Manifest, ...],
        from_lowest: frozenset[str] = frozenset(),
        hosts: tuple[str, ...] = (),
    ) -> Layout:
        """Plan, or return the plan of an equal save; `from_lowest` and `hosts` as for `plan`."""
        key = tuple(manifest.digest for manifest in manifests), from_lowest, hosts
        with self._lock:
            known = self._layouts.get(key)
        if known is None:
            num_shards = self._num_shards or min(len(manifests), MAX_SHARDS)
            known = plan(manifests, num_shards, self._align_bytes, from_lowest, hosts)
            with self._lock:
                self._layouts[key] = known
                while len(self._layouts) > _REMEMBERED:
                    self._layouts.popitem(last=False)
        return known
