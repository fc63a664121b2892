"""One save as a state machine: events in, effects out, and nothing else changes it. Pure.

Tensor bytes never pass through here, and neither does time: both arrive as events. The diagram in
``docs/session.md`` is drawn by running `step`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from enum import Enum

from ckptd.engine.saves.bit_set import BitSet
from ckptd.errors import CkptdError, ConflictError


class Phase(Enum):
    """How far a save has come. It only moves down this list, or to ABORTED while it still may."""

    DECLARING = "declaring"  # ranks declare what they save; then it is planned
    FILLING = "filling"  # ranks send their lanes
    SEALED = "sealed"  # every shard is durable; it waits for its turn to commit
    COMMITTED = "committed"  # the index is in place: the checkpoint exists
    PUBLISHED = "published"  # the state file names it: readers find it
    ABORTED = "aborted"


# Events.


@dataclass(frozen=True, slots=True)
class Declared:
    """A rank has declared what it saves."""

    rank: int


@dataclass(frozen=True, slots=True)
class Planned:
    """The layout is made, and noted durably. `lanes` are the (rank, shard) that carry bytes."""

    num_shards: int
    lanes: frozenset[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class LaneEnded:
    """All bytes of a lane have arrived, and their checksums agree."""

    rank: int
    shard: int


@dataclass(frozen=True, slots=True)
class ShardSealed:
    """A shard is durable under its final key."""

    shard: int


@dataclass(frozen=True, slots=True)
class TurnCame:
    """Every save of the run that began earlier has ended."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The index is durable."""


@dataclass(frozen=True, slots=True)
class Published:
    """The state file that names this checkpoint is durable."""


@dataclass(frozen=True, slots=True)
class CommitFailed:
    """The store refused, and a read showed that the index is not in place."""

    error: CkptdError


@dataclass(frozen=True, slots=True)
class Failed:
    """It can't succeed any more: a rank is lost or late, the store refused, or a rank gave up."""

    error: CkptdError


Event = Declared | Planned | LaneEnded | ShardSealed | TurnCame | Committed | Published | CommitFailed | Failed


# Effects.


@dataclass(frozen=True, slots=True)
class MakePlan:
    """Lay out what the ranks save, note the save durably, open its shards; then `Planned`."""


@dataclass(frozen=True, slots=True)
class Seal:
    """Finish a shard; then `ShardSealed`."""

    shard: int


@dataclass(frozen=True, slots=True)
class AwaitTurn:
    """Wait until earlier saves have ended; then `TurnCame`."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Write the index and the state file; then `Committed` and `Published`."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the ranks and the watchers; then let retention clean up."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Remove every trace, then tell the ranks why."""

    error: CkptdError


Effect = MakePlan | Seal | AwaitTurn | Commit | Announce | Drop


@dataclass(frozen=True, slots=True)
class Lanes:
    """The lanes of a save, as (shard, rank), ascending: those of one shard are next to each other."""

    numbered: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, lanes: Iterable[tuple[int, int]]) -> Lanes:
        """Number lanes that are given as (rank, shard)."""
        return cls(tuple(sorted((shard, rank) for rank, shard in lanes)))

    def number(self, rank: int, shard: int) -> int | None:
        """Return the number of a lane, None if there is none."""
        at = bisect_left(self.numbered, (shard, rank))
        return at if at < len(self.numbered) and self.numbered[at] == (shard, rank) else None

    def shards_of(self, ranks: Set[int]) -> list[int]:
        """Return the shards that any of these ranks has a lane to, ascending."""
        return sorted({shard for shard, rank in self.numbered if rank in ranks}) if ranks else []

    def of_shard(self, shard: int) -> tuple[int, int]:
        """Return the number of a shard's first lane, and the one after its last."""
        return bisect_left(self.numbered, (shard, -1)), bisect_left(self.numbered, (shard + 1, -1))


_NOTHING, _NO_LANES = BitSet(), Lanes()


