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
_MOST_TRIED = 2  # `**` in one pattern: each is tried in three ways
_MOST_PARTS = 400


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


@lru_cache(maxsize=4096)
def covers(general: str, special: str) -> bool:
    """Say whether every run of `special` is one of `general`; False where that is not sure."""
    if special.count("**") > _MOST_TRIED:
        return general in (special, "**")
    # A part that no pattern spells out, once and several times, stands for all that ``**`` may be.
    tried = [special]
    while any("**" in each for each in tried):
        tried = [each.replace("**", "\0/" * more + "\0", 1) for each in tried for more in range(3)]
    return all(matches(general, each.replace("*", "\0")) for each in tried)


def overlap(one: str, other: str) -> bool:
    """Say whether a run could be of both patterns; True where that is not sure."""
    ours, theirs = one.split("/"), other.split("/")
    if len(ours) * len(theirs) > _MOST_PARTS:
        return True
    return _meet(tuple(ours), tuple(theirs))


@lru_cache(maxsize=1024)
def _meet(ours: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    if not ours or not theirs:
        return not ours and not theirs
    (mine, *my_rest), (its, *its_rest) = ours, theirs
    rest = tuple(my_rest), tuple(its_rest)
    if "**" in (mine, its):
        return _meet(*rest) or (mine == "**" and _meet(ours, rest[1])) or (its == "**" and _meet(rest[0], theirs))
    return (mine == its or _may_be_one(mine, its)) and _meet(*rest)


def _may_be_one(part: str, other: str) -> bool:
    if "*" not in part or "*" not in other:
        fixed, pattern = (part, other) if "*" not in part else (other, part)
        return matches(pattern, fixed)
    (begin, end), (other_begin, other_end) = (
        (each.partition("*")[0], each.rpartition("*")[2]) for each in (part, other)
    )
    # What is before the first ``*`` and behind the last decides, nearly.
    begins = begin.startswith(other_begin) or other_begin.startswith(begin)
    return begins and (end.endswith(other_end) or other_end.endswith(end))
