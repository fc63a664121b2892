"""How a process shows which user it is of, at a daemon's Unix socket: by a ticket from a second socket beside it.

gRPC does not tell a server which user is at the other end of a Unix socket. At ``PATH.uid`` the daemon reads it from
the kernel, and answers each connection with a ticket: text that says the user and that only this daemon, in this life
of it, can have made. Calls over ``PATH`` show the ticket. A client says nothing there and reads until the end.

A ticket is shown only where no users but root, this one and the daemon's could replace the socket: another user might
put its own socket there and collect tickets.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path

import grpc

from ckptd.wire.addresses import MAX_SOCKET_PATH

TICKET_KEY = "ckptd-ticket"
"""The metadata key."""

TICKET_SUFFIX = ".uid"
"""What the name of the socket for tickets ends in; it is beside the one for gRPC."""

MAX_TICKET_BYTES = 256

_MOST_S = 2.0
_TIMEVAL = struct.Struct("ll")
_PEERCRED = struct.Struct("3i")

_State = tuple[int, int, int]

_known: dict[tuple[str, int], tuple[_State, str | None]] = {}
"""What was told at a path to us as this user, and what the socket was then. A daemon that starts makes a new one."""


class NoTicketError(grpc.RpcError):
    """The daemon gives no ticket now: the call fails as one does that reaches no daemon, and may be repeated."""

    def __init__(self, details: str, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        super().__init__(details)
        self._details = details
        self._code = code

    def code(self) -> grpc.StatusCode:
        """Return what gRPC would say: UNAVAILABLE, or DEADLINE_EXCEEDED."""
        return self._code

    def details(self) -> str:
        """Return why, in gRPC's words for it where it has some."""
        return self._details

    def trailing_metadata(self) -> tuple[()]:
        """Return nothing: no daemon has answered."""
        return ()


def credentials_at(connection: socket.socket) -> tuple[int, int]:
    """Return the process and the user at the other end of a Unix socket, as the kernel tells them."""
    pid, uid, _ = _PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return pid, uid


def ticket_for(path: str, timeout_s: float | None = None) -> str | None:
    """Return the ticket to show at the socket `path`; None where the daemon has none to give, or none is to be shown.

    `timeout_s` is for the daemon's answer: two seconds at most, which only the first call may have to wait.

    Raises:
        NoTicketError: the daemon is not there, or stopped. A call without a ticket, once it is back, would be refused.
    """
    us = (path, os.geteuid())
    is_missing = _is_missing(path)  # looked at first: a daemon makes the one for tickets before it makes this
    state = _state(path + TICKET_SUFFIX)
    if state is None:
        _known.pop(us, None)
        if is_missing:
            raise NoTicketError(f"failed to connect; last error: {path}: No such file or directory")
        return None  # an older daemon, or a directory that is closed to us
    known = _known.get(us)
    if known is None or known[0] != state:
        known = _known[us] = state, _fetched(path, _MOST_S if timeout_s is None else min(_MOST_S, timeout_s))
    return known[1]


def _is_missing(path: str) -> bool:
    try:
        Path(path).lstat()
    except FileNotFoundError:
        return True
    except OSError:
        pass  # we may not look: gRPC says so
    return False


def _state(path: str) -> _State | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _fetched(path: str, timeout_s: float) -> str | None:
    beside = path + TICKET_SUFFIX
    if len(os.fsencode(beside)) > MAX_SOCKET_PATH:
        return None
    with _connection(timeout_s) as connection:
        try:
            if not _connects(connection, beside) and not _connects_late(connection, path, timeout_s):
                return None
            if not _is_safe(path, {0, os.geteuid(), credentials_at(connection)[1]}):
                return None
            told = b""
            while len(told) <= MAX_TICKET_BYTES and (more := connection.recv(MAX_TICKET_BYTES + 1)):
                told += more
        except PermissionError:
            return None  # nor may we use the other socket, and gRPC says so
        except BlockingIOError:
            raise NoTicketError(f"no answer at {beside}", grpc.StatusCode.DEADLINE_EXCEEDED) from None
        except OSError as error:
            raise NoTicketError(f"failed to connect; last error: {beside}: {error.strerror}") from None
    ticket = told.decode("ascii", "replace")
    if not told or len(told) > MAX_TICKET_BYTES or not ticket.isascii() or not ticket.isprintable():
        raise NoTicketError(f"the daemon ended while it answered at {beside}")
    return ticket


def _connection(timeout_s: float) -> socket.socket:
    limit = _TIMEVAL.pack(*divmod(max(1, round(timeout_s * 1e6)), 1_000_000))
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):  # with Python's own time limit it would not wait its turn
        connection.setsockopt(socket.SOL_SOCKET, option, limit)
    return connection


def _connects(connection: socket.socket, path: str) -> bool:
    try:
        connection.connect(path)
    except ConnectionRefusedError:
        return False
    return True


def _connects_late(connection: socket.socket, path: str, timeout_s: float) -> bool:
    """Connect for a ticket where nothing listened just now; False where an older daemon has taken the place of ours.

    That is one which listens at `path` alone: one that gives tickets listens for those first.
    """
    with _connection(timeout_s) as probe:
        probe.connect(path)
    return _connects(connection, path + TICKET_SUFFIX)


def _is_safe(path: str, trusted: set[int]) -> bool:
    """Say whether only `trusted` users can put another socket in the place of this one."""
    written = Path(os.path.abspath(path))  # noqa: PTH100 - links stay: its owner can change it
    real = Path(os.path.realpath(path))
    return all(_is_of(each, trusted) for each in {written, *written.parents, real, *real.parents})


def _is_of(path: Path, trusted: set[int]) -> bool:
    status = path.lstat()
    is_shared = stat.S_ISDIR(status.st_mode) and status.st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH
    return status.st_uid in trusted and not is_shared
