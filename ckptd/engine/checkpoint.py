"""The description of one checkpoint: a saved state."""

from __future__ import annotations

from dataclasses import dataclass

from ckptd.storage.base import Durability


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One complete, published checkpoint.

    Attributes:
        prefix: what its files share, as a reader opens it: ``/checkpoints/runs/mnist/model.ckpt-1200``.
        step: the training step, None when it was saved without one.
        size_bytes: bytes in its data shards.
        num_shards: how many data shards it has.
        saved_at: when it was published, wall-clock seconds since the epoch.
        duration_s: from the first rank's declaration to publication; 0.0 when not known.
        pinned: retention never removes it while this holds.
        save_id: which save wrote it; empty when it was not ours.
        durability: what it survives.
        verified_at: when all of it was last read and found intact, wall-clock seconds; None: not yet.
        rolled_back: for one that watchers receive a second time: why the newer one that they received is not to be
            used; empty otherwise.
    """

    prefix: str
    step: int | None
    size_bytes: int
    num_shards: int
    saved_at: float
    duration_s: float = 0.0
    pinned: bool = False
    save_id: str = ""
    durability: Durability = Durability.LOCAL_DISK
    verified_at: float | None = None
    rolled_back: str = ""
