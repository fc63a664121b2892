"""The certificates of TLS, which may be renewed while the server runs."""

from __future__ import annotations

import re
from typing import Any

import grpc

from ckptd.errors import ConflictError
from ckptd.wire.server_tls import Tls

_CERTIFICATE = re.compile(rb"-----BEGIN [A-Z ]*CERTIFICATE-----(.*?)-----END [A-Z ]*CERTIFICATE-----", re.DOTALL)


class Certificates:
    """What the next handshakes use. Handshakes are made by gRPC's threads."""

    def __init__(self, tls: Tls) -> None:
        """Begin with what was read at the start."""
        self._tls = tls

    def renew(self, tls: Tls) -> bool:
        """Use other certificates from the next handshake on.

        Returns whether an authority of clients is gone: then connections that were made may be of its clients.

        Raises:
            ConflictError: clients would need a certificate now, or would no longer: that is settled at the start.
        """
        if (tls.client_ca is None) != (self._tls.client_ca is None):
            raise ConflictError("whether clients need a certificate cannot change while the daemon runs: restart it")
        gone = _authorities(self._tls) - _authorities(tls)
        self._tls = tls
        return bool(gone)

    def credentials(self) -> Any:
        """Return what one port is opened with."""
        given = self._tls

        def renewed() -> Any:
            nonlocal given
            if given is self._tls:
                return None
            given = self._tls
            return _configuration(given)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(given), renewed, require_client_authentication=given.client_ca is not None
        )


def _authorities(tls: Tls) -> set[bytes]:
    """Return the certificates of clients' authorities, however the file is laid out."""
    return {b"".join(each.split()) for each in _CERTIFICATE.findall(tls.client_ca or b"")}


def _configuration(tls: Tls) -> Any:
    return grpc.ssl_server_certificate_configuration([(tls.key, tls.certificate)], root_certificates=tls.client_ca)
