"""What operators see of runs and saves: values made for `ckptd status`."""

from __future__ import annotations

from dataclasses import dataclass

from ckptd.engine.catalog.records import Record
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Member, SaveRef
from ckptd.engine.layout import LaneTransport
from ckptd.engine.saves.session import Phase


@dataclass(frozen=True, slots=True)
class SaveView:
    """One save under way, which cannot go on without `needed_ranks`. `age_s` counts from its first declaration.

    `crossing_bytes` go from a rank of one host to the shard of another.
    """

    save: SaveRef
    phase: Phase
    size_bytes: int
    received_bytes: int
    age_s: float
    waiting_for: tuple[str, ...]
    needed_ranks: tuple[int, ...]
    transports: frozenset[LaneTransport]
    crossing_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Eviction:
    """Which processes an operator has evicted from a run, by rank, and which saves ended with that."""

    members: tuple[Member, ...]
    saves: tuple[SaveRef, ...]


@dataclass(frozen=True, slots=True)
class RunView:
    """One run: its members, its saves under way (oldest first), and its checkpoints.

    `quarantined` says why it cannot be opened, and what to do; "" for one that is open. `problems` are things about an
    open run that a person should know, such as records that cannot be read. `damaged` are the records of checkpoints
    that are in quarantine, `checkpoints` all others.
    """

    run: str
    epoch: int
    world_size: int
    connected_ranks: tuple[int, ...]
    saves: tuple[SaveView, ...]
    latest: Checkpoint | None
    num_checkpoints: int
    last_error: str
    quarantined: str = ""
    problems: tuple[str, ...] = ()
    damaged: tuple[Record, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()

    @classmethod
    def at_rest(cls, run: str, *, quarantined: str = "", problems: tuple[str, ...] = ()) -> RunView:
        """Describe a run that is not open."""
        return cls(run, 0, 0, (), (), None, 0, "", quarantined=quarantined, problems=problems)
