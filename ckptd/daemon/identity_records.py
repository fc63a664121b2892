"""What the audit log is told of the identities that a daemon knows: enough to tell two states apart, nothing secret."""

from __future__ import annotations

import hashlib

from ckptd.service.gate import Access
from ckptd.wire.server_tls import Tls


def described(access: Access, tls: Tls | None) -> dict[str, object]:
    """Return what tells one set of identities from another: numbers, names, and SHA-256 sums."""
    policy = access.policy
    grants = [(sorted(each.to), each.runs, each.role) for each in policy.grants or ()]
    kinds = {"grants": grants, "floors": policy.floors, "limits": policy.limits, "quotas": policy.quotas}
    rows = sorted(f"{name}: {row!r}" for name, each in kinds.items() for row in each)
    files = {} if tls is None else {"certificate": _sum(tls.certificate), "client_ca": _sum(tls.client_ca)}
    return {
        "policy": _sum("\n".join(rows).encode("utf-8", "backslashreplace")) if rows else "",
        **{name: len(each) for name, each in kinds.items()},
        "tokens": [token.name for token in access.tokens or ()],
        **files,
    }


def differences(before: Access, after: Access) -> dict[str, object]:
    """Return which tokens came, went or were made anew, and whether the policy is another."""
    old, new = ({token.name: token for token in each.tokens or ()} for each in (before, after))
    return {
        "tokens_added": sorted(new.keys() - old.keys()),
        "tokens_removed": sorted(old.keys() - new.keys()),
        "tokens_replaced": sorted(name for name in old.keys() & new.keys() if old[name] != new[name]),
        "has_new_shared_token": before.shared_token != after.shared_token,
        "has_new_policy": before.policy != after.policy,
    }


def _sum(content: bytes | None) -> str:
    return "" if content is None else hashlib.sha256(content).hexdigest()
