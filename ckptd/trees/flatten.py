"""Convert nested state to named leaves, and back.

A leaf's name is the path to it, its keys joined by ``/``: ``optimizer/state/0/exp_avg``. Numbers and strings below a
dict become tensors of their own, so that every reader sees them: ``epoch`` is an int64 scalar. Those in lists of only
plain values, which may be long and mean little one by one, stay in the outline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.format.names import is_note
from ckptd.trees import kinds, numpy_kinds
from ckptd.trees.class_kinds import Classes
from ckptd.trees.kind import Typed, is_plain
from ckptd.trees.outline import (
    MAX_DEPTH,
    OUTLINE_NAME,
    DictOfKind,
    Leaf,
    PlainOfKind,
    decode_outline,
    describe,
    encode_outline,
    is_key,
    of_kind,
    typed_of,
)

_INT64 = range(-(1 << 63), 1 << 63)


def flatten(
    state: Any,
    is_array: Callable[[Any], bool],
    *,
    unwrap: Callable[[Any], Any] = lambda value: value,
    stores_classes: bool = False,
) -> dict[str, Any]:
    """Return name → leaf for nested dicts, lists and tuples, the outline among them as `OUTLINE_NAME`.

    Args:
        state: a dict, list or tuple; nothing in it is changed or copied.
        is_array: says what is a leaf as it is: the framework's arrays, `Slice`s, lists of them. numpy's arrays and
            scalars always are.
        unwrap: value → what is stored in its place, such as the ``state_dict()`` of an object; itself for most.
        stores_classes: take enums, dataclasses and named tuples, whose classes have to be passed when they are loaded.

    Raises:
        InvalidRequestError: naming the path of what has no form without pickle, or the name that two leaves would
            share, as ``{"a/b": x, "a": {"b": y}}`` would.
    """
    leaves, tree = flatten_apart(state, is_array, unwrap=unwrap, stores_classes=stores_classes)
    return {**leaves, OUTLINE_NAME: encode_outline(tree)}


def flatten_apart(
    state: Any,
    is_array: Callable[[Any], bool],
    *,
    unwrap: Callable[[Any], Any] = lambda value: value,
    stores_classes: bool = False,
) -> tuple[dict[str, Any], Any]:
    """Return name → leaf, and the outline's tree; see `flatten`."""
    state = unwrap(state)
    if not isinstance(state, (Mapping, list, tuple)):
        raise InvalidRequestError("state to save is a dict, a list or a tuple", actual=type(state).__name__)
    leaves: dict[str, Any] = {}
    tree = _Walk(leaves, is_array, unwrap, stores_classes).visit(state, ())
    for name in leaves:
        if is_note(name):
            raise InvalidRequestError("ckptd keeps this name for its own notes: choose another key", key=name)
    return leaves, tree


def unflatten(stored: Mapping[str, Any], to_framework: Callable[[Any], Any]) -> Any:
    """Return the nested state from all tensors of a checkpoint: name → numpy array.

    Without an outline, as others write checkpoints, it is a flat dict of names.

    Args:
        stored: with the outline.
        to_framework: turns the numpy array of an "array" leaf into the framework's own.

    Raises:
        CorruptionError: the outline is damaged, or names a missing tensor.
    """
    if OUTLINE_NAME not in stored:
        return {name: to_framework(array) for name, array in stored.items()}
    return rebuild(read_outline(stored[OUTLINE_NAME]), stored.__getitem__, to_framework)


def read_outline(stored: Any) -> Any:
    """Return the tree of containers, plain values and `Leaf`s that the outline's tensor holds."""
    data = np.asarray(stored, object)
    if data.shape != () or not isinstance(data.item(), bytes):
        raise CorruptionError("the outline is one string", key=OUTLINE_NAME, actual=f"shape {list(data.shape)}")
    return decode_outline(data.item())


def leaves_of(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[str, Leaf]]:
    """Yield (name, leaf) for every tensor that an outline's tree names, in its order."""
    if isinstance(tree, Leaf):
        yield describe(path), tree
        return
    if isinstance(tree, dict):
        items: Iterator[tuple[Any, Any]] = iter(tree.items())
    elif isinstance(tree, (list, tuple)):
        items = iter(enumerate(tree))
    else:
        return
    for key, value in items:
        yield from leaves_of(value, (*path, key))


_NO_CLASSES = Classes()


