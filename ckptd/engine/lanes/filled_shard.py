"""A shard that this process fills: a writer of the store, and a lane for each rank that has bytes for it.

The coordinator fills a save's shards so, and an agent the shard of its host: that is why it only needs the rows of the
layout that are of this shard.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.lanes.lane_writer import LaneWriter
from ckptd.engine.lanes.shard import Debt
from ckptd.engine.layout import Layout
from ckptd.errors import CkptdError
from ckptd.storage.base import ObjectWriter


class FilledShard:
    """See the module, and `Shard` for the attributes."""

    def __init__(
        self,
        layout: Layout,
        shard: int,
        writer: ObjectWriter,
        *,
        now: Callable[[], float],
        on_end: Callable[[int, int], None],
        on_failure: Callable[[CkptdError], None],
    ) -> None:
        """Begin with nothing received.

        Args:
            layout: of the save, or the rows of this shard.
            shard: its number.
            writer: of its object; aborted and finished here.
            now: seconds on a forward-only clock.
            on_end: called with rank and shard when a lane has ended.
            on_failure: called with what makes the whole save impossible.
        """
        self.key = writer.key
        self.rows = layout.rows_of(shard)
        self.finishes_at_once = False
        self.lanes: Mapping[int, LaneWriter] = {
            rank: LaneWriter(
                layout, rank, shard, writer, now=now, on_end=partial(on_end, rank, shard), on_failure=on_failure
            )
            for rank in layout.senders_of.get(shard, ())
        }
        self._literals = [literal for literal in layout.literals if literal.shard == shard]
        self._writer, self._now = writer, now
        self._sealing = threading.Lock()  # held while the store makes it durable, or drops it
        self._is_closed = False

    def begin(self) -> None:
        """Write what no rank sends."""
        for literal in self._literals:
            self._writer.write(literal.offset, literal.data)

    @property
    def crcs(self) -> NDArray[np.uint32]:
        """See `Shard`."""
        crcs = np.zeros(self.rows.stop - self.rows.start, np.uint32)
        for lane in self.lanes.values():
            crcs[lane.segments - self.rows.start] = lane.crcs
        return crcs

    def debts(self) -> dict[int, Debt]:
        """See `Shard`."""
        now = self._now()
        debts = {}
        for rank, lane in self.lanes.items():
            since = lane.at_store_since
            owed = lane.size_bytes - lane.received
            debts[rank] = Debt(owed, lane.size_bytes, now - lane.progressed_at, None if since is None else now - since)
        return debts

    def close(self, reason: CkptdError) -> None:
        """See `Shard`. When it returns no write of a lane is under way."""
        self._is_closed = True
        for lane in self.lanes.values():
            lane.close(reason)

    def refuse(self, reason: CkptdError) -> None:
        """Do as `close`, and return at once: a write of a lane may be under way still.

        A write that fails tells so while it holds its lane: with a lock held that is wanted there, `close` may wait
        forever.
        """
        self._is_closed = True
        for lane in self.lanes.values():
            lane.refuse(reason)

    def finish(self) -> bool:
        """See `Shard`."""
        with self._sealing:
            if self._is_closed:
                return False
            self._writer.finish()
            return True

    def abort(self) -> None:
        """See `Shard`."""
        with self._sealing:
            self._writer.abort()
