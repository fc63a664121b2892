"""Kinds of Python's own values: containers, paths, dates and times, long integers."""

from __future__ import annotations

import datetime
import pathlib
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any

from ckptd.trees.kind import Kind

FACTORIES = {kind.__name__: kind for kind in (int, float, complex, bool, str, bytes, list, tuple, dict, set, frozenset)}
"""What a ``defaultdict`` may make its values with, by name."""


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


def _zone(value: datetime.timezone) -> tuple[list[Any], None]:
    offset = value.utcoffset(None)
    name = value.tzname(None)
    named = [] if name == datetime.timezone(offset).tzname(None) else [name]
    return [offset.days, offset.seconds, offset.microseconds, *named], None


def _made_zone(form: Any, _: Any) -> datetime.timezone:
    return datetime.timezone(datetime.timedelta(*form[:3]), *form[3:])


def _pure_path(kind: type[pathlib.PurePath]) -> Kind:
    return Kind(kind.__name__, lambda value: (str(value), None), lambda form, _: kind(form), is_scalar=True)


def _triple(value: Any) -> tuple[Any, None]:
    return (value.start, value.stop, value.step), None


LONG_INT = Kind("int", lambda value: (hex(value), None), lambda form, _: int(form, 16), is_scalar=True)
"""An integer of so many digits that Python refuses to write it as a decimal."""

STANDARD: dict[type, Kind] = {
    OrderedDict: Kind("OrderedDict", lambda value: (dict(value), None), lambda form, _: OrderedDict(form)),
    Counter: Kind("Counter", lambda value: (dict(value), None), lambda form, _: Counter(form)),
    defaultdict: Kind("defaultdict", lambda value: (dict(value), _factory_of(value)), _made_defaultdict),
    deque: Kind("deque", lambda value: (list(value), value.maxlen), lambda form, most: deque(form, most)),
    set: Kind("set", lambda value: (_sorted(value), None), _made_set(set)),
    frozenset: Kind("frozenset", lambda value: (_sorted(value), None), _made_set(frozenset)),
    range: Kind("range", _triple, lambda form, _: range(*form)),
    slice: Kind("slice", _triple, lambda form, _: slice(*form)),
    bytearray: Kind("bytearray", lambda value: (bytes(value), None), lambda form, _: bytearray(form), is_scalar=True),
    type(pathlib.Path()): Kind(
        "Path", lambda value: (str(value), None), lambda form, _: pathlib.Path(form), is_scalar=True
    ),
    pathlib.PurePosixPath: _pure_path(pathlib.PurePosixPath),
    pathlib.PureWindowsPath: _pure_path(pathlib.PureWindowsPath),
    datetime.datetime: Kind(
        "datetime",
        _moment,
        lambda form, fold: datetime.datetime.fromisoformat(form).replace(fold=fold),
        is_scalar=True,
    ),
    datetime.time: Kind(
        "time", _moment, lambda form, fold: datetime.time.fromisoformat(form).replace(fold=fold), is_scalar=True
    ),
    datetime.date: Kind(
        "date",
        lambda value: (value.isoformat(), None),
        lambda form, _: datetime.date.fromisoformat(form),
        is_scalar=True,
    ),
    datetime.timedelta: Kind(
        "timedelta",
        lambda value: ([value.days, value.seconds, value.microseconds], None),
        lambda form, _: datetime.timedelta(*form),
    ),
    datetime.timezone: Kind("timezone", _zone, _made_zone),
}
