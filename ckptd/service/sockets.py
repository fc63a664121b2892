"""Sockets: whether a process listens on one, and which process is at the other end."""

from __future__ import annotations

import os
import select
import socket
import time
from pathlib import Path

from ckptd.errors import CkptdError, ConflictError, InvalidRequestError, NotPermittedError, UnavailableError
from ckptd.wire.addresses import Address
from ckptd.wire.tickets import credentials_at

_BACKLOG = 128
_ENDING_S = 5.0  # for a daemon that is ending to close its last sockets
_LOOK_S = 0.05


def may_be_in_use(path: Path) -> bool:
    """Return whether a socket may belong to a process that lives: only a refused connection says that none does.

    One that is stopped, or has as many connections waiting as it may have, takes none and lives. One of another user
    may not be looked at.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def listen_at(path: Path, mode: int, option: str) -> socket.socket:
    """Return a socket that listens at `path` with these permissions; what a dead process left there is removed.

    A daemon closes the sockets beside its own address last: where it still has this one, it is most likely ending, and
    is waited for, a few seconds. May block for so long.

    Raises:
        ConflictError: another daemon listens there: `option` would say where else; or it is no socket.
        NotPermittedError: this user may not.
        UnavailableError: the system does not let us.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        until = time.monotonic() + _ENDING_S
        while not _is_removed(path):
            if time.monotonic() > until:
                raise ConflictError(
                    f"another daemon still listens on {path}: end it if it hangs, or pass another {option}"
                )
            time.sleep(_LOOK_S)
        mask = os.umask(0o777 & ~mode)  # born with its permissions
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise refusal(path, error) from error
    except BaseException:
        listener.close()
        raise
    return listener


def refusal(where: object, error: OSError | None) -> CkptdError:
    """Return the error that says that the system does not let us listen there."""
    kind = NotPermittedError if isinstance(error, PermissionError) else UnavailableError
    return kind(f"the system does not allow listening on {where}{'' if error is None else f': {error.strerror}'}")


def why_no_port(host: str, port: int) -> OSError | None:
    """Return the system's reason why no program may listen there, which gRPC does not pass on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def _is_removed(path: Path) -> bool:
    """Remove what a dead process left there; say whether nothing is there any more."""
    if not path.exists():
        return True
    if not path.is_socket():
        raise ConflictError(f"there is something else at {path}: it is no socket")
    if may_be_in_use(path):
        return False
    path.unlink(missing_ok=True)
    return True


def user_at(connection: socket.socket) -> int:
    """Return the user of the process at the other end."""
    return credentials_at(connection)[1]


def is_hung_up(connection: socket.socket, within_s: float) -> bool:
    """Wait, whatever else comes, until the other end has hung up, or so long; say whether it has."""
    waiting = select.poll()
    waiting.register(connection, select.POLLRDHUP)
    return bool(waiting.poll(within_s * 1e3))


def process_at(connection: socket.socket, mode: int) -> int:
    """Return the process at the other end; `NotPermittedError` for one of another user, unless `mode` lets that in."""
    pid, uid = credentials_at(connection)
    if uid not in (0, os.geteuid()) and not mode & 0o066:
        raise NotPermittedError("shared memory is for processes of the daemon's own user", actual=uid)
    return pid


def check_is_free(address: Address) -> None:
    """gRPC would remove another daemon's socket to make room for ours: look first whether a process answers."""
    path = Path(address.path)
    if path.exists() and not path.is_socket():
        raise ConflictError(f"there is something else at {path}: it is no socket")
    if not path.parent.is_dir():
        raise InvalidRequestError(f"the directory of {address} does not exist")
    if path.exists() and may_be_in_use(path):
        raise ConflictError(f"another daemon listens on {address}; pass another --listen")


def answers(address: Address) -> bool:
    """Say whether something listens at a TCP address."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect((address.host, address.port))
        except OSError:
            return False
    return True
