"""Stored names → the program's names of the same tensors: wrappers' prefixes removed, parts moved."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ckptd.errors import InvalidRequestError
from ckptd.trees.flatten import leaves_of
from ckptd.trees.outline import describe, of_kind, typed_of

Rename = Mapping[str, str] | Iterable[tuple[str, str]] | Callable[[str], str]
"""The argument of `load`: prefixes of keys and their replacements, or a function of the whole name."""


def renamer(rename: Rename | None) -> Callable[[str], str]:
    """Return `rename` as a function of a stored name; for None, one that changes nothing.

    Raises:
        InvalidRequestError: it has another type, or an empty prefix, which every key has.
    """
    if rename is None:
        return lambda name: name
    if callable(rename):
        return lambda name: _checked(name, rename(name))
    if isinstance(rename, (str, bytes)) or not isinstance(rename, Iterable):
        raise _not_a_rename(rename)
    given = list(rename.items() if isinstance(rename, Mapping) else rename)
    pairs: list[tuple[re.Pattern[str], str]] = []
    for pair in given:
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(one, str) for one in pair)):
            raise _not_a_rename(pair)
        old, new = pair
        if not old:
            raise InvalidRequestError(
                "rename: every key begins with an empty text; pass a function to add a prefix", actual=pair
            )
        pairs.append((re.compile(rf"(?:^|(?<=/)){re.escape(old)}"), new))

    def apply(name: str) -> str:
        renamed = name
        for pattern, new in pairs:
            renamed = pattern.sub(lambda _, new=new: new, renamed)  # type: ignore[misc]  # bound now, not later
        return _checked(name, renamed)

    return apply


def renamed_names(names: Iterable[str], rename: Callable[[str], str]) -> dict[str, str]:
    """Return new name → stored name.

    Raises:
        InvalidRequestError: two would have the same name.
    """
    found: dict[str, str] = {}
    for name in names:
        _note(found, rename(name), name)
    return found


def renamed_tree(tree: Any, rename: Callable[[str], str]) -> tuple[Any, dict[str, str]]:
    """Return an outline's tree with new names in its dicts, and new name → stored name of its leaves.

    Raises:
        InvalidRequestError: two parts would have the same name, or a part would leave its list.
    """
    names: dict[str, str] = {}
    return _renamed(tree, (), "", rename, names), names


def _renamed(node: Any, path: tuple[Any, ...], name: str, rename: Callable[[str], str], names: dict[str, str]) -> Any:
    """Return a part that is stored at `path` and is called `name` now."""
    if type(node) in (list, tuple):
        join = f"{name}/" if path else ""
        return type(node)(_renamed(one, (*path, at), f"{join}{at}", rename, names) for at, one in enumerate(node))
    if not _is_open(node):
        stored = describe(path)
        for leaf, _ in leaves_of(node, path):
            _note(names, name + leaf[len(stored) :], leaf)
        return node
    found: dict[Any, Any] = {}
    for keys, value in _parts(node, ()):
        stored = describe((*path, *keys))
        new = rename(stored)
        inside = f"{name}/" if path else ""
        if not new.startswith(inside) or new == inside:
            raise InvalidRequestError(f"rename: {stored!r} is in a list and can't leave it", actual=new)
        _insert(found, _keys(new[len(inside) :], keys), _renamed(value, (*path, *keys), new, rename, names), new)
    typed = typed_of(node)
    return found if typed is None else of_kind(found, typed)


def _is_open(node: Any) -> bool:
    """Return whether a part is an ordinary dict, not the plain form of another type with fixed keys."""
    typed = typed_of(node)
    return isinstance(node, dict) and (type(node) is dict or (typed is not None and typed.kind == "OrderedDict"))


def _parts(node: dict[Any, Any], path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield everything below a dict that is not a dict, or an empty one, with its keys from here."""
    for key, value in node.items():
        if _is_open(value) and value:
            yield from _parts(value, (*path, key))
        else:
            yield (*path, key), value


def _keys(name: str, old: tuple[Any, ...]) -> list[Any]:
    """Return the keys of a new name; keys that it shares with the old path stay unchanged.

    So numbers stay numbers, and keys that contain ``/`` are not split.
    """
    front: list[Any] = []
    back: list[Any] = []
    rest, keys = name, list(old)
    while keys and rest.startswith(f"{keys[0]}/"):
        rest = rest[len(f"{keys[0]}/") :]
        front.append(keys.pop(0))
    while keys and rest.endswith(f"/{keys[-1]}"):
        rest = rest[: -len(f"/{keys[-1]}")]
        back.insert(0, keys.pop())
    if len(keys) == 1 and (rest == str(keys[0]) or "/" in str(keys[0])):
        return [*front, keys[0] if rest == str(keys[0]) else rest, *back]
    middle = [keys[0], *rest.split("/")[1:]] if keys and rest == str(keys[0]) else rest.split("/")
    return [*front, *middle, *back]


def _insert(tree: dict[Any, Any], keys: list[Any], value: Any, name: str) -> None:
    *above, last = keys
    for key in above:
        tree = tree.setdefault(key, {})
        if type(tree) is not dict:
            raise InvalidRequestError(f"rename: another part already has a name that is a prefix of {name!r}")
    if last in tree:
        raise InvalidRequestError(f"rename: two parts of what is stored would both be called {name!r}")
    tree[last] = value


def _note(names: dict[str, str], new: str, stored: str) -> None:
    if new in names:
        raise InvalidRequestError(f"rename: {names[new]!r} and {stored!r} would both be called {new!r}")
    names[new] = stored


def _checked(name: str, new: Any) -> str:
    if not isinstance(new, str) or not new:
        raise InvalidRequestError(f"rename: {name!r} needs a new name that is a text and not empty", actual=repr(new))
    return new


def _not_a_rename(given: Any) -> InvalidRequestError:
    return InvalidRequestError(
        "rename is a dict of prefixes of keys and their replacements, such as {'module.': ''}, a list of such "
        "pairs, or a function of a name",
        actual=repr(given),
    )
