"""How tests wait for what another thread or process does without telling: bounded, no longer than needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

WITHIN_S = 120.0
_LOOK_EVERY_S = 0.01

T = TypeVar("T")


def eventually(
    condition: Callable[[], T], what: str | Callable[[], object] = "the condition", *, within_s: float = WITHIN_S
) -> T:
    """Wait until `condition` returns something true, and return that.

    `what` names it for the failure that tells that it did not come about; a function says then what is there instead.
    """
    bound = time.monotonic() + within_s
    tick = threading.Event()
    while not (found := condition()):
        if time.monotonic() > bound:
            told = what if isinstance(what, str) else f"it: {what()}"
            raise AssertionError(f"{told} did not come about within {within_s:g} s")
        tick.wait(_LOOK_EVERY_S)
    return found


def never(condition: Callable[[], object], what: str = "the condition", *, within_s: float = 0.1) -> None:
    """Give what must not come about a moment in which it could, and fail if it does."""
    bound = time.monotonic() + within_s
    tick = threading.Event()
    while time.monotonic() < bound:
        assert not condition(), f"{what} came about"
        tick.wait(_LOOK_EVERY_S)
