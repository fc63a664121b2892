"""TLS of the listener for HTTP, with certificates that may be renewed while it runs.

A client may show a certificate and need not: health is told to each, and a token is an identity as well.
"""

from __future__ import annotations

import ssl

from ckptd.wire import tls_faults
from ckptd.wire.server_tls import Tls


class RenewableTls:
    """What the next handshakes use. Any thread may renew it.

    Attributes:
        context: for the listener, which keeps it: each handshake goes on with the newest one.
    """

    def __init__(self, tls: Tls) -> None:
        """Begin with what was read at the start."""
        self.context = self._newest = _context(tls)
        self.context.sni_callback = self._use_newest

    def renew(self, tls: Tls) -> None:
        """Use others from the next handshake on."""
        self._newest = _context(tls)

    def _use_newest(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: object) -> None:
        connection.context = self._newest


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    tls_faults.load(context, tls.certificate, tls.key, "the daemon", "--tls-cert and --tls-key")
    if tls.client_ca is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
        tls_faults.trust(context, tls.client_ca, "--client-ca")
    return context
