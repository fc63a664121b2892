"""Values of Python that are stored in a plain form beside their kind, and made again without running anybody's code.

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
| ``int`` of very many digits | string, hexadecimal | |
| ``numpy.dtype`` | its name | |
| numpy's scalars, its arrays of text and of elements that the format lacks | see `numpy_kinds` | |
| ``enum`` | the member's value if that is plain, else its name | class and name of the member |
| ``dataclass``, ``namedtuple`` | dict of its fields; tuple | class |

The last two rows need the class again, which a reader passes; loading imports nothing by name. Frameworks add kinds of
their own with `register`.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import pathlib
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptd.errors import CorruptionError, InvalidRequestError

FACTORIES = {kind.__name__: kind for kind in (int, float, complex, bool, str, bytes, list, tuple, dict, set, frozenset)}
"""What a ``defaultdict`` may make its values with, by name."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_MOST_DIGITS_BITS = 12_000  # Python refuses to convert integers of more than 4,300 digits


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
        take: value → its plain form, of the value's own children, and what is noted beside it.
        make: plain form, note → the value.
        is_scalar: the plain form is a plain value.
    """

    name: str
    take: Callable[[Any], tuple[Any, Any]]
    make: Callable[[Any, Any], Any]
    is_scalar: bool = False


class Classes:
    """The classes that a reader passes, for enums, dataclasses and named tuples."""

    def __init__(self, classes: Iterable[type] = ()) -> None:
        self._by_name: dict[str, type] = {}
        self._by_short_name: dict[str, list[type]] = {}
        for each in classes:
            if not isinstance(each, type):
                raise InvalidRequestError("`classes` holds classes", actual=repr(each)[:200])
            self._by_name[class_name(each)] = each
            self._by_short_name.setdefault(each.__qualname__, []).append(each)

    def more(self, kind: type) -> Classes:
        """Return these and one more, that of a value which is replaced, if it is one of those that need a class."""
        if kind in self._by_name.values() or not _needs_class(kind):
            return self
        return Classes([*self._by_name.values(), kind])

    def find(self, name: str, path: str) -> type:
        """Return the class of this name; its module may have another name here, as ``__main__`` has.

        Raises:
            InvalidRequestError: it was not passed.
        """
        short = name.rpartition(":")[2]
        found = self._by_short_name.get(short, [])
        if name in self._by_name:
            return self._by_name[name]
        if len(found) == 1:
            return found[0]
        raise InvalidRequestError(
            f"this is a {short} of module {name.rpartition(':')[0]}, which nobody passed: load with "
            f"classes=[{short.rpartition('.')[2]}]",
            key=path,
        )


def _needs_class(kind: type) -> bool:
    return issubclass(kind, enum.Enum) or dataclasses.is_dataclass(kind) or _has_fields(kind)


def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(kind._fields)


def _has_fields(kind: Any) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


def class_name(kind: type) -> str:
    """Return the name under which a class is noted: ``module:Qualified.Name``."""
    return f"{kind.__module__}:{kind.__qualname__}"


def is_plain(value: Any) -> bool:
    """Tell whether the outline holds this value as it is; what extends these types is another kind."""
    return type(value) in _PLAIN and not (type(value) is int and value.bit_length() > _MOST_DIGITS_BITS)


def is_scalar(value: Any) -> bool:
    """Tell whether the plain form of a value is a plain value."""
    if is_plain(value) or isinstance(value, enum.Enum):
        return True
    kind = _kind_of(value)
    return kind is not None and kind.is_scalar


def name_of(value: Any) -> str | None:
    """Return the name of a value's kind, None if it is none that is stored without its class."""
    kind = _kind_of(value)
    return None if kind is None else kind.name


def take(value: Any, *, with_classes: bool) -> tuple[Any, Typed] | None:
    """Return the plain form of a value and its kind; None if it has none.

    Raises:
        ValueError: it is of a kind that is known, and this one cannot be stored; the text says why.
    """
    kind = _kind_of(value)
    if kind is not None:
        form, beside = kind.take(value)
        return form, Typed(kind.name, beside)
    if not with_classes:
        return None
    name = class_name(type(value))
    if isinstance(value, enum.Enum):
        form = value.value if is_plain(value.value) else str(value.name)
        return form, Typed("enum", [name, value.name if value.name is not None else None, _enum_number(value)])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields_of(value), Typed("dataclass", name)
    if isinstance(value, tuple) and _has_fields(type(value)):
        return tuple(value), Typed("namedtuple", [name, [*_field_names(type(value))]])
    return None


