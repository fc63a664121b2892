"""The caller's identity and rights: every call passes here before a service sees it.

An identity is a bearer token, else the certificate that the TLS handshake checked, else the user at the other end of a
Unix socket, which a ticket tells, else, where the operator opened it so, any process of this host. What the identity
may do is the policy's to say (`ckptd.access.policy`).
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

from ckptd.access import callers, tokens
from ckptd.access.callers import Caller, UnauthenticatedError
from ckptd.access.policy import NO_POLICY, Policy
from ckptd.access.roles import Right
from ckptd.access.tokens import Token, Tokens
from ckptd.engine.refusals import NotNowError
from ckptd.errors import CkptdError, NotPermittedError
from ckptd.service.requirements import Requirement
from ckptd.service.tickets import Tickets
from ckptd.wire import status
from ckptd.wire.channels import TOKEN_KEY, authorization
from ckptd.wire.tickets import TICKET_KEY

_log = logging.getLogger("ckptd.service")

OF_OTHER_USER = Caller(callers.USER, "other")
"""A user that the permissions of a shared Unix socket let in and that shows no ticket: an older ckptd, say."""

_NO_TICKET = (
    "the call does not show its user: its ckptd is older than the daemon's, or users other than root, it and the "
    "daemon's can replace the socket"
)
_BEARER = "Bearer "
_VERBS = {
    Right.METRICS: "read the figures of",
    Right.READ: "read",
    Right.SAVE: "save to",
    Right.MANAGE: "manage",
    Right.AGENT: "write for",
    Right.ADMIN: "administer",
}


def refusal_of(error: CkptdError, *, is_answer: bool = False) -> status.Status:
    """Return what a call that ends with `error` is answered; see `status.to_wire`."""
    code = grpc.StatusCode.UNAUTHENTICATED if isinstance(error, UnauthenticatedError) else None
    return status.to_wire(error, code=code, is_answer=is_answer)


@dataclass(frozen=True, slots=True)
class Access:
    """Which identities there are, and what they may do.

    Attributes:
        shared_token: the one token of ``--token-file``.
        tokens: those with names.
        policy: what they may do.
        admits_loopback: whether addresses of the loopback interface need no identity (``--insecure-loopback``).
        socket_owner: the user that a Unix socket's permissions let in alone; None when they let others in as well.
    """

    shared_token: str | None = field(default=None, repr=False)
    tokens: Tokens | None = None
    policy: Policy = NO_POLICY
    admits_loopback: bool = False
    socket_owner: int | None = None

    @property
    def has_tokens(self) -> bool:
        """Whether any token is known."""
        return self.shared_token is not None or self.tokens is not None

    @property
    def is_shared(self) -> bool:
        """Whether it tells several identities apart."""
        return self.tokens is not None or self.policy.grants is not None or self.socket_owner is None

    @property
    def admits_users(self) -> bool:
        """Whether a user's ticket is an identity: not at a shared socket where only tokens grant every right."""
        return self.socket_owner is not None or not self.has_tokens or self.policy.grants is not None


@dataclass(frozen=True, slots=True)
class Shown:
    """What a call shows of its identity.

    Attributes:
        is_unix: whether it came over a Unix socket.
        authorization: its metadata entry of that name.
        certificate: of the client, as the TLS handshake checked it.
        ticket: of its user, see `ckptd.wire.tickets`.
    """

    is_unix: bool
    authorization: str | None = field(default=None, repr=False)
    certificate: Caller | None = None
    ticket: str | None = field(default=None, repr=False)


def shown_by(context: Any) -> Shown:
    """Read what a call shows off its gRPC context."""
    shown: dict[str, str] = {}
    for key, value in context.invocation_metadata() or ():
        if key in (TOKEN_KEY, TICKET_KEY):  # of several the first
            shown.setdefault(key, value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value)
    is_unix = context.peer().startswith("unix:")
    return Shown(is_unix, shown.get(TOKEN_KEY), certificate_of(context.auth_context()), shown.get(TICKET_KEY))


def certificate_of(properties: Mapping[str, Any]) -> Caller | None:
    """Return the identity of the certificate that a connection was made with; `properties` are gRPC's."""
    if "ssl" not in _texts(properties.get("transport_security_type")):
        return None
    common, alternative = properties.get("x509_common_name"), properties.get("x509_subject_alternative_name")
    return callers.of_certificate(_texts(common), _texts(alternative))


