"""Kinds of values whose classes a program defines: enums, dataclasses, named tuples.

Loading imports nothing by name: a reader passes the classes. Nothing of a class runs when its values are made.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable
from typing import Any

from ckptd.errors import InvalidRequestError
from ckptd.trees.kind import KindOfClass, is_plain


class Classes:
    """The classes that a reader passes, for enums, dataclasses and named tuples."""

    def __init__(self, classes: Iterable[type] = ()) -> None:
        self._by_name: dict[str, type] = {}
        self._by_short_name: dict[str, list[type]] = {}
        if isinstance(classes, type) or not isinstance(classes, Iterable):
            raise InvalidRequestError("`classes` is a list of classes", actual=repr(classes)[:200])
        for each in classes:
            if not isinstance(each, type):
                raise InvalidRequestError("`classes` holds classes", actual=repr(each)[:200])
            self._by_name[class_name(each)] = each
            self._by_short_name.setdefault(each.__qualname__, []).append(each)

    def more(self, kind: type) -> Classes:
        """Return these and one more, that of a value which is replaced."""
        if kind.__module__ == "builtins" or kind in self._by_name.values():
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
            f"this is a {short} of module {name.rpartition(':')[0]}, which was not passed: load with "
            f"classes=[{short.rpartition('.')[2]}]",
            key=path,
        )


def class_name(kind: type) -> str:
    """Return the name under which a class is noted: ``module:Qualified.Name``."""
    return f"{kind.__module__}:{kind.__qualname__}"


def _take_enum(value: Any) -> tuple[Any, list[Any]]:
    form = value.value if is_plain(value.value) else str(value.name)
    # A flag's bits may have no name.
    bits = value.value if isinstance(value, enum.Flag) and isinstance(value.value, int) else None
    return form, [class_name(type(value)), value.name, bits]


def _make_enum(form: Any, beside: Any, kind: Any) -> Any:
    _, name, bits = beside
    if not issubclass(kind, enum.Enum):
        raise InvalidRequestError(f"this was a member of an enum, and {kind.__qualname__} is none")
    if bits is not None:
        return kind(bits)
    if name not in kind.__members__:
        raise InvalidRequestError(f"{kind.__qualname__} has no member {name!r} here")
    member = kind[name]
    if is_plain(member.value) and (type(member.value), member.value) != (type(form), form) and form == form:
        raise InvalidRequestError(
            f"{kind.__qualname__}.{name} has another value here", expected=repr(form), actual=member.value
        )
    return member


def _take_dataclass(value: Any) -> tuple[dict[str, Any], str]:
    names = [field.name for field in dataclasses.fields(value)]
    missing = [name for name in names if not hasattr(value, name)]
    more = sorted(set(getattr(value, "__dict__", {})) - set(names))
    if missing:
        raise ValueError(f"it lacks its fields {', '.join(missing)}: set them")
    if more:
        raise ValueError(f"it has {', '.join(more)} beside its fields: make fields of them, or save what it is made of")
    try:
        object.__new__(type(value))
    except TypeError:  # its elements are no fields
        base = next(one for one in type(value).__mro__[1:] if one.__module__ == "builtins")
        raise ValueError(f"it is a {base.__name__}, too: save what it is made of") from None
    return {name: getattr(value, name) for name in names}, class_name(type(value))


def _make_dataclass(form: Any, _: Any, kind: Any) -> Any:
    names = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    if set(names) != set(form):
        raise InvalidRequestError(
            f"{kind.__qualname__} has other fields than what was stored", expected=sorted(form), actual=names
        )
    new = object.__new__(kind)  # no __init__, no __post_init__: the stored fields are their result
    for name, value in form.items():
        object.__setattr__(new, name, value)
    return new


def _take_namedtuple(value: Any) -> tuple[tuple[Any, ...], list[Any]]:
    more = sorted(getattr(value, "__dict__", {}))
    if more:
        raise ValueError(f"it has {', '.join(more)} beside its fields: save what it is made of")
    return tuple(value), [class_name(type(value)), [*type(value)._fields]]


def _make_namedtuple(form: Any, beside: Any, kind: Any) -> Any:
    names = beside[1]
    if list(getattr(kind, "_fields", ())) != names:
        raise InvalidRequestError(
            f"{kind.__qualname__} has other fields than what was stored",
            expected=names,
            actual=list(getattr(kind, "_fields", ())),
        )
    return tuple.__new__(kind, form)


def _has_fields(kind: type) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


CLASS_KINDS = (
    KindOfClass(
        "enum",
        lambda kind: issubclass(kind, enum.Enum),
        _take_enum,
        lambda beside: str(beside[0]),
        _make_enum,
        is_scalar=True,
    ),
    KindOfClass("dataclass", dataclasses.is_dataclass, _take_dataclass, str, _make_dataclass),
    KindOfClass("namedtuple", _has_fields, _take_namedtuple, lambda beside: str(beside[0]), _make_namedtuple),
)
"""The first kind that a value matches is its kind."""
