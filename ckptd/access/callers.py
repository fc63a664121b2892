"""The identity behind a call, as the policy, the log and the audit log name it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ckptd.errors import NotPermittedError

TOKEN, CERTIFICATE, USER, LOOPBACK = "token", "cert", "uid", "loopback"


class UnauthenticatedError(NotPermittedError):
    """The call shows no identity, or one that is not known: UNAUTHENTICATED on the wire, 401 over HTTP."""


@dataclass(frozen=True, slots=True)
class Caller:
    """One identity.

    Attributes:
        kind: `TOKEN`, `CERTIFICATE`, `USER` or `LOOPBACK`.
        name: of the token, the certificate's common name, the number of the user; empty for the loopback interface.
        aliases: other names that a policy may call it by: a certificate's alternative names.
        proof: the hash of the token that was shown. With it a token that was revoked, and a new one of the same name,
            are two callers; the policy, the logs and limits do not tell them apart.
    """

    kind: str
    name: str = ""
    aliases: tuple[str, ...] = ()
    proof: str = field(default="", repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """All that a policy may call it, first as messages do: ``token:vision``, ``cert:trainer-3``, ``uid:1000``."""
        return (str(self), *(f"{self.kind}:{alias}" for alias in self.aliases))

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


def of_token(name: str, proof: str = "") -> Caller:
    """Return the identity of a token that has this name, and this hash."""
    return Caller(TOKEN, name, proof=proof)


def of_user(uid: int) -> Caller:
    """Return the identity of a user of this host."""
    return Caller(USER, str(uid))


def of_certificate(common_names: Iterable[str], alternative_names: Iterable[str]) -> Caller | None:
    """Return the identity of a client certificate; None if it names nothing."""
    names = list(dict.fromkeys(name for name in (*common_names, *alternative_names) if name))
    return Caller(CERTIFICATE, names[0], tuple(names[1:])) if names else None


OF_LOOPBACK = Caller(LOOPBACK)
"""Any process of this host, over an address that was opened without an identity."""
