"""Why a save can't go on, in words that name the culprit. Pure; time is passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ckptd.engine.session import Phase, Session
from ckptd.engine.settings import Settings
from ckptd.engine.wording import describe_bytes, describe_ranks, describe_seconds


@dataclass(frozen=True, slots=True)
class Debt:
    """What one rank still owes, of how many bytes, and for how many seconds nothing came from it."""

    owed_bytes: int
    total_bytes: int
    idle_s: float

    def __str__(self) -> str:
        return f"{describe_bytes(self.owed_bytes)} of {describe_bytes(self.total_bytes)}"


def waiting_for(session: Session, debts: Mapping[int, Debt]) -> list[str]:
    """Say whom a save waits for, rank by rank. `debts` has the ranks whose lanes have not ended."""
    if session.phase is Phase.DECLARING and session.missing:
        return [f"{describe_ranks(session.missing, session.world_size)} to declare"]
    return [f"rank {rank} of {session.world_size}: {debts[rank]}" for rank in sorted(debts)]


def why_over(
    session: Session,
    debts: Mapping[int, Debt],
    lost: Mapping[int, tuple[str, float]],
    *,
    age_s: float,
    timeout_s: float,
    settings: Settings,
) -> str | None:
    """Return why a save has to end now, None if it may go on.

    `lost` are ranks that are gone: who, and for how long. A rank that owes nothing any more may go: the save is safe.
    """
    if session.committing or session.phase not in (Phase.DECLARING, Phase.FILLING, Phase.SEALED):
        return None
    for rank, (who, seconds) in sorted(lost.items()):
        gone = f"{who} is gone: its connection closed {describe_seconds(seconds)} ago"
        if session.phase is Phase.DECLARING:
            return f"{gone}, before the save was planned"
        if rank in debts:
            return f"{gone}; it still owed {debts[rank]}"
    if session.phase is Phase.DECLARING:
        limit = min(settings.declare_timeout_s, timeout_s)
        if not session.missing or age_s < limit:
            return None
        who = describe_ranks(session.missing, session.world_size)
        verb, whose = ("has", "its") if len(session.missing) == 1 else ("have", "their")
        return f"{who} {verb} not declared {whose} tensors ({describe_seconds(limit)})"
    stalled = {rank: debt for rank, debt in debts.items() if debt.idle_s >= settings.stall_timeout_s}
    if stalled:
        since = describe_seconds(settings.stall_timeout_s)
        return f"nothing came for {since} from {', '.join(waiting_for(session, stalled))} still owed"
    if age_s >= timeout_s:
        whom = ", ".join(waiting_for(session, debts)) or "its turn behind earlier saves of the run"
        return f"it was not done within {describe_seconds(timeout_s)}; it waited for {whom}"
    return None
