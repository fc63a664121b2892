"""Patterns of run names: ``*`` is any text within one part of the name, ``**`` any number of whole parts.

``vision/*`` are the runs right below ``vision``, ``vision/**`` all below it, ``**`` every run. ``vision`` itself is
only ``vision``: neither of those two contains it.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ckptd.errors import InvalidRequestError
from ckptd.format.names import check_run_name

_MOST_CHARACTERS = 1024


def check_pattern(pattern: str, where: str) -> None:
    """Raise `InvalidRequestError` for what is no pattern of run names, or one that no run's name can match."""
    parts = pattern.split("/")
    is_ours = len(pattern) <= _MOST_CHARACTERS and not any("**" in part and part != "**" for part in parts)
    if not is_ours or not _is_possible("/".join("x" if part == "**" else part.replace("*", "x") for part in parts)):
        raise InvalidRequestError(
            f"{where} is no pattern of runs: write a run's name, vision/* for those right below vision, vision/** for "
            "all below it, or ** for every run",
            actual=pattern[:100],
        )


def matches(pattern: str, run: str) -> bool:
    """Say whether a run's name is one of the pattern's."""
    return _compiled(pattern).fullmatch(run) is not None


def _is_possible(run: str) -> bool:
    try:
        check_run_name(run)
    except InvalidRequestError:
        return False
    return True


def may_match_below(pattern: str, run: str) -> bool:
    """Say whether a run inside the directory of `run` could have a name of the pattern's."""
    return _leaves_more(pattern.split("/"), run.split("/"))


def _leaves_more(pattern: list[str], run: list[str]) -> bool:
    if not run or not pattern:
        return bool(pattern)
    if pattern[0] == "**":
        return _leaves_more(pattern, run[1:]) or _leaves_more(pattern[1:], run[1:])
    return _compiled(pattern[0]).fullmatch(run[0]) is not None and _leaves_more(pattern[1:], run[1:])


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = [".+" if part == "**" else re.escape(part).replace(r"\*", "[^/]*") for part in pattern.split("/")]
    return re.compile("/".join(parts), re.DOTALL)