def make(form: Any, typed: Typed, classes: Classes, path: str) -> Any:
    """Return the value of a plain form whose children are made already.

    Raises:
        InvalidRequestError: its class was not passed, or is another one now.
        CorruptionError: the form is not one of this kind.
    """
    try:
        if typed.kind == "enum":
            return _make_enum(form, typed.beside, classes, path)
        if typed.kind == "dataclass":
            return _make_dataclass(form, classes.find(typed.beside, path), path)
        if typed.kind == "namedtuple":
            return _make_namedtuple(form, typed.beside, classes, path)
        kind = _BY_NAME.get(typed.kind)
        if kind is None:
            framework = typed.kind.partition(".")[0]
            raise InvalidRequestError(
                f"values of kind {typed.kind!r} are not known here: import ckptd.{framework}, or use a newer ckptd",
                key=path,
            )
        return kind.make(form, typed.beside)
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        raise CorruptionError(f"no {typed.kind} can be made of this: {error}", key=path) from error


def check_class(typed: Typed, classes: Classes, path: str) -> None:
    """Raise `InvalidRequestError` if the class is missing that a value of this kind is made of."""
    if typed.kind in ("enum", "namedtuple") and isinstance(typed.beside, list) and typed.beside:
        classes.find(str(typed.beside[0]), path)
    elif typed.kind == "dataclass":
        classes.find(str(typed.beside), path)


def register(kind: Kind, *types: type) -> None:
    """Store values of exactly these types so. The name begins with the framework's: ``torch.dtype``."""
    _BY_NAME[kind.name] = kind
    _BY_TYPE.update(dict.fromkeys(types, kind))


def _kind_of(value: Any) -> Kind | None:
    if isinstance(value, np.dtype):
        return _BY_NAME["numpy.dtype"]
    if type(value) is int:
        return _BY_NAME["int"] if value.bit_length() > _MOST_DIGITS_BITS else None
    return _BY_TYPE.get(type(value))


def _factory_of(value: defaultdict[Any, Any]) -> str | None:
    factory: Any = value.default_factory
    if factory is None:
        return None
    name = getattr(factory, "__name__", "")
    if FACTORIES.get(name) is not factory:
        raise ValueError(f"its factory {factory!r} is none of {', '.join(FACTORIES)}: save dict(…) of it")
    return str(name)


def _made_defaultdict(form: dict[Any, Any], name: str | None) -> defaultdict[Any, Any]:
    return defaultdict(None if name is None else FACTORIES[name], form)


def _sorted(value: Iterable[Any]) -> list[Any]:
    try:
        return sorted(value)
    except TypeError:
        return sorted(value, key=repr)


def _made_set(kind: type) -> Callable[[Any, Any], Any]:
    def made(form: Any, _: Any) -> Any:
        new = kind(form)
        if len(new) != len(form):
            raise ValueError("an element is there twice")
        return new

    return made


def _moment(value: datetime.datetime | datetime.time) -> tuple[str, int]:
    zone = value.tzinfo
    if zone is not None and type(zone) is not datetime.timezone:
        raise ValueError(f"its time zone {zone!r} is not a datetime.timezone: convert it with astimezone(timezone.utc)")
    if zone is not None and zone != datetime.timezone(zone.utcoffset(None)):
        raise ValueError("offsets below a second have no form")
    if zone is not None and zone.tzname(None) != datetime.timezone(zone.utcoffset(None)).tzname(None):
        raise ValueError("a time zone with a name of its own has no form: convert it with astimezone(timezone.utc)")
    return value.isoformat(), value.fold


def _enum_number(value: enum.Enum) -> int | None:
    """Return the bits of a flag, which may have no name."""
    return value.value if isinstance(value, enum.Flag) and isinstance(value.value, int) else None


