"""A shard that another host's agent fills, and a capture in that host's memory: what is known here is what it has told.

Nothing of it is read or written here. The agent tells how far it is, and in the end gives a receipt: the object's
version, and the checksums of its segments, which are all that the index needs of it. A receipt is believed and not
looked up, as a store's list or a directory's cached attributes may be late. An index never refers to a shard without
one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.hosts.messages import Receipt
from ckptd.engine.lanes.lane_writer import LaneWriter
from ckptd.engine.lanes.shard import Debt
from ckptd.engine.layout import Layout
from ckptd.errors import CkptdError, ConflictError
from ckptd.storage.base import Durability

_SUM_BYTES = 4


class RemoteCapture:
    """A rank's part of a save in the memory of its own host: all that matters here is whether it is in place."""

    __slots__ = ("is_sealed",)

    def __init__(self) -> None:
        """The rank still captures."""
        self.is_sealed = False

    def seal(self) -> None:
        """Say that all bytes are in place, so that the rank may go."""
        self.is_sealed = True


class RemoteShard:
    """See the module, and `Shard` for `key`, `rows` and `lanes`.

    Attributes:
        host: whose agent fills it.
        size_bytes: of its object.
    """

    def __init__(
        self, layout: Layout, shard: int, key: str, save_id: str, *, durability: Durability, now: Callable[[], float]
    ) -> None:
        """Begin without a receipt.

        Args:
            layout: of the whole save.
            shard: its number.
            key: of its object.
            save_id: of the save.
            durability: of the store: what its object survives once it is there.
            now: seconds on a forward-only clock.
        """
        self.host, self.size_bytes = layout.shard_hosts[shard], layout.shard_sizes[shard]
        self.key, self.rows = key, layout.rows_of(shard)
        self.lanes: Mapping[int, LaneWriter] = {}
        self.finishes_at_once = True
        self._shard, self._save_id, self._durability, self._now = shard, save_id, durability, now
        self._lock = threading.Lock()
        self._totals = layout.owed_of.get(shard, {})
        self._owed: dict[int, tuple[int, float]] = {}  # per rank: bytes, and since when it is so
        self._receipt: Receipt | None = None
        self._closed: CkptdError | None = None
        self.begin_anew()

    def begin_anew(self) -> None:
        """Take note that a later life of the agent writes it from its first byte on, unless there is a receipt."""
        now = self._now()
        with self._lock:
            if self._receipt is None:
                self._owed = {rank: (total, now) for rank, total in self._totals.items()}

    def note_owed(self, owed_bytes: int) -> None:
        """Take note of how many bytes are still to be written in all: they count as those of the highest ranks."""
        left, owed = max(owed_bytes, 0), {}
        for rank in sorted(self._totals, reverse=True):
            owed[rank] = min(left, self._totals[rank])
            left -= owed[rank]
        self.note_progress(owed)

    def note_progress(self, owed: Mapping[int, int]) -> None:
        """Take note of how many bytes of some ranks are still to be written. Of other ranks it is ignored."""
        now = self._now()
        with self._lock:
            for rank, bytes_owed in owed.items():
                if self._receipt is None and rank in self._owed and bytes_owed != self._owed[rank][0]:
                    self._owed[rank] = min(max(bytes_owed, 0), self._totals[rank]), now

    def take(self, receipt: Receipt) -> bool:
        """Take the receipt; return whether it is the first. It is of the present life of the host's agent.

        A repeated one changes nothing.

        Raises:
            ConflictError: it is not for what this host was told to write, or contradicts an earlier one.
            CkptdError: why the save takes nothing more.
        """
        expected = (self._save_id, self.host, self._shard, self.key, self.size_bytes, self._durability)
        actual = (receipt.save, receipt.by.host, receipt.shard, receipt.key, receipt.size_bytes, receipt.durability)
        num_sums = self.rows.stop - self.rows.start
        if actual != expected or len(receipt.sums) != num_sums * _SUM_BYTES:
            raise ConflictError(
                f"the {receipt.by} gave a receipt for something else than it was told to write",
                key=self.key,
                expected=f"{_described(*expected)}, {num_sums} checksums",
                actual=f"{_described(*actual)}, {len(receipt.sums) / _SUM_BYTES:g} checksums",
            )
        with self._lock:
            if self._closed is not None:
                raise self._closed
            known = self._receipt
            if known is not None and (known.version, known.sums) != (receipt.version, receipt.sums):
                raise ConflictError(
                    f"the {receipt.by} gave two different receipts for one shard",
                    key=self.key,
                    expected=known.version,
                    actual=receipt.version,
                )
            self._receipt = known or receipt
            now = self._now()
            self._owed = dict.fromkeys(self._totals, (0, now))
        return known is None

    @property
    def crcs(self) -> NDArray[np.uint32]:
        """See `Shard`."""
        assert self._receipt is not None, "its checksums are known once there is a receipt"
        return np.frombuffer(self._receipt.sums, "<u4")

    def debts(self) -> dict[int, Debt]:
        """See `Shard`."""
        now = self._now()
        with self._lock:
            return {rank: Debt(owed, self._totals[rank], now - at) for rank, (owed, at) in self._owed.items()}

    def close(self, reason: CkptdError) -> None:
        """See `Shard`. From then on a receipt comes too late."""
        with self._lock:
            self._closed = reason

    def finish(self) -> bool:
        """See `Shard`: it is durable if there is a receipt."""
        with self._lock:
            return self._receipt is not None and self._closed is None

    def abort(self) -> None:
        """See `Shard`: the agent drops it when it hears how the save has ended, and the catalog what is left of it."""


def _described(save: str, host: str, shard: int, key: str, size_bytes: int, durability: Durability) -> str:
    return f"shard {shard} of save {save} by {host}: {key}, {size_bytes} bytes, {durability.value}"
