"""Nested state → named leaves, and back.

A leaf's name is the path to it, its keys joined by ``/``: ``optimizer/state/0/exp_avg``. Numbers and strings below a
dict become tensors of their own, so that every reader sees them: ``epoch`` is an int64 scalar. Those in lists of
nothing but plain values, which may be long and say little one by one, stay in the outline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.trees.outline import OUTLINE_NAME, Leaf, decode_outline, describe, encode_outline, is_plain

_INT64 = range(-(1 << 63), 1 << 63)


def flatten(state: Any, is_array: Callable[[Any], bool]) -> dict[str, Any]:
    """Return name → leaf for nested dicts, lists and tuples, the outline among them as `OUTLINE_NAME`.

    Args:
        state: a dict, list or tuple; nothing in it is changed or copied.
        is_array: says what is a leaf as it is: the framework's arrays, `Slice`s, lists of them. numpy's arrays and
            scalars always are.

    Raises:
        InvalidRequestError: naming the path of what has no form without pickle, or the name that two leaves would
            share, as ``{"a/b": x, "a": {"b": y}}`` would.
    """
    if not isinstance(state, (Mapping, list, tuple)):
        raise InvalidRequestError("state to save is a dict, a list or a tuple", actual=type(state).__name__)
    leaves: dict[str, Any] = {}
    tree = _Walk(leaves, is_array).visit(state, ())
    if OUTLINE_NAME in leaves:
        raise InvalidRequestError("this name is the outline's", key=OUTLINE_NAME)
    return {**leaves, OUTLINE_NAME: encode_outline(tree)}


def unflatten(stored: Mapping[str, Any], to_framework: Callable[[Any], Any]) -> Any:
    """Return the nested state again, from all tensors of a checkpoint: name → numpy array.

    Without an outline, as others write checkpoints, it is a flat dict of names.

    Args:
        stored: with the outline.
        to_framework: turns the numpy array of an "array" leaf into the framework's own.

    Raises:
        CorruptionError: the outline is damaged, or names a tensor that is not there.
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


def rebuild(
    tree: Any, read: Callable[[str], Any], to_framework: Callable[[Any], Any], path: tuple[Any, ...] = ()
) -> Any:
    """Return an outline's tree with every leaf replaced by its value.

    Args:
        tree: from `read_outline`.
        read: name → numpy array; a KeyError says that it is not there.
        to_framework: turns the numpy array of an "array" leaf into the framework's own.
        path: to this tree, within the whole.

    Raises:
        CorruptionError: a tensor is missing, or is nothing that its kind can be made of.
    """
    if isinstance(tree, dict):
        return {key: rebuild(value, read, to_framework, (*path, key)) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(rebuild(value, read, to_framework, (*path, at)) for at, value in enumerate(tree))
    if not isinstance(tree, Leaf):
        return tree
    name = describe(path)
    try:
        array = read(name)
    except KeyError as error:
        raise CorruptionError("the outline names a tensor that is not there", key=name) from error
    if tree.kind == "array":
        return to_framework(array)
    if tree.kind == "numpy":
        return array
    if tree.kind not in _PYTHON:
        raise CorruptionError("the outline has a kind that is not known here", key=name, actual=tree.kind)
    try:
        # numpy's own arrays of bytes end at the last byte that is not NUL: a string stays out of them.
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

    def __init__(self, leaves: dict[str, Any], is_array: Callable[[Any], bool]) -> None:
        self._leaves = leaves
        self._is_array = is_array
        self._inside: set[int] = set()  # the containers that lead here, by identity

    def visit(self, value: Any, path: tuple[Any, ...]) -> Any:
        """Return the outline's tree for `value`."""
        if self._is_array(value):
            return self._note(path, value, "array")
        if isinstance(value, (np.ndarray, np.generic)):
            return self._note(path, value, "numpy")
        if not isinstance(value, (Mapping, list, tuple)):
            return self._plain(value, path)
        if id(value) in self._inside:
            raise InvalidRequestError("the state contains itself", key=describe(path))
        self._inside.add(id(value))
        try:
            if isinstance(value, Mapping):
                return {key: self.visit(one, (*path, key)) for key, one in value.items()}
            if all(is_plain(one) for one in value):
                return list(value) if isinstance(value, list) else tuple(value)
            visited = [self.visit(one, (*path, at)) for at, one in enumerate(value)]
            return visited if isinstance(value, list) else tuple(visited)
        finally:
            self._inside.discard(id(value))

    def _plain(self, value: Any, path: tuple[Any, ...]) -> Any:
        kind = type(value).__name__
        # Subclasses, such as an IntEnum, are stored as what they extend; a tensor's name can't be empty.
        if kind not in _PYTHON or not path or not describe(path) or (kind == "int" and value not in _INT64):
            return value
        return self._note(path, np.asarray(value) if kind in ("int", "float", "bool") else value, kind)

    def _note(self, path: tuple[Any, ...], value: Any, kind: str) -> Leaf:
        name = describe(path)
        if not name:
            raise InvalidRequestError("an array below an empty key has no name")
        if name in self._leaves:
            raise InvalidRequestError("two parts of the state would have this name", key=name)
        self._leaves[name] = value
        return Leaf(kind)
