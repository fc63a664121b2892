"""A TLS handshake before gRPC's own: it distinguishes a wrong certificate from a daemon that is away.

gRPC reports both as UNAVAILABLE, tries again without end, and prints two lines to stderr at each try. A certificate
that is not trusted will not become trusted by trying again. So one handshake with Python's own TLS comes first; it
trusts what gRPC would trust, and its error is final.
"""

from __future__ import annotations

import os
import pkgutil
import socket
import ssl
from pathlib import Path

from ckptd.errors import InvalidRequestError, NotPermittedError, UnavailableError
from ckptd.wire.addresses import Address

_ROOTS_VARIABLE = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"  # gRPC's own: replaces the authorities that it brings along


def check(address: Address, ca: bytes | None, *, timeout_s: float) -> None:
    """Connect to a daemon over TLS, look at its certificate, and hang up. Does nothing for an address without TLS.

    Args:
        address: of the daemon.
        ca: PEM of the authority that has to have signed its certificate; None for the usual ones.
        timeout_s: the bound of connecting and of the handshake.

    Raises:
        NotPermittedError: the certificate cannot be trusted, or is for another host.
        InvalidRequestError: the other end does not use TLS, or `ca` is no certificate.
        UnavailableError: nothing answers; trying again may help.
    """
    if not address.secure:
        return
    context = _context(ca)
    try:
        with (
            socket.create_connection((address.host, address.port), timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=address.host.partition("%")[0]),
        ):
            return
    except ssl.SSLCertVerificationError as error:
        raise NotPermittedError(
            f"the certificate of {address} is not trusted: {error.verify_message.rstrip('.')}; pass the authority "
            "that signed it (ca=, --ca or CKPTD_CA), and connect by a name that the certificate is for"
        ) from None
    except ssl.SSLError as error:
        if error.reason == "WRONG_VERSION_NUMBER":
            raise InvalidRequestError(
                f"what listens at {address} does not use TLS: write grpc://{address.target}, or start the daemon "
                "with --tls-cert and --tls-key"
            ) from None
        raise UnavailableError(f"no secure connection to {address}: {error.reason or error}") from error
    except UnicodeError as error:
        raise InvalidRequestError(f"{address.host!r} is not a host name: {error}") from error
    except OSError as error:
        why = f"{_reason(error)}; start one with `ckptd serve --root DIR`"
        raise UnavailableError.unanswered(address, why) from error


def _context(ca: bytes | None) -> ssl.SSLContext:
    """Return what trusts as gRPC does: `ca` alone, or the authorities that gRPC takes when none is given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_TRUSTED_FIRST
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(cadata=(_usual_roots() if ca is None else ca).decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise InvalidRequestError(
            "the certificate authority (ca=, --ca or CKPTD_CA) is not a PEM certificate"
        ) from error
    return context


def _usual_roots() -> bytes:
    named = os.environ.get(_ROOTS_VARIABLE)
    if named and Path(named).is_file():
        return Path(named).read_bytes()
    return pkgutil.get_data("grpc._cython", "_credentials/roots.pem") or b""


def _reason(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "the host's name is not known"
    return "no answer" if isinstance(error, TimeoutError) else (error.strerror or str(error))
