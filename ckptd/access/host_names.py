"""Which hosts an identity may be the agent of, as a row of the policy says it: names, ``gpu-*``, or ``own``."""

from __future__ import annotations

from collections.abc import Sequence

from ckptd.access.callers import Caller
from ckptd.access.patterns import matches
from ckptd.errors import InvalidRequestError

OWN = "own"
"""The host that the identity is named after: ``token:gpu-7`` and ``cert:gpu-7`` after ``gpu-7``."""


def check(hosts: Sequence[str], where: str) -> None:
    """Raise `InvalidRequestError` for what no name of a host can match."""
    for each in hosts:
        if not each.isprintable() or "/" in each or each.strip() != each or not each:
            raise InvalidRequestError(
                f'{where}: `hosts` are names of hosts, gpu-* for all that begin so, or "own"', actual=each[:100]
            )


def include(hosts: Sequence[str], caller: Caller, host: str) -> bool:
    """Say whether `host` is one of these."""
    own = {name.partition(":")[2] for name in caller.names}
    return any(host in own if each == OWN else matches(each, host) for each in hosts)
