"""Select tensors of a source, and the names for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from ckptd.errors import InvalidRequestError, NotFoundError
from ckptd.interchange.source import Array, TensorFacts, TensorSource

_WILD = re.compile(r"[*?\[]")


def is_pattern(text: str) -> bool:
    """Return whether `text` has a wildcard: ``*``, ``?`` or ``[…]``, each of which also matches a ``/``."""
    return _WILD.search(text) is not None


def matching(names: Sequence[str], pattern: str, location: str) -> list[str]:
    """Return those names that a pattern means; a name that is written like a pattern means itself.

    Raises:
        NotFoundError: no tensor matches.
    """
    if pattern in names:
        return [pattern]
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise NotFoundError(f"no tensor in {location} matches {pattern!r}; `ckptd show {location}` lists them")
    return found


class Stripped:
    """A source with the names of another one, without their prefix."""

    def __init__(self, source: TensorSource, names: Sequence[str], prefix: str) -> None:
        """Take these tensors of `source`; names that do not begin with `prefix` stay as they are.

        Raises:
            InvalidRequestError: two tensors would have the same name, or one would have none.
        """
        self._source = source
        self._names: dict[str, str] = {}
        for name in names:
            short = name.removeprefix(prefix)
            if not short:
                raise InvalidRequestError(f"nothing would be left of the name of tensor {name!r} without {prefix!r}")
            if short in self._names:
                raise InvalidRequestError(
                    f"tensors {self._names[short]!r} and {name!r} would both be called {short!r} without {prefix!r}"
                )
            self._names[short] = name

    @property
    def location(self) -> str:
        """See `TensorSource`."""
        return self._source.location

    def names(self) -> list[str]:
        """See `TensorSource`."""
        return sorted(self._names, key=str.encode)

    def facts(self, name: str) -> TensorFacts:
        """See `TensorSource`."""
        whole = self._source.facts(self._names[name])
        return TensorFacts(name, whole.dtype, whole.dtype_name, whole.shape)

    def check(self, name: str) -> None:
        """See `TensorSource`."""
        self._source.check(self._names[name])

    def stream(self, name: str) -> Iterator[Array]:
        """See `TensorSource`."""
        return self._source.stream(self._names[name])
