"""What a daemon leaves beside its socket as it ends for good: why nobody will listen there again by itself.

A daemon that is away is being restarted, mostly, and its clients wait for it. An agent that another one has replaced is
not, and that one may listen elsewhere: clients that find no socket read why, and end. The next daemon at this address
removes it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from ckptd.printable import printable
from ckptd.wire.addresses import Address

SUFFIX = ".ended"
_MOST_BYTES = 1000


def leave(address: Address, why: str) -> None:
    """Say why, while the socket is still ours. Never raises: then clients wait, as for any daemon that is away."""
    path = _beside(address)
    if path is None:
        return
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(path, flags, 0o644)
        try:
            os.write(file, why.encode("utf-8", "replace")[:_MOST_BYTES])
        finally:
            os.close(file)


def read(address: Address) -> str:
    """Return why no daemon will listen at an address again by itself; "" if one listens, or none has said so."""
    path = _beside(address)
    if path is None or Path(address.path).exists():
        return ""
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if stat.S_ISREG(os.fstat(file).st_mode):
                return printable(os.read(file, _MOST_BYTES).decode("utf-8", "replace"))
        finally:
            os.close(file)
    return ""


def forget(address: Address) -> None:
    """Remove it: a daemon is about to listen there. Never raises."""
    path = _beside(address)
    if path is not None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _beside(address: Address) -> Path | None:
    return Path(f"{address.path}{SUFFIX}") if address.is_unix else None
