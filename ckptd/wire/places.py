"""Where a daemon and its clients on the same host meet by default."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ckptd.errors import InvalidRequestError, NotPermittedError
from ckptd.wire import addresses
from ckptd.wire.addresses import MAX_SOCKET_PATH, Address

ADDRESS_VARIABLE = "CKPTD_ADDRESS"
"""Names a daemon, or a store, in the environment."""

LOCAL = ("unix://", "unix:")
"""What people write for `local_daemon`."""

SOCKET_NAME = "ckptd.sock"
SYSTEM_SOCKET = Address(path=f"/run/ckptd/{SOCKET_NAME}")
"""Where a daemon of the whole host, or of a pod, listens."""


def runtime_socket(environ: Mapping[str, str], *, create: bool = False) -> Address:
    """Return the user's own socket: in the runtime directory, else in a directory that only the user may enter.

    With `create` the directory is made where it is ours to make. `NotPermittedError` when another user has made it.
    """
    uid = os.getuid()
    for candidate in (environ.get("XDG_RUNTIME_DIR"), f"/run/user/{uid}"):
        if not candidate or not Path(candidate).is_dir() or not os.access(candidate, os.W_OK):
            continue
        path = str(Path(candidate).absolute() / SOCKET_NAME)
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            return Address(path=path)
    directory = Path(tempfile.gettempdir()) / f"ckptd-{uid}"
    if create:
        directory.mkdir(mode=0o700, exist_ok=True)
    if directory.exists():
        _check_ours(directory, uid)
    return Address(path=str(directory / SOCKET_NAME))


def runtime_directory(environ: Mapping[str, str]) -> Path | None:
    """Return the directory of the user's own sockets, made if need be; None where there is no private one."""
    try:
        return Path(runtime_socket(environ, create=True).path).parent
    except (NotPermittedError, OSError):
        return None


def default_addresses(environ: Mapping[str, str]) -> tuple[Address, ...]:
    """Return where a daemon listens by default: where only its own user can reach it."""
    return (runtime_socket(environ, create=True),)


def local_daemon(environ: Mapping[str, str]) -> Address:
    """Return the socket of a daemon on this host: the user's, or the host's; the user's if neither is there."""
    own = runtime_socket(environ)
    found = (socket for socket in (own, SYSTEM_SOCKET) if Path(socket.path).is_socket())
    return next(found, own)


def origin(address: Address, environ: Mapping[str, str]) -> str:
    """Say why `address` is one that this user has named, or that is looked at by default; empty for any other.

    A token may go there. It may not go to an address that a file of another user names.
    """
    named = environ.get(ADDRESS_VARIABLE, "").strip()
    if addresses.is_daemon(named) and named not in LOCAL:
        with contextlib.suppress(InvalidRequestError):
            if _is_same(addresses.parse(named), address):
                return f"{ADDRESS_VARIABLE} names this address"
    if _is_same(SYSTEM_SOCKET, address):
        return "this is the socket of the host's daemon"
    with contextlib.suppress(NotPermittedError):
        if _is_same(runtime_socket(environ), address):
            return (
                f"this is the socket of the user's own daemon; without an address, {ADDRESS_VARIABLE}, this socket and "
                f"{SYSTEM_SOCKET.path} are looked for, in this order"
            )
    return ""


def check_access(address: Address) -> None:
    """Raise `NotPermittedError` unless this user may connect to a Unix socket; gRPC would call it unavailable."""
    try:
        Path(address.path).stat()
        is_open = os.access(address.path, os.W_OK, effective_ids=True)
    except PermissionError:
        is_open = False
    except OSError:  # not there yet, perhaps: gRPC tells
        return
    if not is_open:
        raise NotPermittedError(
            f"this user may not use the socket {address.path}: it needs write permission for the socket, and the right "
            "to pass through each directory above it"
        )


def _is_same(one: Address, other: Address) -> bool:
    return one.target == other.target and bool(one.secure) == bool(other.secure)


def _check_ours(directory: Path, uid: int) -> None:
    # Any user may create names in the temporary directory: a socket in another user's directory would be that user's.
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or status.st_mode & 0o077:
        raise NotPermittedError(
            "this directory for the socket must belong to its user alone: remove it or set XDG_RUNTIME_DIR",
            key=str(directory),
        )