@dataclass(frozen=True, slots=True)
class Session:
    """What is known of one save. With thousands of ranks, an event still takes microseconds.

    `unsealed` are the shards that are not durable yet, `unended` the numbers of the `lanes` that have not ended.
    `committing` holds from `TurnCame` on: then only the store can still fail the save.
    """

    world_size: int
    phase: Phase = Phase.DECLARING
    declared: BitSet = _NOTHING
    lanes: Lanes = _NO_LANES
    unended: BitSet = _NOTHING
    unsealed: BitSet = _NOTHING
    committing: bool = False
    error: CkptdError | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has ended, well or not."""
        return self.phase in (Phase.PUBLISHED, Phase.ABORTED)

    @property
    def missing(self) -> tuple[int, ...]:
        """Ranks that have not declared, ascending."""
        return tuple(BitSet(BitSet.below(self.world_size).bits & ~self.declared.bits))

    @property
    def owed(self) -> tuple[tuple[int, int], ...]:
        """The (rank, shard) of lanes that have not ended."""
        return tuple((rank, shard) for shard, rank in map(self.lanes.numbered.__getitem__, self.unended))

    def _is_owed(self, shard: int) -> bool:
        return self.unended.has_any(*self.lanes.of_shard(shard))


def step(session: Session, event: Event) -> tuple[Session, tuple[Effect, ...]]:
    """Apply one event; return the session after it and the work it calls for.

    A repeated event changes nothing. Raises `ConflictError` for one that does not fit the phase.
    """
    match session.phase, event:
        case Phase.DECLARING, Declared(rank) if 0 <= rank < session.world_size:
            if rank in session.declared:
                return session, ()
            after = replace(session, declared=session.declared | rank)
            return after, () if len(after.declared) < session.world_size else (MakePlan(),)
        case Phase.DECLARING, Planned(num_shards, lanes) if len(session.declared) == session.world_size:
            after = replace(
                session,
                phase=Phase.FILLING,
                lanes=Lanes.of(lanes),
                unended=BitSet.below(len(lanes)),
                unsealed=BitSet.below(num_shards),
            )
            filled = sorted(set(range(num_shards)) - {shard for _, shard in lanes})
            return after, tuple(Seal(shard) for shard in filled)
        case Phase.FILLING, LaneEnded(rank, shard):
            lane = session.lanes.number(rank, shard)
            if lane is None or lane not in session.unended:
                return session, ()
            after = replace(session, unended=session.unended - lane)
            return after, () if after._is_owed(shard) else (Seal(shard),)
        case Phase.FILLING, ShardSealed(shard) if not session._is_owed(shard):
            after = replace(session, unsealed=session.unsealed - shard)
            if after.unsealed:
                return after, ()
            return replace(after, phase=Phase.SEALED), (AwaitTurn(),)
        case Phase.SEALED, TurnCame():
            return (session, ()) if session.committing else (replace(session, committing=True), (Commit(),))
        case Phase.SEALED, Committed() if session.committing:
            return replace(session, phase=Phase.COMMITTED), ()
        case Phase.COMMITTED, Published():
            return replace(session, phase=Phase.PUBLISHED), (Announce(),)
        case Phase.SEALED, CommitFailed(error) if session.committing:
            return replace(session, phase=Phase.ABORTED, error=error), (Drop(error),)
        case ((Phase.DECLARING | Phase.FILLING | Phase.SEALED), Failed(error)) if not session.committing:
            return replace(session, phase=Phase.ABORTED, error=error), (Drop(error),)
        case _, Failed():
            # Whether a commit succeeds is between us and the store: giving up now would report a failure that
            # is none. And an ended save ends once.
            return session, ()
        case ((Phase.SEALED | Phase.COMMITTED | Phase.PUBLISHED), LaneEnded()):
            return session, ()
        case _:
            raise ConflictError(f"{event} does not fit a save that is {session.phase.value}")
