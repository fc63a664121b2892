"""Whether this process has descriptors left for one more rank.

Without one, not even a connection can be accepted, and no client gets a reason. So the last ones are reserved for
refusals: a rank that would need them is refused by name.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable

from ckptd.errors import UnavailableError

_KEPT_BACK = 32  # for files that saves write, and for connections that are refused
_LOOK_EVERY_S = 0.2  # counting takes a while where there are thousands


class Descriptors:
    """Counts them now and then. Belongs to one event loop."""

    def __init__(self, *, used: Callable[[], int] | None = None, allowed: Callable[[], int] | None = None) -> None:
        """Where they are counted, and what is allowed; by default in this process."""
        self._used = used or in_use
        self._allowed = allowed or open_files
        self._looked_at = float("-inf")
        self._left = 0

    def check(self) -> None:
        """Raise `UnavailableError` that says what is short, if a rank more would take the last ones."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_EVERY_S:
            self._looked_at = now
            self._left = self._allowed() - self._used()
        allowed = self._allowed()
        if self._left <= min(_KEPT_BACK, allowed // 4):
            raise UnavailableError(
                f"the daemon has no descriptors left for another rank ({allowed} allowed): raise its limit of open "
                "files (`ulimit -n`, LimitNOFILE= of systemd, --ulimit nofile of a container engine) and start it again"
            )
        self._left -= 1  # until the next look


def open_files() -> int:
    """Return how many this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def in_use() -> int:
    """Return how many this process has open."""
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only how many there are counts
    except FileNotFoundError:
        return 0  # a system without /proc does not tell
    except OSError:
        return open_files()  # none is left to look with
