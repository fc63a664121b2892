"""What a client shows a daemon, and what it wants to see of it, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Credentials:
    """Read from arguments, files and the environment; nothing here is a path.

    Attributes:
        token: the bearer token that is shown with each call.
        ca: PEM of the authority that must have signed the daemon's certificate; None: the usual ones.
        client_certificate: PEM of our certificate, with those between it and its authority, and PEM of its private key.
    """

    token: str | None = field(default=None, repr=False)
    ca: bytes | None = field(default=None, repr=False)
    client_certificate: tuple[bytes, bytes] | None = field(default=None, repr=False)


NO_CREDENTIALS = Credentials()
