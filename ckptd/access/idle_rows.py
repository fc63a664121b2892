"""Rows of a policy that change nothing: they may be meant for later, or be a mistake that is never noticed.

What no row can mean is refused when the policy is read (`ckptd.access.policy`). What is found here is told in the log,
in an admin's `ckptd status` and by `ckptd policy check`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ckptd.access import callers, tokens
from ckptd.access.patterns import covers, overlap
from ckptd.access.policy import EACH, Policy
from ckptd.access.roles import ROLES, Right

_MOST_COMPARED = 100_000  # pairs: of a policy with very many rows nothing is said
_MOST_NAMED = 5
_NOTHING = {
    "saves": "begins no save",
    "runs": "joins no run",
    "watchers": "watches nothing",
    "claimed_bytes": "saves nothing",
    "requests_per_s": "is refused every call",
    "requests_per_s_per_host": "is refused every call",
    "bytes_per_s": "moves no bytes",
    "bytes_per_s_per_host": "moves no bytes",
}

Part = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """Which identities a daemon can see at all.

    Attributes:
        token_names: of the tokens that it knows; None: that is not known.
        expired_names: of those of them that have expired.
        has_certificates: whether it knows clients by their certificates (``--client-ca``).
        users: the uids that can connect to its Unix sockets; empty: it has none; None: any.
        has_loopback: whether it was started with ``--insecure-loopback``.
    """

    token_names: frozenset[str] | None = None
    expired_names: frozenset[str] = frozenset()
    has_certificates: bool = True
    users: frozenset[str] | None = None
    has_loopback: bool = True


def known_tokens(shared: str | None, named: tokens.Tokens | None) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of all tokens that a daemon knows, and of those that have expired."""
    known = {token.name for token in named or ()} | ({tokens.SHARED} if shared is not None else set())
    return frozenset(known), frozenset(token.name for token in named or () if token.is_expired(time.time()))


def idle_rows(policy: Policy) -> list[str]:
    """Return a sentence for each row that gives, keeps or bounds nothing beside the others."""
    if policy.grants is None:
        return []
    if not policy.grants:
        return ["the policy has no [[grant]], so it lets no identity do anything"]
    return [*_grants(policy), *_floors(policy), *_limits(policy), *_quotas(policy)]


def unseen_identities(policy: Policy, seen: Seen) -> list[str]:
    """Return a sentence for each identity of the policy that no call to this daemon can show."""
    unknown = set() if seen.token_names is None else policy.names_of(callers.TOKEN) - seen.token_names
    said = [f"the policy names token:{name}, and there is no such token" for name in sorted(unknown)]
    expired = sorted(policy.names_of(callers.TOKEN) & seen.expired_names)
    said += [f"the policy names token:{name}, which has expired" for name in expired]
    no_user = "the daemon listens on no Unix socket, where alone it sees users"
    if seen.users:
        no_user = "--socket-mode lets only the daemon's own user connect to its socket"
    for kind, known, why in (
        (callers.CERTIFICATE, _known(seen.has_certificates), "the daemon knows no certificates without --client-ca"),
        (callers.USER, seen.users, no_user),
        (callers.LOOPBACK, _known(seen.has_loopback), "the daemon was started without --insecure-loopback"),
    ):
        names = [] if known is None else sorted(policy.names_of(kind) - known)
        if names:
            named = ", ".join(f"{kind}:{name}" if name else kind for name in names[:_MOST_NAMED])
            said.append(f"the policy names {named}{' and others' if len(names) > _MOST_NAMED else ''}, and {why}")
    return said


def _known(is_seen: bool) -> frozenset[str] | None:
    return None if is_seen else frozenset()


def _grants(policy: Policy) -> Iterator[str]:
    parts = [
        [(name, grant.role, run, grant.hosts) for name in grant.to for run in grant.runs]
        for grant in policy.grants or ()
    ]
    for index in _idle(parts, _gives):
        yield f"{policy.where('grant', index)} gives nothing that other rows do not give"


