"""How a command reaches a daemon: the address, the token and the authority, from options or from the environment.

Options come before `CKPTD_ADDRESS`, `CKPTD_TOKEN` and `CKPTD_CA`; without an address it is the daemon of this host.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ckptd.errors import InvalidRequestError

if TYPE_CHECKING:
    import grpc

    from ckptd.wire.addresses import Address

_MOST_HANDSHAKE_S = 5.0

Command = TypeVar("Command", bound=Callable[..., Any])


def identity_options(command: Command) -> Command:
    """Give a command ``--token-file`` and ``--ca``; it gets their values as `token_file` and `ca`."""
    existing = click.Path(exists=True, dir_okay=False)
    for option in (
        click.option("--ca", metavar="FILE", type=existing, help="The daemon's authority, PEM; also CKPTD_CA."),
        click.option(
            "--token-file", metavar="FILE", type=existing, help="The daemon's token; CKPTD_TOKEN holds it itself."
        ),
    ):
        command = option(command)
    return command


def where(address: str | None) -> Address:
    """Return the daemon's address: as given, else the environment's, else that of this host.

    Raises:
        InvalidRequestError: it is none, or names a store.
    """
    from ckptd.client.paths.environment import ADDRESS_VARIABLE, given_address
    from ckptd.wire import addresses, places

    given = given_address(address)
    if not given:
        return places.daemon_address(os.environ)
    try:
        return addresses.parse(given)
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


def token_of(token_file: str | None) -> str | None:
    """Return the token that a file holds, or else the environment's."""
    from ckptd.client.paths.environment import given_token

    return given_token(Path(token_file).read_text().strip() if token_file else None)


@contextmanager
def channel(address: Address, token_file: str | None, ca: str | None, *, timeout_s: float) -> Iterator[grpc.Channel]:
    """Yield a channel to a daemon; its certificate has been looked at.

    Raises:
        CkptdError: see `tls.check`.
    """
    from ckptd.client.paths.environment import given_ca
    from ckptd.wire import tls
    from ckptd.wire.channels import open_channel

    authority = given_ca(ca, str(address))
    tls.check(address, authority, timeout_s=min(timeout_s, _MOST_HANDSHAKE_S))
    with open_channel(address, token=token_of(token_file), ca=authority) as opened:
        yield opened
