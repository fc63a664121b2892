"""Python values stored in a plain form beside their kind, and created again without running code from a checkpoint.

| kind | plain form | beside it |
|---|---|---|
| ``OrderedDict``, ``Counter`` | dict | |
| ``defaultdict`` | dict | the name of its factory, one of the builtins in `FACTORIES` |
| ``deque`` | list | its ``maxlen`` |
| ``set``, ``frozenset`` | list | |
| ``range``, ``slice`` | tuple of start, stop, step | |
| ``Path``, ``PurePosixPath``, ``PureWindowsPath`` | string | |
| ``datetime``, ``date``, ``time`` | string as in ISO 8601 | the ``fold`` |
| ``timedelta`` | list of days, seconds, microseconds | |
| ``timezone`` | list of days, seconds, microseconds, and its name if it has one of its own | |
| ``bytearray`` | bytes | |
| ``int`` of very many digits | string, hexadecimal | |
| ``numpy.dtype`` | its name | |
| numpy's scalars, its arrays of text and of elements that the format lacks | see `numpy_kinds` | |
| ``enum`` | the member's value if that is plain, else its name | class and name of the member |
| ``dataclass``, ``namedtuple`` | dict of its fields; tuple | class |

The last two rows need the class again, which a reader passes; loading imports nothing by name. Frameworks add kinds of
their own with `register`; those may need a class, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ckptd.errors import CkptdError, CorruptionError, InvalidRequestError
from ckptd.trees.class_kinds import CLASS_KINDS, Classes
from ckptd.trees.kind import MOST_DIGITS_BITS, Kind, KindOfClass, Typed, is_plain
from ckptd.trees.standard_kinds import LONG_INT, STANDARD

_BY_TYPE: dict[type, Kind] = dict(STANDARD)
_KINDS: list[Kind | KindOfClass] = [*STANDARD.values(), LONG_INT, *CLASS_KINDS]
_BY_NAME = {kind.name: kind for kind in _KINDS}
_OF_CLASSES: list[KindOfClass] = [*CLASS_KINDS]


def register(kind: Kind, *types: type) -> None:
    """Store values of exactly these types so. The name begins with the framework's: ``torch.dtype``."""
    _BY_NAME[kind.name] = kind
    _BY_TYPE.update(dict.fromkeys(types, kind))


def register_of_class(kind: KindOfClass) -> None:
    """Store values of the classes that `kind.is_one` knows so. May be repeated."""
    if _BY_NAME.get(kind.name) is not kind:
        _BY_NAME[kind.name] = kind
        _OF_CLASSES.append(kind)


def is_scalar(value: Any) -> bool:
    """Return whether the plain form of a value is a plain value."""
    if is_plain(value):
        return True
    kind = _kind_of(value)
    return kind is not None and kind.is_scalar


def name_of(value: Any) -> str | None:
    """Return the name of a value's kind; None if it has none, or one that needs its class."""
    kind = _kind_of(value)
    return kind.name if isinstance(kind, Kind) else None


def take(value: Any, *, with_classes: bool) -> tuple[Any, Typed] | None:
    """Return the plain form of a value and its kind; None if it has none.

    Raises:
        ValueError: it is of a kind that is known, and this one cannot be stored; the text says why.
    """
    kind = _kind_of(value)
    if kind is None or (isinstance(kind, KindOfClass) and not with_classes):
        return None
    form, beside = kind.take(value)
    return form, Typed(kind.name, beside)


def make(form: Any, typed: Typed, classes: Classes, path: str) -> Any:
    """Return the value of a plain form whose children are made already.

    Raises:
        InvalidRequestError: its class was not passed, or is another one now.
        CorruptionError: the form is not one of this kind.
    """
    kind = _BY_NAME.get(typed.kind)
    if kind is None:
        framework = typed.kind.partition(".")[0]
        raise InvalidRequestError(
            f"values of kind {typed.kind!r} are not known here: import ckptd.{framework}, or use a newer ckptd",
            key=path,
        )
    try:
        if isinstance(kind, Kind):
            return kind.make(form, typed.beside)
        name = kind.class_of(typed.beside)
        return kind.make(form, typed.beside, None if name is None else classes.find(name, path))
    except CkptdError as error:
        error.key = error.key or path
        raise
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
        raise CorruptionError(f"no {typed.kind} can be made of this: {error}", key=path) from error


def check_class(typed: Typed, classes: Classes, path: str) -> None:
    """Raise `InvalidRequestError` if the class is missing that a value of this kind is made of."""
    kind = _BY_NAME.get(typed.kind)
    if isinstance(kind, KindOfClass):
        try:
            name = kind.class_of(typed.beside)
        except (TypeError, IndexError, KeyError):
            return  # `make` reports the damage
        if name is not None:
            classes.find(name, path)


def _kind_of(value: Any) -> Kind | KindOfClass | None:
    if isinstance(value, np.dtype):
        return _BY_NAME["numpy.dtype"]
    kind = type(value)
    if kind is int:
        return LONG_INT if value.bit_length() > MOST_DIGITS_BITS else None
    return _BY_TYPE.get(kind) or next((one for one in _OF_CLASSES if one.is_one(kind)), None)
