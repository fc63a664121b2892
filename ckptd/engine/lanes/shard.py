"""One data shard of a save, wherever its bytes are written: here, or by an agent on another host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.lanes.lane_writer import LaneWriter
from ckptd.engine.wording import describe_bytes, describe_seconds
from ckptd.errors import CkptdError


def furthest_behind(debts: Mapping[int, Debt]) -> int | None:
    """Return the rank that owes the largest part of its bytes; None where none owes any."""
    owing = [rank for rank, debt in debts.items() if debt.owed_bytes]
    return max(owing, key=lambda rank: debts[rank].owed_bytes / debts[rank].total_bytes, default=None)


class Debt(NamedTuple):
    """What one rank still has to send, of how many bytes, and for how many seconds nothing came from it."""

    owed_bytes: int
    total_bytes: int
    idle_s: float
    at_store_s: float | None = None  # for how long the store has not taken what it is given

    def plus(self, other: Debt) -> Debt:
        """Return this and what the same rank has to send to another shard."""
        at_store = [each for each in (self.at_store_s, other.at_store_s) if each is not None]
        return Debt(
            self.owed_bytes + other.owed_bytes,
            self.total_bytes + other.total_bytes,
            min(self.idle_s, other.idle_s),
            max(at_store, default=None),
        )

    def __str__(self) -> str:
        owed = f"{describe_bytes(self.owed_bytes)} of {describe_bytes(self.total_bytes)}"
        if self.at_store_s is None:
            return owed
        return f"{owed}, held up by the store, which has taken nothing for {describe_seconds(self.at_store_s)}"


class Shard(Protocol):
    """See the module. Safe from any thread.

    Attributes:
        key: its object.
        rows: its segments: one range of those of the save's layout.
        lanes: by rank, what takes that rank's bytes in this process; none where they are written elsewhere.
        finishes_at_once: `finish` does not wait for the store.
    """

    key: str
    rows: slice
    lanes: Mapping[int, LaneWriter]
    finishes_at_once: bool

    @property
    def crcs(self) -> NDArray[np.uint32]:
        """The checksum of each of its segments, unmasked; they are known once no rank owes it anything."""

    def debts(self) -> Mapping[int, Debt]:
        """Return, per rank that has bytes for it, what is still to come."""

    def close(self, reason: CkptdError) -> None:
        """Take nothing more, for a reason that every later call raises."""

    def finish(self) -> bool:
        """Make it durable under its key; return whether it is. After `close` that is no longer done."""

    def abort(self) -> None:
        """Drop what is written of it. Called after `close`; may be repeated."""
