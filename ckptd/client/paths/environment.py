"""What the environment says about the daemon: `CKPTD_ADDRESS`, `CKPTD_TOKEN` and `CKPTD_CA`.

They hold alike for `Checkpointer`, for every adapter and for every command; what a caller passes comes first.
"""

from __future__ import annotations

import os
from pathlib import Path as LocalPath

from ckptd.client.paths.latest import Path, as_text
from ckptd.errors import InvalidRequestError
from ckptd.wire import addresses, places

ADDRESS_VARIABLE = "CKPTD_ADDRESS"
"""Names a daemon, or a store, in the environment."""

TOKEN_VARIABLE = "CKPTD_TOKEN"  # noqa: S105 - the variable's name
CA_VARIABLE = "CKPTD_CA"


def given_address(address: Path | None) -> str:
    """Return the address that is given, or else the environment's; empty when there is none."""
    return os.environ.get(ADDRESS_VARIABLE, "").strip() if address is None else as_text(address)


def address_or_local(address: Path | None) -> str:
    """Return the address that is given, or the environment's, or else that of the daemon of this host.

    That is the user's own socket, or ``/run/ckptd/ckptd.sock``, whichever is there first; if neither is, the user's.
    """
    return given_address(address) or str(places.local_daemon(os.environ))


def given_token(token: str | None) -> str | None:
    """Return the token that is given, or else the environment's."""
    return (os.environ.get(TOKEN_VARIABLE, "").strip() or None) if token is None else token


def given_ca(ca: str | bytes | None, address: str) -> bytes | None:
    """Return the PEM of the authority that is given, as such or as a file's path, or else the environment's.

    The environment's is left alone at an address without TLS, which would refuse one.

    Raises:
        InvalidRequestError: the file can't be read.
    """
    if isinstance(ca, bytes):
        return ca
    text = ca
    if text is None and addresses.parse(address).secure:
        text = os.environ.get(CA_VARIABLE, "").strip() or None
    if text is None:
        return None
    if "-----BEGIN" in text:
        return text.encode()
    try:
        return LocalPath(text).read_bytes()
    except OSError as error:
        where = "" if ca is not None else f" that {CA_VARIABLE} names"
        raise InvalidRequestError(f"the certificate authority{where} can't be read: {error}") from error
