"""Whether a process listens on a socket of the file system, before another takes its place."""

from __future__ import annotations

import socket
from pathlib import Path


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
