"""How a command reaches a daemon: the address, the token and the certificates, from options or from the environment.

Options come before `CKPTD_ADDRESS`, `CKPTD_TOKEN`, `CKPTD_CA`, `CKPTD_CERT` and `CKPTD_KEY`; without an address it is
the daemon of this host.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ckptd.cli import output
from ckptd.errors import InvalidRequestError, UnavailableError

if TYPE_CHECKING:
    import grpc

    from ckptd.wire.addresses import Address

_MOST_HANDSHAKE_S = 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Identity:
    """Credentials for a daemon, and the authority that signed its own: files of options; None is the environment's."""

    token_file: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def token(self) -> str | None:
        """Return the token that the file holds, or else the environment's."""
        from ckptd.client.paths.environment import given_token

        return given_token(_held(self.token_file) if self.token_file else None)


class _File(click.Path):
    """A file that exists. One in a directory that is closed to us is left to its reader, which says so."""

    def convert(self, value: Any, parameter: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        try:
            os.stat(value)  # noqa: PTH116 (a Path would not take every byte of a name)
        except PermissionError:
            return value
        except OSError:
            pass
        return super().convert(value, parameter, ctx)


def _held(path: str) -> str:
    """Return the token that a file holds."""
    from ckptd.access import token_file

    token = token_file.read(path)
    _warn_if_readable(path)
    return token


@functools.cache
def _warn_if_readable(path: str) -> None:
    from ckptd.access import tokens

    if tokens.readable_by_others(path):
        output.note(f"ckptd: {path} can be read by other users of this host: chmod 600 {path}")


ANONYMOUS = Identity()
"""No option was passed."""


def identity_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add ``--token-file``, ``--ca``, ``--cert`` and ``--key`` to a command, which gets their values as `identity`."""

    @functools.wraps(command)
    def with_identity(
        *arguments: Any, token_file: str | None, ca: str | None, cert: str | None, key: str | None, **others: Any
    ) -> T:
        return command(*arguments, identity=Identity(token_file, ca, cert, key), **others)

    existing = _File(exists=True, dir_okay=False, readable=False)  # whether it can be read is told when it is
    for name, text in (
        ("--key", "Its private key, PEM; also CKPTD_KEY."),
        ("--cert", "The client's own certificate, PEM; also CKPTD_CERT."),
        ("--ca", "The daemon's authority, PEM; also CKPTD_CA."),
        ("--token-file", "The daemon's token; CKPTD_TOKEN holds it itself."),
    ):
        with_identity = click.option(name, metavar="FILE", type=existing, help=text)(with_identity)
    return with_identity


def where(address: str | None) -> Address:
    """Return the daemon's address: as given, else the environment's, else that of this host.

    Raises:
        InvalidRequestError: it is none, or names a store.
    """
    from ckptd.client.paths.environment import ADDRESS_VARIABLE, address_or_local
    from ckptd.wire import addresses

    try:
        return addresses.parse(address_or_local(address))
    except InvalidRequestError as error:
        if address is None:
            error.add_note(f"{ADDRESS_VARIABLE} says so; this command needs a daemon")
        raise


def from_environment() -> str | None:
    """Return the address of the daemon that ``CKPTD_ADDRESS`` names, None if it names none, or a store."""
    from ckptd.client.paths.environment import given_address
    from ckptd.wire import addresses

    given = given_address(None)
    return given if given and addresses.is_daemon(given) else None


@contextmanager
def channel(
    address: Address, identity: Identity, *, timeout_s: float, shows_token: bool = True
) -> Iterator[grpc.Channel]:
    """Yield a channel to a daemon, after a check of the socket or of both certificates.

    It has no token without `shows_token`.

    Raises:
        NotPermittedError: this user may not use the socket.
        CkptdError: see `tls.check`.
    """
    from ckptd.client.paths.environment import given_credentials
    from ckptd.wire import places, tls
    from ckptd.wire.channels import open_channel

    shown = given_credentials(
        str(address), token=identity.token(), ca=identity.ca, cert=identity.cert, key=identity.key
    )
    token = shown.token if shows_token else None
    try:
        if address.is_unix:
            places.check_access(address)
        tls.check(address, shown, timeout_s=min(timeout_s, _MOST_HANDSHAKE_S))
        with open_channel(address, token=token, ca=shown.ca, client_certificate=shown.client_certificate) as opened:
            yield opened
    except UnavailableError as error:
        tls.check_plain(address, error, timeout_s=min(timeout_s, _MOST_HANDSHAKE_S))
        if not error.is_answer and (why := places.origin(address, os.environ)):
            error.add_note(why)
        raise
