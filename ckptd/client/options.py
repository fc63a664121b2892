"""What callers may write for a `Checkpointer`'s arguments. Everything else is an `InvalidRequestError`."""

from __future__ import annotations

import operator
from typing import Any

from ckptd.errors import InvalidRequestError
from ckptd.format import names as naming


def check_step(step: Any) -> int:
    """Return a step; numpy's whole numbers are steps too."""
    try:
        number = operator.index(step) if not isinstance(step, bool) else -1
    except (TypeError, ValueError, RuntimeError):  # what arrays of several frameworks raise
        number = -1
    if not 0 <= number <= naming.MAX_STEP:
        looks_whole = isinstance(step, float) or getattr(step, "size", None) == 1 or hasattr(step, "item")
        way = "; int(step) makes one of it" if looks_whole else ""
        raise InvalidRequestError(f"a step is a whole number from 0 on{way}", actual=repr(step))
    return number


def check_latest_filename(name: str) -> str:
    """Return the state file's name if it is one, and no path."""
    if "/" in name:
        raise InvalidRequestError("'latest_filename' must not contain path components", actual=name)
    return naming.check_state_name(name)