def _fields_of(value: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(value)]
    missing = [name for name in names if not hasattr(value, name)]
    more = sorted(set(getattr(value, "__dict__", {})) - set(names))
    if missing or more:
        raise ValueError(f"it has {', '.join(more) or 'nothing'} beside its fields, and lacks {missing or 'none'}")
    return {name: getattr(value, name) for name in names}


def _make_enum(form: Any, beside: Any, classes: Classes, path: str) -> Any:
    class_of, name, number = beside
    kind = classes.find(class_of, path)
    if not issubclass(kind, enum.Enum):
        raise InvalidRequestError(f"this was a member of an enum, and {kind.__qualname__} is none", key=path)
    if number is not None:
        return kind(number)
    if name not in kind.__members__:
        raise InvalidRequestError(f"{kind.__qualname__} has no member {name!r} here", key=path)
    member = kind[name]
    if is_plain(member.value) and (type(member.value), member.value) != (type(form), form) and form == form:
        raise InvalidRequestError(
            f"{kind.__qualname__}.{name} has another value here", key=path, expected=repr(form), actual=member.value
        )
    return member


def _make_dataclass(form: Any, kind: Any, path: str) -> Any:
    names = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    if set(names) != set(form):
        raise InvalidRequestError(
            f"{kind.__qualname__} has other fields than what was stored", key=path, expected=sorted(form), actual=names
        )
    new = object.__new__(kind)  # no __init__, no __post_init__: what they made is stored
    for name, value in form.items():
        object.__setattr__(new, name, value)
    return new


def _make_namedtuple(form: Any, beside: Any, classes: Classes, path: str) -> Any:
    class_of, names = beside
    kind: Any = classes.find(class_of, path)
    if list(getattr(kind, "_fields", ())) != names:
        raise InvalidRequestError(
            f"{kind.__qualname__} has other fields than what was stored",
            key=path,
            expected=names,
            actual=list(getattr(kind, "_fields", ())),
        )
    return tuple.__new__(kind, form)


_BY_NAME: dict[str, Kind] = {}
_BY_TYPE: dict[type, Kind] = {}

register(Kind("OrderedDict", lambda value: (dict(value), None), lambda form, _: OrderedDict(form)), OrderedDict)
register(Kind("Counter", lambda value: (dict(value), None), lambda form, _: Counter(form)), Counter)
register(Kind("defaultdict", lambda value: (dict(value), _factory_of(value)), _made_defaultdict), defaultdict)
register(Kind("deque", lambda value: (list(value), value.maxlen), lambda form, most: deque(form, most)), deque)
register(Kind("set", lambda value: (_sorted(value), None), _made_set(set)), set)
register(Kind("frozenset", lambda value: (_sorted(value), None), _made_set(frozenset)), frozenset)
register(
    Kind("range", lambda value: ((value.start, value.stop, value.step), None), lambda form, _: range(*form)), range
)
register(
    Kind("slice", lambda value: ((value.start, value.stop, value.step), None), lambda form, _: slice(*form)), slice
)
register(
    Kind("Path", lambda value: (str(value), None), lambda form, _: pathlib.Path(form), is_scalar=True),
    type(pathlib.Path()),
)
for _pure in (pathlib.PurePosixPath, pathlib.PureWindowsPath):
    register(
        Kind(
            _pure.__name__,
            lambda value: (str(value), None),
            lambda form, _, kind=_pure: kind(form),  # type: ignore[misc]  # mypy sees no types in a default
            is_scalar=True,
        ),
        _pure,
    )
register(
    Kind(
        "datetime",
        _moment,
        lambda form, fold: datetime.datetime.fromisoformat(form).replace(fold=fold),
        is_scalar=True,
    ),
    datetime.datetime,
)
register(
    Kind("time", _moment, lambda form, fold: datetime.time.fromisoformat(form).replace(fold=fold), is_scalar=True),
    datetime.time,
)
register(
    Kind(
        "date",
        lambda value: (value.isoformat(), None),
        lambda form, _: datetime.date.fromisoformat(form),
        is_scalar=True,
    ),
    datetime.date,
)
register(
    Kind(
        "timedelta",
        lambda value: ([value.days, value.seconds, value.microseconds], None),
        lambda form, _: datetime.timedelta(*form),
    ),
    datetime.timedelta,
)
register(Kind("int", lambda value: (hex(value), None), lambda form, _: int(form, 16), is_scalar=True))