def check_classes(tree: Any, classes: Classes, path: tuple[Any, ...] = ()) -> None:
    """Check that `rebuild` will find every class that it needs, before anything is read or changed.

    Raises:
        InvalidRequestError: it will not.
    """
    typed = typed_of(tree)
    if typed is not None:
        kinds.check_class(typed, classes, describe(path))
    if isinstance(tree, dict):
        for key, each in getattr(tree, "keys_typed", {}).items():
            kinds.check_class(each, classes, describe((*path, key)))
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    for key, value in children:
        check_classes(value, classes, (*path, key))


def rebuild(
    tree: Any,
    read: Callable[[str], Any],
    to_framework: Callable[[Any], Any],
    path: tuple[Any, ...] = (),
    classes: Classes = _NO_CLASSES,
) -> Any:
    """Return an outline's tree with every leaf replaced by its value.

    Args:
        tree: from `read_outline`.
        read: name → numpy array; a KeyError says that it is not there.
        to_framework: turns the numpy array of an "array" leaf into the framework's own.
        path: to this tree, within the whole.
        classes: of enums, dataclasses and named tuples.

    Raises:
        CorruptionError: a tensor is missing, or is nothing that its kind can be made of.
        InvalidRequestError: a class is wanted that is not among `classes`, or has changed.
    """

    def below(value: Any, key: Any) -> Any:
        return rebuild(value, read, to_framework, (*path, key), classes)

    if isinstance(tree, dict):
        typed_keys = getattr(tree, "keys_typed", {})
        form: Any = {
            kinds.make(key, typed_keys[key], classes, describe((*path, key))) if key in typed_keys else key: below(
                value, key
            )
            for key, value in tree.items()
        }
    elif isinstance(tree, (list, tuple)):
        parts = [below(value, at) for at, value in enumerate(tree)]
        form = parts if isinstance(tree, list) else tuple(parts)
    elif isinstance(tree, Leaf):
        form = _leaf_value(tree, path, read, to_framework)
    else:
        form = tree.form if isinstance(tree, PlainOfKind) else tree
    typed = typed_of(tree)
    return form if typed is None else kinds.make(form, typed, classes, describe(path))


def _leaf_value(
    tree: Leaf, path: tuple[Any, ...], read: Callable[[str], Any], to_framework: Callable[[Any], Any]
) -> Any:
    name = describe(path)
    try:
        array = read(name)
    except KeyError as error:
        raise CorruptionError("the outline names a tensor that is missing", key=name) from error
    if tree.kind == "array":
        return to_framework(array)
    if tree.kind == "numpy":
        return array
    if tree.kind not in _PYTHON:
        raise CorruptionError("the outline has a kind that is not known here", key=name, actual=tree.kind)
    try:
        # numpy's own arrays of bytes cut trailing NULs: a string must not become one.
        return _PYTHON[tree.kind](array if isinstance(array, bytes) else np.asarray(array).item())
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptionError(f"no {tree.kind} can be made of this tensor", key=name) from error


_PYTHON: dict[str, Callable[[Any], Any]] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": lambda value: value.decode(),
    "bytes": bytes,
}


