"""Why a save cannot go on without hosts whose agents are gone, in words that name host and ranks. It changes nothing.

A host is gone once its agent was silent for a lease. It is looked at again and again, and not only when that happens: a
rank that declares late hears of it as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ckptd.engine.lanes.elsewhere import RemoteShard
from ckptd.engine.lanes.shard import Shard
from ckptd.engine.saves.claim import Claim
from ckptd.engine.saves.session import Phase, Session
from ckptd.engine.wording import describe_bytes, describe_ranks, describe_seconds


@dataclass(slots=True)
class _Share:
    """What is missing of one host."""

    undeclared: list[int] = field(default_factory=list)
    owed: dict[int, int] = field(default_factory=dict)  # by rank: bytes

    def owes(self, rank: int, size_bytes: int) -> None:
        self.owed[rank] = self.owed.get(rank, 0) + size_bytes


def why_gone(
    session: Session,
    claims: Mapping[int, Claim],
    shards: Sequence[Shard],
    gone: Mapping[str, float],
    agent_of: Callable[[int], str],
) -> str | None:
    """Return why a save has to end as hosts are gone, None if it can do without them.

    Args:
        session: of the save.
        claims: by rank.
        shards: all of them, once it is planned.
        gone: hosts whose agents are gone, and for how many seconds.
        agent_of: returns the host by whose agent a rank that has not declared has its place; "" for none.
    """
    if not gone or session.committing or session.phase not in (Phase.DECLARING, Phase.FILLING):
        return None
    missing: dict[str, _Share] = {}
    if session.phase is Phase.DECLARING:
        for rank in session.missing:
            if (host := agent_of(rank)) in gone:
                missing.setdefault(host, _Share()).undeclared.append(rank)
        for rank, claim in claims.items():
            if claim.host in gone:
                size = 0 if claim.manifest is None else int(claim.manifest.sizes.sum())
                missing.setdefault(claim.host, _Share()).owes(rank, size)
    else:
        for rank, number in session.owed:
            shard = shards[number]
            writer = shard.host if isinstance(shard, RemoteShard) else ""
            debt = shard.debts().get(rank)
            # A rank's own host is needed only as long as it has something to pass on to the shard of another.
            needed = {writer} if debt is not None and not debt.owed_bytes else {writer, claims[rank].host}
            for host in needed & gone.keys():
                missing.setdefault(host, _Share()).owes(rank, 0 if debt is None else debt.owed_bytes)
    return "; ".join(_described(host, missing[host], gone[host]) for host in sorted(missing)) or None


def _described(host: str, share: _Share, silent_s: float) -> str:
    words = [f"the agent on {host} is gone {describe_seconds(silent_s)}"]
    if share.owed:
        words.append(f"{describe_ranks(share.owed)} owed {describe_bytes(sum(share.owed.values()))}")
    if share.undeclared:
        words.append(f"{describe_ranks(share.undeclared)} had not declared")
    return "; ".join(words)
