"""The outline of nested state: how its containers nest, where its arrays are, and the plain values themselves.

An outline is JSON, stored as one string tensor, so that state comes back as it was and nothing is ever unpickled.

| in the state | in the outline |
|---|---|
| None, True, 3, "text" | the same in JSON |
| 0.5; inf, nan | ``0.5``; ``{"float": "inf"}`` |
| b"bytes"; 1+2j | ``{"bytes": BASE64}``; ``{"complex": [1.0, 2.0]}`` |
| a dict | ``{"dict": [[key, value], …]}``: keys are numbers, strings, booleans or None |
| a list; a tuple | ``{"list": […]}``; ``{"tuple": […]}`` |
| something in a tensor of its own | ``{"leaf": KIND}``; its name is the path to it |

KIND is "int", "float", "bool", "str" or "bytes" for Python's own, "numpy" for numpy's, "array" for the framework's.

What is of another kind, such as a `Counter` or a `Path`, is stored in its plain form, a dict or a string, and the
document lists under "kinds" where such a form stands, and what it was: ``[PLACE, KIND, NOTE]``, see `kinds`. A place is
the way to it: the position in each dict or sequence; ``-1 - position`` at the end means the key there. Versions of
ckptd that know no kinds read the plain form.
"""

from __future__ import annotations

import base64
import binascii
import enum
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.trees.kind import Typed, is_plain

OUTLINE_NAME = "_CKPTD_OUTLINE"
"""The tensor that holds the outline, a string scalar."""

_VERSION = 1
MAX_DEPTH = 200  # Python's own recursion ends at 1000 frames; real state is never nested so deeply


Place = tuple[int, ...]


@dataclass(frozen=True)
class Leaf:
    """A value that is stored in a tensor of its own, and its kind in the table above."""

    kind: str
    typed: Typed | None = None


class DictOfKind(dict[Any, Any]):
    """The plain form of a value of another kind, or with keys of other kinds, which are noted by their plain forms."""

    def __init__(self, items: Any, typed: Typed | None, keys: Mapping[Any, Typed]) -> None:
        super().__init__(items)
        self.typed = typed
        self.keys_typed = keys


class ListOfKind(list[Any]):
    """The plain form of a value of another kind."""

    def __init__(self, items: Any, typed: Typed) -> None:
        super().__init__(items)
        self.typed = typed


class TupleOfKind(tuple[Any, ...]):
    """The plain form of a value of another kind."""

    typed: Typed

    def __new__(cls, items: Any, typed: Typed) -> TupleOfKind:
        """Note the kind beside the items."""
        new = super().__new__(cls, items)
        new.typed = typed
        return new


@dataclass(frozen=True)
class PlainOfKind:
    """The plain form of a value of another kind, a plain value that the outline holds itself."""

    form: Any
    typed: Typed


def typed_of(node: Any) -> Typed | None:
    """Return the kind of what an outline's node was, None if that was no other than the node's."""
    return getattr(node, "typed", None)


def of_kind(form: Any, typed: Typed) -> Any:
    """Return an outline's node for a plain form: dict, list, tuple or plain value."""
    if isinstance(form, dict):
        return DictOfKind(form, typed, getattr(form, "keys_typed", {}))
    if isinstance(form, list):
        return ListOfKind(form, typed)
    if isinstance(form, tuple):
        return TupleOfKind(form, typed)
    return PlainOfKind(form, typed)


def encode_outline(tree: Any) -> bytes:
    """Return the stored form of containers, plain values and `Leaf`s.

    Raises:
        InvalidRequestError: for a value or key that has no form here; the path to it is in `key`.
    """
    kinds: list[list[Any]] = []
    document = {"version": _VERSION, "state": _encode(tree, (), (), kinds)}
    if kinds:
        document["kinds"] = kinds
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def decode_outline(data: bytes) -> Any:
    """Return the containers, plain values and `Leaf`s of a stored outline.

    Raises:
        CorruptionError: when it is none, or of a version that is not known here.
    """
    try:
        document = json.loads(data)
        if document["version"] != _VERSION:
            raise CorruptionError(
                "outline of another version", key=OUTLINE_NAME, expected=_VERSION, actual=document["version"]
            )
        kinds = {tuple(place): Typed(_text(kind), beside) for place, kind, beside in document.get("kinds", [])}
        return _decode(document["state"], (), kinds)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptionError(f"not an outline: {error}", key=OUTLINE_NAME) from error