class Gate:
    """Answers both questions. `access` may be replaced at any time; see `under_way` for calls in progress.

    Attributes:
        access: what is known now.
        tickets: of the users of this host, good for as long as the daemon lives.
    """

    def __init__(self, access: Access) -> None:
        """Begin with what was read at the start."""
        self.access = access
        self.tickets = Tickets()

    def caller(self, shown: Shown) -> Caller:
        """Return the identity behind a call.

        Raises:
            UnauthenticatedError: it shows none, or one that is not known or has expired.
            NotNowError: its ticket is of an earlier life of the daemon.
        """
        access = self.access
        if shown.authorization is not None and access.has_tokens:  # else a token is of another daemon, and not needed
            return self._holder(shown.authorization)
        if shown.certificate is not None:
            return shown.certificate
        if shown.is_unix and shown.ticket is not None and access.admits_users:
            return self._user(shown.ticket)
        if shown.is_unix and access.socket_owner is not None:
            return callers.of_user(access.socket_owner)
        if shown.is_unix and not access.has_tokens:
            return OF_OTHER_USER
        if access.admits_loopback and not shown.is_unix:
            return callers.OF_LOOPBACK
        raise UnauthenticatedError(
            "the call shows no token; pass one of the daemon's: token=, CKPTD_TOKEN, or --token-file of a command"
        )

    def check_still(self, caller: Caller, needed: Requirement) -> None:
        """Check a caller that showed its identity some time ago, and goes on by what it got then.

        Raises:
            UnauthenticatedError: the token that it showed is no longer known, or has expired.
            NotPermittedError: as for `check`.
        """
        self.check_known(caller)
        self.check(caller, needed)

    def check_known(self, caller: Caller) -> None:
        """Raise `UnauthenticatedError` if the token that a caller has shown is no longer known, or has expired."""
        access = self.access
        if caller.proof and not (
            access.shared_token is not None and caller.proof == tokens.hash_of(access.shared_token)
        ):
            _check_known(None if access.tokens is None else access.tokens.find_hash(caller.proof))

    def check(self, caller: Caller, needed: Requirement) -> None:
        """Raise `NotPermittedError` unless the policy gives `caller` what a call needs."""
        policy, run = self.access.policy, needed.run
        rights = [right for right in (needed.right, needed.or_right) if right is not None]
        serving = [*rights, Right.AGENT] if needed.relayed else rights
        if run is None:
            allowed = any(policy.allows_anywhere(caller, right) for right in serving)
        else:
            allowed = any(policy.allows(caller, right, run) for right in serving)
        if not allowed:
            what = "any run" if needed.run is None else f"run {needed.run!r}"
            roles = " or ".join(f"`{right.value}`" for right in rights)  # they are named alike
            refused = NotPermittedError(
                f"{caller} may not {_VERBS[needed.right]} {what}: the daemon's policy gives it no such role there; it "
                f"needs the role {roles}"
            )
            if caller == OF_OTHER_USER:
                refused.add_note(_NO_TICKET)
            raise refused

    def _user(self, ticket: str) -> Caller:
        uid = self.tickets.uid_of(ticket)
        if uid is None:
            raise NotNowError("the daemon was restarted: the ticket of the call's user is of its life before")
        return callers.of_user(uid)

    def _holder(self, shown: str) -> Caller:
        access = self.access
        if access.shared_token is not None:
            expected = authorization(access.shared_token)[1]
            if hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), expected.encode()):
                return callers.of_token(tokens.SHARED, tokens.hash_of(access.shared_token))
        token = None
        if access.tokens is not None and shown.startswith(_BEARER):
            token = access.tokens.find(shown.removeprefix(_BEARER))
        known = _check_known(token)
        return callers.of_token(known.name, known.sha256)


def _check_known(token: Token | None) -> Token:
    if token is None:
        raise UnauthenticatedError(
            "the call shows a token that is not the daemon's; pass one that is: token=, CKPTD_TOKEN, or "
            "--token-file of a command"
        )
    if token.is_expired(time.time()):
        raise UnauthenticatedError(
            f"the token {token.name!r} has expired: an operator makes a new one with `ckptd token new`"
        )
    return token


def _texts(value: Any) -> tuple[str, ...]:
    each = value if isinstance(value, list | tuple) else () if value is None else (value,)
    return tuple(one.decode("utf-8", "backslashreplace") if isinstance(one, bytes) else str(one) for one in each)