class _Walk:
    """One walk through nested state, which notes the leaves on its way."""

    def __init__(
        self,
        leaves: dict[str, Any],
        is_array: Callable[[Any], bool],
        unwrap: Callable[[Any], Any],
        stores_classes: bool,
    ) -> None:
        self._leaves = leaves
        self._is_array = is_array
        self._unwrap = unwrap
        self._stores_classes = stores_classes
        self._inside: set[int] = set()  # the containers that lead here, by identity

    def visit(self, value: Any, path: tuple[Any, ...]) -> Any:
        """Return the outline's tree for `value`."""
        if len(path) > MAX_DEPTH:
            raise InvalidRequestError(
                f"state nests deeper than {MAX_DEPTH} levels: save what lies deeper under keys of its own",
                key=f"{describe(path[:5])}/…",
            )
        if self._is_array(value):
            return self._note(path, value, "array")
        value = self._unwrap(value)
        if isinstance(value, (np.ndarray, np.generic)):
            return self._numpy(value, path)
        if is_plain(value):
            return self._plain(value, path, None)
        if id(value) in self._inside:
            raise InvalidRequestError("the state contains itself: save what is in there once", key=describe(path))
        self._inside.add(id(value))
        try:
            if type(value) in (dict, list, tuple):
                return self._container(value, path)
            form, typed = self._taken(value, path)
            if self._is_array(form):
                return self._note(path, form, "array", typed)
            if isinstance(form, (dict, list, tuple)):
                return of_kind(self._container(form, path), typed)
            return self._plain(form, path, typed)
        finally:
            self._inside.discard(id(value))

    def _numpy(self, value: Any, path: tuple[Any, ...]) -> Leaf:
        try:
            form, typed = numpy_kinds.taken(value)
        except ValueError as error:
            raise _refused(value, path, error) from error
        return self._note(path, form, "numpy", typed)

    def _container(self, value: Any, path: tuple[Any, ...]) -> Any:
        if isinstance(value, dict):
            return self._dict(value, path)
        if all(self._is_scalar(one) for one in value):
            visited = [self._in_line(one, (*path, at)) for at, one in enumerate(value)]
        else:
            visited = [self.visit(one, (*path, at)) for at, one in enumerate(value)]
        return visited if isinstance(value, list) else tuple(visited)

    def _dict(self, value: dict[Any, Any], path: tuple[Any, ...]) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        typed_keys: dict[Any, Typed] = {}
        for key, one in value.items():
            form, typed = (key, None) if is_key(key) else self._key(key, path)
            if form in found:
                raise InvalidRequestError(
                    f"two keys would be stored as {form!r}", key=describe(path) or None, actual=repr(key)
                )
            found[form] = self.visit(one, (*path, form))
            if typed is not None:
                typed_keys[form] = typed
        return DictOfKind(found, None, typed_keys) if typed_keys else found

    def _key(self, key: Any, path: tuple[Any, ...]) -> tuple[Any, Typed]:
        if not is_plain(key) and kinds.is_scalar(key):
            form, typed = self._taken(key, (*path, key))
            if is_key(form):
                return form, typed
        raise InvalidRequestError(
            f"a key of type {type(key).__name__} can't be saved; keys are strings, numbers, booleans, None, enums, "
            "paths and dates: make one of these of it",
            key=describe(path) or None,
            actual=repr(key)[:200],
        )

    def _taken(self, value: Any, path: tuple[Any, ...]) -> tuple[Any, Typed]:
        try:
            taken = kinds.take(value, with_classes=self._stores_classes)
        except ValueError as error:
            raise _refused(value, path, error) from error
        if taken is None:
            raise InvalidRequestError(_refusal(value), key=describe(path) or None)
        return taken

    def _is_scalar(self, value: Any) -> bool:
        return kinds.is_scalar(value) and not isinstance(value, np.generic) and not self._is_array(value)

    def _in_line(self, value: Any, path: tuple[Any, ...]) -> Any:
        if is_plain(value):
            return value
        form, typed = self._taken(value, path)
        return PlainOfKind(form, typed)

    def _plain(self, value: Any, path: tuple[Any, ...], typed: Typed | None) -> Any:
        kind = type(value).__name__
        in_line = value if typed is None else PlainOfKind(value, typed)
        # A tensor's name can't be empty; a key without UTF-8 can only be in JSON.
        if kind not in _PYTHON or not path or not describe(path) or (kind == "int" and value not in _INT64):
            return in_line
        if kind == "str" and not _has_utf8(value):
            return in_line
        return self._note(path, np.asarray(value) if kind in ("int", "float", "bool") else value, kind, typed)

    def _note(self, path: tuple[Any, ...], value: Any, kind: str, typed: Typed | None = None) -> Leaf:
        name = describe(path)
        if not name:
            raise InvalidRequestError("an array below an empty key has no name")
        if not _has_utf8(name):
            raise InvalidRequestError("a key without UTF-8 can't be part of a tensor's name", key=ascii(name))
        if name in self._leaves:
            raise InvalidRequestError(
                "two parts of the state would have this name, as keys of other types or with / in them do: rename one",
                key=name,
            )
        self._leaves[name] = value
        return Leaf(kind, typed)


def _refused(value: Any, path: tuple[Any, ...], why: ValueError) -> InvalidRequestError:
    return InvalidRequestError(f"this {type(value).__name__} can't be saved: {why}", key=describe(path) or None)


def _has_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refusal(value: Any) -> str:
    """Say why a value can't be saved, and what to do."""
    kind = type(value)
    of = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    for base in (bool, int, float, complex, str, bytes, dict, list, tuple, set, frozenset):
        if issubclass(kind, base):
            return f"{of} can't be saved without pickle, as it is more than a {base.__name__}: save {base.__name__}(…)"
    if isinstance(value, Mapping):
        return f"{of} can't be saved without pickle, as it is no dict: save dict(…)"
    return f"{of} can't be saved without pickle: save what it is made of, or give it state_dict() and load_state_dict()"