def describe(path: tuple[Any, ...]) -> str:
    """Return the path to a value, as the name of its tensor and for people."""
    return "/".join(str(key.value) if isinstance(key, enum.Enum) else str(key) for key in path)


def _encode(value: Any, path: tuple[Any, ...], place: Place, kinds: list[list[Any]]) -> Any:
    if len(path) > MAX_DEPTH:
        raise InvalidRequestError(f"state nests deeper than {MAX_DEPTH} levels, or contains itself", key=str(path[0]))
    typed = typed_of(value)
    if typed is not None:
        kinds.append([list(place), typed.kind, typed.beside])
    if isinstance(value, PlainOfKind):
        return _encode_plain(value.form)
    if isinstance(value, Leaf):
        return {"leaf": value.kind}
    if isinstance(value, Mapping):
        for at, key in enumerate(value):
            if key in getattr(value, "keys_typed", {}):
                kinds.append([[*place, -1 - at], value.keys_typed[key].kind, value.keys_typed[key].beside])  # type: ignore[attr-defined]
        return {
            "dict": [
                [_encode_key(key, path), _encode(one, (*path, key), (*place, at), kinds)]
                for at, (key, one) in enumerate(value.items())
            ]
        }
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(one, (*path, at), (*place, at), kinds) for at, one in enumerate(value)]}
    if not is_plain(value):
        raise InvalidRequestError(f"{type(value).__name__} can't be saved without pickle", key=describe(path))
    return _encode_plain(value)


def _encode_plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, complex):
        return {"complex": [_encode_plain(value.real), _encode_plain(value.imag)]}
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    return value


def _encode_key(key: Any, path: tuple[Any, ...]) -> Any:
    if not is_key(key):
        raise InvalidRequestError(
            f"a key of type {type(key).__name__} can't be saved", key=describe(path), actual=repr(key)
        )
    return _encode_plain(key)


def is_key(value: Any) -> bool:
    """Return whether a dict of the outline may have this key."""
    return is_plain(value) and not isinstance(value, (bytes, complex))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a kind is a string")
    return value


def _decode(node: Any, place: Place, kinds: Mapping[Place, Typed]) -> Any:
    if len(place) > MAX_DEPTH + 1:
        raise ValueError("nested too deeply")
    typed = kinds.get(place) if kinds else None
    value = _decode_node(node, place, kinds)
    if typed is None:
        return value
    return Leaf(value.kind, typed) if isinstance(value, Leaf) else of_kind(value, typed)


def _decode_node(node: Any, place: Place, kinds: Mapping[Place, Typed]) -> Any:
    if not isinstance(node, dict):
        if isinstance(node, list):
            raise ValueError("a list without a kind")
        return node
    if len(node) != 1:
        raise ValueError(f"{len(node)} kinds at one place")
    ((kind, content),) = node.items()
    if kind == "dict":
        return _decode_dict(content, place, kinds)
    if kind in ("list", "tuple"):
        parts = [_decode(one, (*place, at), kinds) for at, one in enumerate(content)]
        return parts if kind == "list" else tuple(parts)
    if kind not in _DECODERS:
        raise ValueError(f"unknown kind {kind!r}")
    return _DECODERS[kind](content)


def _decode_dict(content: Any, place: Place, kinds: Mapping[Place, Typed]) -> dict[Any, Any]:
    pairs = [
        (_decode_node(key, (), {}), _decode(value, (*place, at), kinds)) for at, (key, value) in enumerate(content)
    ]
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    keys = {key: kinds[(*place, -1 - at)] for at, (key, _) in enumerate(pairs) if (*place, -1 - at) in kinds}
    return DictOfKind(found, None, keys) if keys else found


def _decode_bytes(content: Any) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error


def _decode_leaf(content: Any) -> Leaf:
    return Leaf(_text(content))


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "complex": lambda content: complex(*(_decode_node(part, (), {}) for part in content)),
    "bytes": _decode_bytes,
    "leaf": _decode_leaf,
}
