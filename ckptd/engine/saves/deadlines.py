"""Why a save can't go on, in words that name the cause. It changes nothing; time is passed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from ckptd.engine.lanes.shard import Debt, Shard
from ckptd.engine.saves.session import Phase, Session
from ckptd.engine.settings import Settings
from ckptd.engine.wording import describe_ranks, describe_seconds

NO_WHEREABOUTS: Mapping[int, str] = MappingProxyType({})
_MOST_ABSENT = 4  # how many ranks a line names with their hosts
_SLOW_S = 5.0  # for one block of bytes: then the save waits for the store, and for no rank


def debts_of(session: Session, shards: Sequence[Shard], is_safe: Callable[[int], bool]) -> dict[int, Debt]:
    """Return what ranks still have to send.

    Args:
        session: of the save.
        shards: all of them.
        is_safe: whether the save can do without a rank from now on.
    """
    owing = {rank for rank, _ in session.owed}
    of_rank: dict[int, list[Debt]] = {}
    for number in session.lanes.shards_of(owing):
        for rank, debt in shards[number].debts().items():
            of_rank.setdefault(rank, []).append(debt)
    # A rank that waits for the store is not slow, nor is one that waits behind it for a thread.
    at_store_s = max((debt.at_store_s or 0.0 for debts in of_rank.values() for debt in debts), default=0.0)
    debts = {}
    for rank in owing:
        parts = of_rank[rank]
        # A rank that has captured everything is not slow now: the store is.
        is_held_up = is_safe(rank) or at_store_s > _SLOW_S
        debts[rank] = Debt(
            sum(part.owed_bytes for part in parts),
            sum(part.total_bytes for part in parts),
            0.0 if is_held_up else min(part.idle_s for part in parts),
            at_store_s if at_store_s > _SLOW_S else None,
        )
    return debts


def waiting_for(
    session: Session, debts: Mapping[int, Debt], whereabouts: Mapping[int, str] = NO_WHEREABOUTS
) -> list[str]:
    """Say what a save waits for, rank by rank where it is ranks.

    Args:
        session: of the save.
        debts: of the ranks whose lanes have not ended.
        whereabouts: of the ranks that have not declared, as `describe_absent` takes them.
    """
    if session.phase is Phase.DECLARING and session.missing:
        absent = describe_absent(session.missing, whereabouts)
        return [
            f"{describe_ranks(session.missing, session.world_size)} to declare" + (f" ({absent})" if absent else "")
        ]
    if debts:
        return [f"rank {rank} of {session.world_size}: {debts[rank]}" for rank in sorted(debts)]
    match session.phase:
        case Phase.DECLARING:
            return ["the store, which notes what is planned"]
        case Phase.FILLING:
            return ["the store, which makes the last bytes durable"]
        case Phase.SEALED if not session.committing:
            return ["its turn behind earlier saves of the run"]
        case Phase.SEALED | Phase.COMMITTED:
            return ["the store, which puts the index in place"]
    return []


def describe_absent(ranks: Iterable[int], whereabouts: Mapping[int, str]) -> str:
    """Say where the awaited ranks are: "rank 3: pid 4711 on host-a, which waits with step 7"."""
    known = [f"rank {rank}: {whereabouts[rank]}" for rank in ranks if rank in whereabouts]
    more = f"; and {len(known) - _MOST_ABSENT} more" if len(known) > _MOST_ABSENT else ""
    return "; ".join(known[:_MOST_ABSENT]) + more


def why_over(
    session: Session,
    debts: Mapping[int, Debt],
    lost: Mapping[int, tuple[str, float]],
    *,
    age_s: float,
    timeout_s: float,
    settings: Settings,
    whereabouts: Callable[[], Mapping[int, str]] = dict,
) -> str | None:
    """Return why a save has to end now, None if it may go on.

    `lost` are ranks that are gone: their names, and for how long. A rank that owes nothing may go: the save is safe.
    """
    if session.committing or session.phase not in (Phase.DECLARING, Phase.FILLING, Phase.SEALED):
        return None
    for rank, (name, seconds) in sorted(lost.items()):
        gone = f"{name} is gone: its connection closed {describe_seconds(seconds)} ago"
        if session.phase is Phase.DECLARING:
            return f"{gone}, before the save was planned"
        if rank in debts:
            return f"{gone}; it still owed {debts[rank]}"
    if session.phase is Phase.DECLARING and session.missing:
        limit = min(settings.declare_timeout_s, timeout_s)
        if age_s < limit:
            return None
        absent_ranks = describe_ranks(session.missing, session.world_size)
        verb, possessive = ("has", "its") if len(session.missing) == 1 else ("have", "their")
        absent = describe_absent(session.missing, whereabouts())
        return f"{absent_ranks} {verb} not declared {possessive} tensors ({describe_seconds(limit)})" + (
            f": {absent}" if absent else ""
        )
    stalled = {rank: debt for rank, debt in debts.items() if debt.idle_s >= settings.stall_timeout_s}
    if stalled:
        since = describe_seconds(settings.stall_timeout_s)
        return f"nothing came for {since} from {', '.join(waiting_for(session, stalled))} still owed"
    if age_s >= timeout_s:
        debtors = ", ".join(waiting_for(session, debts))
        return f"it was not done within {describe_seconds(timeout_s)}; it waited for {debtors}"
    return None
