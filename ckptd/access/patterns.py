"""Patterns of run names: ``*`` is any text within one part of the name, ``**`` any number of whole parts.

``vision/*`` are the runs right below ``vision``, ``vision/**`` all below it, ``**`` every run. ``vision`` itself is
only ``vision``: neither of those two contains it.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ckptd.errors import InvalidRequestError

_MOST_CHARACTERS = 1024


def check_pattern(pattern: str, where: str) -> None:
    """Raise `InvalidRequestError` for what is no pattern of run names."""
    parts = pattern.split("/")
    is_ours = pattern and len(pattern) <= _MOST_CHARACTERS and pattern.isprintable() and all(parts)
    if not is_ours or any("**" in part and part != "**" for part in parts) or not {".", ".."}.isdisjoint(parts):
        raise InvalidRequestError(
            f"{where} is no pattern of runs: write a run's name, vision/* for those right below vision, vision/** for "
            "all below it, or ** for every run",
            actual=pattern[:100],
        )


def matches(pattern: str, run: str) -> bool:
    """Say whether a run's name is one of the pattern's."""
    return _compiled(pattern).fullmatch(run) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = [".+" if part == "**" else re.escape(part).replace(r"\*", "[^/]*") for part in pattern.split("/")]
    return re.compile("/".join(parts), re.DOTALL)
