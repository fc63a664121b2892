"""Where a daemon may listen: only where clients need an identity, unless the operator allows others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptd.errors import InvalidRequestError, NotPermittedError
from ckptd.wire.addresses import Address, http_url

_OF_OTHERS = 0o006  # users that are not of the socket's group

if TYPE_CHECKING:
    from ckptd.service.server import ServerOptions


def check_exposure(options: ServerOptions) -> tuple[Address, ...]:
    """Return the addresses with TLS decided; `NotPermittedError` for one open to clients without an identity."""
    if not options.listen:
        raise InvalidRequestError("there is no address to listen on")
    return tuple(
        _decided(
            address,
            options,
            str,
            elsewhere="; or listen on a unix:// socket",
            with_tls="grpcs://",
            without="Without one, leave out --listen, and the daemon has a socket for its own user; or ",
        )
        for address in options.listen
    )


def check_http_exposure(options: ServerOptions) -> Address | None:
    """Return the address of ``--http`` with TLS decided, None without one; by the rules that hold for gRPC."""
    if options.http is None:
        return None
    # A page on this host is for those that a Unix socket lets in: `ckptd open` logs them in.
    logs_in = any(address.is_unix for address in options.listen)
    return _decided(
        options.http, options, http_url, elsewhere="", with_tls="https://", without="Without one, ", logs_in=logs_in
    )


def _decided(
    address: Address,
    options: ServerOptions,
    name: Callable[[Address], str],
    *,
    elsewhere: str,
    with_tls: str,
    without: str,
    logs_in: bool = False,
) -> Address:
    """Return an address with TLS decided; `NotPermittedError` if clients without an identity could reach it."""
    if address.secure is None:
        address = replace(address, secure=options.tls is not None and not address.is_loopback)
    if address.secure and options.tls is None:
        raise NotPermittedError(f"{name(address)} needs a certificate: pass --tls-cert FILE and --tls-key FILE")
    identity = options.access.has_tokens or (address.secure and options.tls and options.tls.client_ca)
    if not address.is_loopback and not (address.secure and identity):
        raise NotPermittedError(
            f"{name(address)} can be reached from other hosts: that needs TLS (--tls-cert and --tls-key) and an "
            f"identity (--token-file, --tokens or --client-ca){elsewhere}"
        )
    if not (address.is_unix or identity or logs_in or options.access.admits_loopback):
        raise NotPermittedError(
            f"{name(address)} can be reached by every user of this host, so callers need an identity: --token-file, "
            f"--tokens, or --client-ca with {with_tls}. {without}pass --insecure-loopback to serve every process of "
            "this host"
        )
    return address


def exposure_warnings(
    options: ServerOptions, listen: Sequence[Address], http: Address | None = None
) -> tuple[str, ...]:
    """Return what an operator must know of the addresses in `listen` and of `http`, for as long as the daemon runs."""
    access = options.access
    ports = [_shown(address) for address in listen if not address.is_unix]
    ports += [] if http is None else [_shown(http, http_url)]
    sockets = [str(address) for address in listen if address.is_unix]
    said = []
    if ports and access.admits_loopback:
        said.append(
            f"--insecure-loopback: every process of this host, of any user, may do everything over {', '.join(ports)}"
        )
    if sockets and access.socket_owner is None and not access.has_tokens and access.policy.grants is None:
        mode = options.socket_mode
        users = "every user of this host" if mode & _OF_OTHERS else "every user of the socket's group"
        said.append(
            f"--socket-mode {mode:04o}: {users} may do everything over {', '.join(sockets)}, as there is neither "
            "--policy nor --tokens"
        )
    return tuple(said)


def _shown(address: Address, name: Callable[[Address], str] = str) -> str:
    return name(address) if address.port else f"{address.host} (a free port is chosen)"
