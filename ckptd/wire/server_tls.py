"""What a listener shows and trusts, for gRPC and for HTTP alike."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM contents: our certificate chain and key, and the authority whose clients are let in, if any."""

    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    client_ca: bytes | None = field(default=None, repr=False)
