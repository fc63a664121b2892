"""Open the files that say who may do what."""

from __future__ import annotations

import os
from typing import BinaryIO


def opened(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading; raises `OSError`.

    A pipe that no program writes to is empty, instead of keeping us waiting for one: a daemon that waits there does
    not see that a token was revoked in another file.
    """
    return open(path, "rb", opener=_at_once)


def _at_once(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(descriptor, True)
    return descriptor