def _gives(part: Part, other: Part) -> bool:
    return ROLES[other[1]] <= ROLES[part[1]] and covers(part[2], other[2]) and part[3] in ((), other[3])


def _floors(policy: Policy) -> Iterator[str]:
    yield from _unsaved(policy, "floor", [runs for runs, _ in policy.floors])
    parts = [
        [(what, amount, run) for what, amount in asdict(floor).items() if amount for run in runs]
        for runs, floor in policy.floors
    ]
    for index in _idle(parts, _keeps):
        yield f"{policy.where('floor', index)} keeps nothing that other floors do not keep: each that matches holds"


def _keeps(part: Part, other: Part) -> bool:
    return bool(part[1] >= other[1]) and covers(part[2], other[2])


def _limits(policy: Policy) -> Iterator[str]:
    granted = {name for grant in policy.grants or () for name in grant.to}
    parts = []
    for index, (to, limit) in enumerate(policy.limits):
        where = policy.where("limit", index)
        limits = {name: most for name, most in asdict(limit).items() if most is not None}
        parts.append([(name, identity, most) for name, most in limits.items() for identity in to])
        for name in (name for name, most in limits.items() if most == 0):
            yield f"{where} says {name} = 0: an identity that it names {_NOTHING[name]}"
        for identity in sorted(set(to) - granted - {EACH}):
            yield f"{where} names {identity}, to which no grant gives a role"
    for index in _idle(parts, _limits_as_low):
        yield f"{policy.where('limit', index)} limits nothing: of several limits the lowest holds, and it is another"


def _limits_as_low(part: Part, other: Part) -> bool:
    return part[1] in (EACH, other[1]) and bool(part[2] <= other[2])


def _quotas(policy: Policy) -> Iterator[str]:
    yield from _unsaved(policy, "quota", [quota.runs for quota in policy.quotas])
    for index, quota in enumerate(policy.quotas):
        if not quota.stored_bytes:
            yield f"{policy.where('quota', index)} says stored_bytes = 0: nothing can be saved to these runs"
    for index in _idle([[("", quota.stored_bytes, quota.runs)] for quota in policy.quotas], _binds_before):
        yield f"{policy.where('quota', index)} bounds nothing: another quota that counts all these runs is as low"


def _binds_before(part: Part, other: Part) -> bool:
    return part[1] <= other[1] and all(any(covers(each, run) for each in part[2]) for run in other[2])


def _unsaved(policy: Policy, kind: str, rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Name the rows about runs to which no identity may save: a typing error in a pattern, most likely."""
    saved = {run for grant in policy.grants or () if Right.SAVE in ROLES[grant.role] for run in grant.runs}
    if "**" in saved or len(saved) * sum(map(len, rows)) > _MOST_COMPARED:
        return
    for index, runs in enumerate(rows):
        for run in runs:
            if not any(overlap(run, each) for each in saved):
                yield f"{policy.where(kind, index)} is about {run!r}, and no grant lets an identity save to such a run"


def _idle(rows: Sequence[Sequence[Part]], includes: Callable[[Part, Part], bool]) -> list[int]:
    """Return the rows all of whose parts are included in parts of rows that stay; of two equal rows the later one.

    Only parts that begin alike can include each other.
    """
    alike: dict[Any, list[tuple[int, Part]]] = {}
    for index, parts in enumerate(rows):
        for part in parts:
            alike.setdefault(part[0], []).append((index, part))
    if sum(len(each) ** 2 for each in alike.values()) > _MOST_COMPARED:
        return []
    idle: set[int] = set()
    for index in reversed(range(len(rows))):
        if all(
            any(at != index and at not in idle and includes(other, part) for at, other in alike[part[0]])
            for part in rows[index]
        ):
            idle.add(index)
    return sorted(idle)
