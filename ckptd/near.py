"""Which name a user may have meant, found in bounded time: there may be millions, and each as long as a file."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

_MOST_COMPARED = 5000
_LONGEST = 300


def nearest(word: str, names: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return at most so many of `names` that are like `word`, the likest first; of very many the first are tried."""
    if len(word) > _LONGEST:
        return []
    likely = islice((name for name in names if len(name) <= _LONGEST), _MOST_COMPARED)
    return get_close_matches(word, list(likely), n=most, cutoff=cutoff)
