"""When a save came how far, and what was measured of it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping

from ckptd.engine.journal import Measured
from ckptd.engine.saves.claim import Claim
from ckptd.engine.saves.planning import Plan
from ckptd.engine.saves.session import Phase, Session

_DECLARE, _PLAN, _MOVE, _SEAL, _COMMIT, _PUBLISH = "declare", "plan", "move", "seal", "commit", "publish"


class Course:
    """See the module. Times are on the forward-only clock. The run's lock guards it.

    Attributes:
        publishing_at: when its index was in place and its state file was begun; None before.
    """

    def __init__(self, began_at: float) -> None:
        """It begins with the first rank's declaration."""
        self._began_at = began_at
        self._ends: dict[str, float] = {}  # of its phases, in their order
        self.publishing_at: float | None = None

    def note(self, session: Session, now: float) -> None:
        """Note how far it is, after each event."""
        match session.phase:
            case Phase.DECLARING if len(session.declared) == session.world_size:
                self._ends.setdefault(_DECLARE, now)
            case Phase.FILLING:
                self._ends.setdefault(_PLAN, now)
                if not session.unended:
                    self._ends.setdefault(_MOVE, now)
            case Phase.SEALED:
                self._ends.setdefault(_SEAL, now)

    def slowest(self, claims: Mapping[int, Claim]) -> tuple[int, float | None]:
        """Return the rank whose last byte came last, and when, from the first declaration on; None for no byte."""
        rank = max(claims, key=lambda each: claims[each].done_at or 0.0)
        done_at = claims[rank].done_at
        return rank, None if done_at is None else done_at - self._began_at

    def measured(self, claims: dict[int, Claim], world_size: int, plan: Plan, now: float) -> Measured:
        """Return what was measured of a save that is over, before its plan is forgotten.

        `claims` are in the order in which ranks declared.
        """
        ends = dict(self._ends)
        if self.publishing_at is not None and self.publishing_at >= ends.get(_SEAL, now):
            ends |= {_COMMIT: self.publishing_at, _PUBLISH: now}
        phases_s, before = {}, self._began_at
        for phase, at in ends.items():
            phases_s[phase], before = at - before, at
        received: Counter[str] = Counter()
        for shard in plan.shards:
            for rank, lane in shard.lanes.items():
                received["grpc" if claims[rank].capture is None else "shm"] += lane.received
        done_at = [claim.done_at for claim in claims.values() if claim.done_at is not None]
        lag_s = max(done_at) - statistics.median(done_at) if len(done_at) > 1 else None
        return Measured(
            0 if plan.record is None else plan.record.size_bytes,
            now - self._began_at,
            phases_s,
            lag_s,
            received,
            world_size=world_size,
            slowest_rank=self.slowest(claims)[0] if done_at else None,
            last_to_declare=next(reversed(claims), None) if len(claims) == world_size else None,
        )
