"""What operators see of runs and saves: values made for `ckptd status`."""

from __future__ import annotations

from dataclasses import dataclass

from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.retention import Verdict
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Member, SaveRef
from ckptd.engine.layout import LaneTransport
from ckptd.engine.saves.session import Phase


@dataclass(frozen=True, slots=True)
class SaveProgress:
    """How far a save under way is, and which rank owes the largest part of its bytes; None where none owes any."""

    received_bytes: int
    size_bytes: int
    furthest_behind: int | None = None


@dataclass(frozen=True, slots=True)
class RankView:
    """One rank's part in a save under way.

    Attributes:
        rank: which one.
        has_declared: whether it has said what it saves.
        received_bytes, size_bytes: of what it owes; 0 of 0 before the save is planned, and where it owes nothing.
        idle_s: for how long nothing came from it, while it owes something.
        host: whose agent writes its bytes; "" when they come here.
        transport: how its bytes arrive; None before it has declared.
    """

    rank: int
    has_declared: bool
    received_bytes: int = 0
    size_bytes: int = 0
    idle_s: float = 0.0
    host: str = ""
    transport: LaneTransport | None = None


@dataclass(frozen=True, slots=True)
class SaveView:
    """One save under way, which cannot go on without `needed_ranks`. `age_s` counts from its first declaration.

    `crossing_bytes` go from a rank of one host to the shard of another. `ranks` are in their order, as far as they are
    known here.
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
    ranks: tuple[RankView, ...] = ()


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
    that are in quarantine, `checkpoints` all others; `foreseen` is what becomes of the listed ones with the next save.
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
    foreseen: tuple[Verdict, ...] = ()

    @classmethod
    def at_rest(cls, run: str, *, quarantined: str = "", problems: tuple[str, ...] = ()) -> RunView:
        """Describe a run that is not open."""
        return cls(run, 0, 0, (), (), None, 0, "", quarantined=quarantined, problems=problems)
