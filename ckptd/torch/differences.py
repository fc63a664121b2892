"""Differences between a checkpoint and the state to load into: one error, or lists beside the loaded state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ckptd.client.restoring.reader import did_you_mean
from ckptd.errors import InvalidRequestError
from ckptd.torch.stored import Stored

_MOST_TOLD = 10
"""The longest list in an error."""

_WRAPPERS = ("module.", "_orig_mod.")
"""The prefixes that DistributedDataParallel and torch.compile add to a module's keys."""


class Mismatch(NamedTuple):
    """A part whose stored shape differs from its shape in the program."""

    key: str
    stored: str
    here: str

    def __str__(self) -> str:
        return f"{self.key} is stored as {self.stored}, and here it is {self.here}"


class Loaded(NamedTuple):
    """What ``load(strict=False)`` returns: the state, and lists of the names that were not loaded.

    Attributes:
        state: as `load` returns it otherwise. Parts in the first and in the last list are unchanged.
        missing_keys: parts of the program's state that are not stored.
        unexpected_keys: stored parts that have no place in the program's state.
        mismatched_keys: parts that are stored in another shape.
    """

    state: Any
    missing_keys: list[str]
    unexpected_keys: list[str]
    mismatched_keys: list[Mismatch]


class Differences:
    """The lists of one load, as they grow.

    Attributes:
        unplaced: like `unexpected`, but no outline says that it belongs to the state: listed, and not refused.
        refused: sentences about differences that are never allowed.
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
                f"{self._stored.prefix} holds no part of the state to load: " + "; ".join(self._sentences(strict))
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
            hint = "strict=False loads what fits and lists the rest"
        return sentences + ([hint] if hint else [])


def _told(found: Sequence[Any], tell: Callable[[Any], str]) -> list[str]:
    sentences = [tell(one) for one in found[:_MOST_TOLD]]
    more = len(found) - len(sentences)
    return [*sentences, f"and {more} more such"] if more else sentences


def _hint(missing: Sequence[str], known: Iterable[str]) -> str:
    """Return a hint if missing and stored names differ only by a wrapper's prefix."""
    wanted, there = set(missing), set(known)
    for wrapper in _WRAPPERS:
        if any(wrapper in name and name.replace(wrapper, "") in wanted for name in there):
            return f"rename={{{wrapper!r}: ''}} removes that prefix from the stored keys"
        if any(wrapper in name and name.replace(wrapper, "") in there for name in wanted):
            return f"it is stored without {wrapper!r}: load into the module inside, .{wrapper[:-1]}"
    return ""
