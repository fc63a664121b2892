"""How what is stored differs from what is to be loaded into: told in one error, or as lists beside what was loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ckptd.client.restoring.reader import did_you_mean
from ckptd.errors import InvalidRequestError
from ckptd.torch.stored import Stored

_MOST_TOLD = 10
"""Of each list."""

_WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put in front of a module's keys."""


class Mismatch(NamedTuple):
    """Something that is stored in another shape than it has here."""

    key: str
    stored: str
    here: str

    def __str__(self) -> str:
        return f"{self.key} is stored as {self.stored}, and here it is {self.here}"


class Loaded(NamedTuple):
    """What ``load(strict=False)`` returns: the state, and what of it was not loaded.

    Attributes:
        state: as `load` returns it otherwise. What is in one of the first and the last list is as it was before.
        missing_keys: what the program has and is not stored.
        unexpected_keys: what is stored beside what was loaded, and has no place in the program's state.
        mismatched_keys: what is stored in another shape.
    """

    state: Any
    missing_keys: list[str]
    unexpected_keys: list[str]
    mismatched_keys: list[Mismatch]


class Differences:
    """The lists of one load, as they grow.

    Attributes:
        unplaced: like `unexpected`, where no outline says that it belongs to the state: told, and not refused.
        refused: sentences on what is never allowed.
    """

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.unplaced: list[str] = []
        self.mismatched: list[Mismatch] = []
        self.refused: list[str] = []

    def check(self, *, strict: bool, found: int, wanted: int) -> None:
        """Raise unless the state may be loaded, with every list in the error.

        Args:
            strict: nothing may differ.
            found: how many tensors of the program's state are stored and fit.
            wanted: how many it has.
        """
        if self.refused or (strict and (self.missing or self.unexpected or self.mismatched)):
            raise InvalidRequestError(f"{self._stored.prefix} does not fit: " + "; ".join(self._sentences(strict)))
        if wanted and not found:
            raise InvalidRequestError(
                f"{self._stored.prefix} has nothing of what is to be loaded: " + "; ".join(self._sentences(strict))
            )

    def loaded(self, state: Any) -> Loaded:
        """Return `state` with the lists."""
        return Loaded(state, self.missing, self.unexpected + self.unplaced, self.mismatched)

    def _sentences(self, strict: bool) -> list[str]:
        known = self._stored.shapes
        sentences = _told(self.refused, str)
        sentences += _told(self.missing, lambda name: f"{name} is not stored{did_you_mean(name, known)}")
        extra = self.unexpected + (self.unplaced if self.missing else [])
        sentences += _told(extra, lambda name: f"{name} is stored, and has no place here")
        sentences += _told(self.mismatched, str)
        hint = _hint(self.missing, known)
        if not hint and strict and not self.refused:
            hint = "strict=False loads what fits, and returns the rest in lists"
        return sentences + ([hint] if hint else [])


def _told(found: Sequence[Any], tell: Callable[[Any], str]) -> list[str]:
    sentences = [tell(one) for one in found[:_MOST_TOLD]]
    more = len(found) - len(sentences)
    return [*sentences, f"and {more} more such"] if more else sentences


def _hint(missing: Sequence[str], known: Iterable[str]) -> str:
    """Say so when only a wrapper's prefix is between what is missing and what is stored."""
    wanted, there = set(missing), set(known)
    for wrapper in _WRAPPERS:
        if any(wrapper in name and name.replace(wrapper, "") in wanted for name in there):
            return f"rename={{{wrapper!r}: ''}} takes that beginning off the stored keys"
        if any(wrapper in name and name.replace(wrapper, "") in there for name in wanted):
            return f"it is stored without {wrapper!r}: load into the module inside, .{wrapper[:-1]}"
    return ""
