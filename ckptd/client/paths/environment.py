"""What the environment says about the daemon: `CKPTD_ADDRESS`, `CKPTD_TOKEN`, `CKPTD_CA`, `CKPTD_CERT`, `CKPTD_KEY`.

They apply to `Checkpointer`, to every adapter and to every command; what a caller passes takes precedence.
"""

from __future__ import annotations

import os
from pathlib import Path as LocalPath
from typing import TypeAlias

from ckptd.client.paths.latest import Path, as_text
from ckptd.errors import InvalidRequestError, NotPermittedError
from ckptd.wire import addresses, places
from ckptd.wire.credentials import Credentials
from ckptd.wire.places import ADDRESS_VARIABLE

__all__ = ["ADDRESS_VARIABLE", "CA_VARIABLE", "CERT_VARIABLE", "KEY_VARIABLE", "TOKEN_VARIABLE"]

TOKEN_VARIABLE = "CKPTD_TOKEN"  # noqa: S105 - the variable's name
CA_VARIABLE = "CKPTD_CA"
CERT_VARIABLE = "CKPTD_CERT"
KEY_VARIABLE = "CKPTD_KEY"

Pem: TypeAlias = str | bytes
"""PEM as such, as text or bytes, or the path of a file with it."""


def given_address(address: Path | None) -> str:
    """Return the address that is given, or else the environment's; empty when there is none.

    ``unix://`` without a path is the daemon of this host: the user's own socket, or ``/run/ckptd/ckptd.sock``,
    whichever is there first; if neither is, the user's.
    """
    return or_local(os.environ.get(ADDRESS_VARIABLE, "").strip() if address is None else as_text(address))


def or_local(address: str) -> str:
    """Return `address`, but for ``unix://`` that of the daemon of this host."""
    return str(places.local_daemon(os.environ)) if address in places.LOCAL else address


def address_or_local(address: Path | None) -> str:
    """Return the address that is given, or the environment's, or else that of the daemon of this host."""
    return given_address(address) or or_local("unix://")


def origin_of(address: str) -> str:
    """Say why an address is used that the caller did not pass."""
    if not addresses.is_daemon(address):
        return f"{ADDRESS_VARIABLE} names it"
    return places.origin(addresses.parse(address), os.environ)


def given_credentials(
    address: str, *, token: str | None, ca: Pem | None = None, cert: Pem | None = None, key: Pem | None = None
) -> Credentials:
    """Return what is given, and for what is not, the environment's.

    The environment's certificates are left alone at an address without TLS, which would refuse them. A certificate
    that is given is not joined with the key that the environment names, which belongs to another.

    Raises:
        NotPermittedError: this user may not read a file.
        InvalidRequestError: there is no such file, or a certificate came without its key, or the key alone.
    """
    is_secure = addresses.parse(address).secure
    if cert is None and key is None and is_secure:
        cert, key = _of_environment(CERT_VARIABLE), _of_environment(KEY_VARIABLE)
        names = f"{CERT_VARIABLE} and {KEY_VARIABLE}"
        sources = (f" that {CERT_VARIABLE} names", f" that {KEY_VARIABLE} names")
    else:
        names, sources = "cert= and key= (--cert and --key)", ("", "")
    if (cert is None) != (key is None):
        raise InvalidRequestError(f"a client's certificate and its private key belong together: {names}")
    ca_source = ""
    if ca is None and is_secure:
        ca, ca_source = _of_environment(CA_VARIABLE), f" that {CA_VARIABLE} names"
    pair = None
    if cert is not None and key is not None:
        pair = _pem(cert, f"the client's certificate{sources[0]}"), _pem(key, f"the client's private key{sources[1]}")
    return Credentials(
        token=given_token(token),
        ca=None if ca is None else _pem(ca, f"the certificate authority{ca_source}"),
        client_certificate=pair,
    )


def given_token(token: str | None) -> str | None:
    """Return the token that is given, or else the environment's."""
    return _of_environment(TOKEN_VARIABLE) if token is None else token


def _of_environment(variable: str) -> str | None:
    return os.environ.get(variable, "").strip() or None


def _pem(given: Pem, what: str) -> bytes:
    if isinstance(given, bytes):
        return given
    if "-----BEGIN" in given:
        return given.encode()
    try:
        return LocalPath(given).read_bytes()
    except PermissionError as error:
        raise NotPermittedError(f"{what} can't be read: {error.strerror}", key=given) from error
    except OSError as error:
        raise InvalidRequestError(f"{what} can't be read: {error}") from error
