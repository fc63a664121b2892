"""Numbers as a row of small bars, the height of a line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_BARS, _PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-~+=*#"
_NONE = " "


def sparkline(values: Sequence[float | None]) -> str:
    """Return a bar for each value, the largest the highest; a blank for None. ASCII where stdout has no more."""
    bars = _BARS if _can_show(_BARS) else _PLAIN_BARS
    known = [each for each in values if each is not None]
    most = max(known, default=0.0)
    return "".join(_NONE if each is None else bars[_height(each, most)] for each in values)


def _height(value: float, most: float) -> int:
    return min(int(value / most * len(_BARS)), len(_BARS) - 1) if most > 0 else 0


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
