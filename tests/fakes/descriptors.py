"""Which files and sockets this process has open: those of a test alone, as other threads open and close theirs."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path


def num_open(*what: Path | socket.socket) -> int:
    """Return how many descriptors refer to these files, to what lies below these directories, to these sockets."""
    wanted = [str(each) if isinstance(each, Path) else os.readlink(_link_to(each.fileno())) for each in what]
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # it was closed meanwhile
            opened = os.readlink(_link_to(name))
            found += any(opened == each or opened.startswith((f"{each}/", f"{each} (deleted)")) for each in wanted)
    return found


def _link_to(descriptor: int | str) -> str:
    return f"/proc/self/fd/{descriptor}"
