"""Sockets in the file system: whether a process listens on one, and which process is at the other end."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from ckptd.errors import NotPermittedError

_PEERCRED = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


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


def user_at(connection: socket.socket) -> int:
    """Return the user of the process at the other end."""
    _, uid, _ = _credentials(connection)
    return uid


def _credentials(connection: socket.socket) -> tuple[int, int, int]:
    pid, uid, gid = _PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return pid, uid, gid


def process_at(connection: socket.socket, mode: int) -> int:
    """Return the process at the other end; `NotPermittedError` for one of another user, unless `mode` lets that in."""
    pid, uid, _ = _credentials(connection)
    if uid not in (0, os.geteuid()) and not mode & 0o066:
        raise NotPermittedError("shared memory is for processes of the daemon's own user", actual=uid)
    return pid
