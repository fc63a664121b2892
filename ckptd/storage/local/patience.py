"""Opening a file again, where this process has no descriptor left for a moment.

A flood of connections takes all descriptors of a daemon until the next look at them, a quarter of a second later
(`ckptd.service.connections`). A save that needs one just then must not fail for that.
"""

from __future__ import annotations

import errno
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE_S = 3.0
"""How long one is waited for."""

_PAUSE_S = 0.01
_IMPATIENT_S = 60.0  # after it was waited for in vain: then it is no flood that passes


@dataclass
class _Vain:
    """When it was waited for in vain last, by any thread."""

    at: float = float("-inf")


_vain = _Vain()


def patient(opening: Callable[P, T]) -> Callable[P, T]:
    """Return `opening`, which tries again for a while when it fails for want of a descriptor."""

    @functools.wraps(opening)
    def opened(*args: P.args, **kwargs: P.kwargs) -> T:
        began: float | None = None
        while True:
            try:
                return opening(*args, **kwargs)
            except OSError as error:
                now = time.monotonic()
                began = now if began is None else began
                if error.errno not in (errno.EMFILE, errno.ENFILE) or now - _vain.at < _IMPATIENT_S:
                    raise
                if now - began >= PATIENCE_S:
                    _vain.at = now
                    raise
            time.sleep(_PAUSE_S)

    return opened
