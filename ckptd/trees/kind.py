"""The definition of a kind of values, and the values that need none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MOST_DIGITS_BITS = 12_000  # Python refuses to convert integers of more than 4,300 digits

_PLAIN = (type(None), bool, int, float, complex, str, bytes)


@dataclass(frozen=True)
class Typed:
    """A kind, and what is noted beside the plain form: plain values and lists of them."""

    kind: str
    beside: Any = None


@dataclass(frozen=True)
class Kind:
    """How values of one kind are stored.

    Attributes:
        name: in the outline.
        take: value → its plain form, of the value's own children, and what is noted beside it. A ValueError says why
            this one can't be stored, and what to do.
        make: plain form, note → the value.
        is_scalar: the plain form is a plain value.
    """

    name: str
    take: Callable[[Any], tuple[Any, Any]]
    make: Callable[[Any, Any], Any]
    is_scalar: bool = False


@dataclass(frozen=True)
class KindOfClass:
    """How values of classes that a program defines are stored; a reader passes the class.

    Attributes:
        name: in the outline.
        is_one: returns whether values of a class are of this kind.
        take: as in `Kind`.
        class_of: note → the name of the class that is wanted, None for none.
        make: plain form, note, class → the value. An `InvalidRequestError` says how the class has changed.
        is_scalar: the plain form is a plain value.
    """

    name: str
    is_one: Callable[[type], bool]
    take: Callable[[Any], tuple[Any, Any]]
    class_of: Callable[[Any], str | None]
    make: Callable[[Any, Any, Any], Any]
    is_scalar: bool = False


def is_plain(value: Any) -> bool:
    """Return whether the outline holds this value as it is; what extends these types is another kind."""
    return type(value) in _PLAIN and not (type(value) is int and value.bit_length() > MOST_DIGITS_BITS)
