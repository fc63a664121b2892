"""Requests over HTTP: what one shows of its caller's identity, and the caller that is let in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ckptd.access.callers import Caller
from ckptd.access.roles import Right


@dataclass(frozen=True, slots=True)
class Visit:
    """One request, before its identity is known.

    Attributes:
        page: what it requests, for logs and the audit log: ``GET /metrics``.
        peer: where it comes from, as gRPC names it: ``ipv4:10.0.0.7:4711``.
        authorization: its header of that name; None without one.
        is_encrypted: whether the connection is.
        common_names, alternative_names: of the certificate that the TLS handshake has checked.
        right: what the page needs on some run.
        cookie: of an earlier login; None without one.
    """

    page: str
    peer: str
    authorization: str | None = field(default=None, repr=False)
    is_encrypted: bool = False
    common_names: tuple[str, ...] = ()
    alternative_names: tuple[str, ...] = ()
    right: Right = Right.READ
    cookie: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Visitor:
    """A caller that was let in.

    Attributes:
        caller: the identity.
        may_read: says whether it may see a run on the page that it requests.
        sees_all: whether it may see every run there, and on other pages than `/metrics` do everything.
    """

    caller: Caller
    may_read: Callable[[str], bool]
    sees_all: bool


class Porter(Protocol):
    """What lets visitors in; see `ckptd.service.visitors`."""

    async def admit(self, visit: Visit) -> Visitor:
        """Return the caller behind a request.

        Raises:
            UnauthenticatedError: it shows no identity, or one that is not known or has expired.
            NotPermittedError: it has the right that the page needs on no run.
            NotNowError: it comes too often.
        """
