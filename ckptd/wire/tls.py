"""A TLS handshake before gRPC's own: it distinguishes a wrong certificate, of either end, from a daemon that is away.

gRPC reports both as UNAVAILABLE, tries again without end, and prints two lines to stderr at each try. A certificate
that is not trusted will not become trusted by trying again. So one handshake with Python's own TLS comes first; it
trusts what gRPC would trust, and its error is final.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ckptd.errors import InvalidRequestError, NotPermittedError, UnavailableError
from ckptd.wire import tls_faults
from ckptd.wire.addresses import Address
from ckptd.wire.credentials import Credentials

_REFUSALS_OF_OURS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    "TLSV1_ALERT_UNKNOWN_CA",
    "SSLV3_ALERT_BAD_CERTIFICATE",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    "SSLV3_ALERT_HANDSHAKE_FAILURE",
    "TLSV1_ALERT_DECRYPT_ERROR",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
}
"""What the other end's TLS says of our certificate, or of there being none."""

_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
_OWN = "cert= and key=, --cert and --key, or CKPTD_CERT and CKPTD_KEY"
_MOST_NAMES = 10

_ROOTS_VARIABLE = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"  # gRPC's own: replaces the authorities that it brings along


def check(address: Address, credentials: Credentials, *, timeout_s: float) -> None:
    """Connect to a daemon over TLS, see that both ends trust each other, and hang up. Nothing happens without TLS.

    Args:
        address: of the daemon.
        credentials: the authority that must have signed its certificate, and ours, if it wants to see one.
        timeout_s: the bound of connecting and of the handshake.

    Raises:
        NotPermittedError: its certificate cannot be trusted, or is for another host; or it does not take ours.
        InvalidRequestError: the other end does not use TLS, or what was given is no certificate or no key of it.
        UnavailableError: nothing answers; trying again may help.
    """
    if not address.secure:
        return
    context = _context(credentials)
    try:
        if not _is_answered(address, context, timeout_s) and _refuses_in_handshake(address, context, timeout_s):
            raise _refused(address, credentials)
    except ssl.SSLCertVerificationError as error:
        names = (
            _names(address, context, timeout_s)
            if error.verify_code in (tls_faults.Code.OTHER_HOST, tls_faults.Code.OTHER_ADDRESS)
            else []
        )
        why = tls_faults.why_not_trusted(error, address.host, names)
        raise NotPermittedError(f"the certificate of {address} is not trusted: {why}") from None
    except ssl.SSLError as error:
        if error.reason in _REFUSALS_OF_OURS:
            raise _refused(address, credentials) from None
        if error.reason in _NO_TLS:
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


def _is_answered(address: Address, context: ssl.SSLContext, timeout_s: float) -> bool:
    """Say whether the other end goes on after the handshake.

    With TLS 1.3 that ends on our side before the other has seen our certificate, or missed it.
    """
    with _connected(address, context, timeout_s) as encrypted:
        try:
            return bool(encrypted.recv(1))  # of HTTP/2's settings, which a server sends at once
        except TimeoutError:
            return True  # it has refused nothing; whether it serves is for the call to find out
        except ConnectionError:
            return False


def _refuses_in_handshake(address: Address, context: ssl.SSLContext, timeout_s: float) -> bool:
    """Say whether it is our certificate that the other end hangs up for.

    gRPC does so without a word, as does a daemon that is just ending. With TLS 1.2 certificates are part of the
    handshake: if that breaks off too, they are the reason.
    """
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        with _connected(address, context, timeout_s):
            return False
    except (ssl.SSLEOFError, ConnectionResetError):
        return True


@contextmanager
def _connected(address: Address, context: ssl.SSLContext, timeout_s: float) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection((address.host, address.port), timeout_s) as plain,
        context.wrap_socket(plain, server_hostname=address.host.partition("%")[0]) as encrypted,
    ):
        yield encrypted


def _names(address: Address, context: ssl.SSLContext, timeout_s: float) -> list[str]:
    """Return the names that the other end's certificate is for, once it is trusted but for that."""
    context.check_hostname = False
    with contextlib.suppress(OSError), _connected(address, context, timeout_s) as encrypted:
        shown: Any = encrypted.getpeercert()
        return [str(name) for _, name in shown.get("subjectAltName", ())][:_MOST_NAMES]
    return []


def check_plain(address: Address, error: UnavailableError, *, timeout_s: float) -> None:
    """Raise `InvalidRequestError` if a call without TLS failed with `error` because what listens there uses TLS.

    All that gRPC says of it is that the other end hangs up.
    """
    if error.hung_up and not address.secure and not address.is_unix and _uses_tls(address, timeout_s):
        raise InvalidRequestError(
            f"what listens at {address} uses TLS: write grpcs://{address.target}, and pass the authority that signed "
            "its certificate (ca=, --ca or CKPTD_CA)"
        ) from None


def _uses_tls(address: Address, timeout_s: float) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # only its protocol matters here
    context.set_alpn_protocols(["h2"])
    try:
        with _connected(address, context, timeout_s):
            return True
    except ssl.SSLError as error:
        return error.reason in _REFUSALS_OF_OURS
    except (OSError, UnicodeError):
        return False


def _refused(address: Address, credentials: Credentials) -> NotPermittedError:
    if credentials.client_certificate is None:
        return NotPermittedError(f"{address} wants a client's certificate: pass one with its key ({_OWN})")
    why = tls_faults.fault_of(*credentials.client_certificate, is_server_s=False)
    return NotPermittedError(
        f"{address} does not take the client's certificate ({_OWN}): "
        + (why or "the authority that it trusts (--client-ca) did not sign it: have one made with that authority")
    )


def _context(credentials: Credentials) -> ssl.SSLContext:
    """Return what trusts as gRPC does: `ca` alone, or the authorities that gRPC takes when none is given."""
    ca = credentials.ca
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_TRUSTED_FIRST
    context.set_alpn_protocols(["h2"])
    tls_faults.trust(context, _usual_roots() if ca is None else ca, "ca=, --ca or CKPTD_CA")
    if credentials.client_certificate is not None:
        tls_faults.load(context, *credentials.client_certificate, "the client", _OWN)
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
