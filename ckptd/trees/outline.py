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
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ckptd.errors import CorruptionError, InvalidRequestError

OUTLINE_NAME = "_CKPTD_OUTLINE"
"""The tensor that holds the outline, a string scalar."""

_VERSION = 1
MAX_DEPTH = 200  # Python's own recursion ends at 1000 frames; nobody nests state so deeply


@dataclass(frozen=True)
class Leaf:
    """Something that lies in a tensor of its own, and what it becomes again: a kind of the table above."""

    kind: str


def encode_outline(tree: Any) -> bytes:
    """Return the stored form of containers, plain values and `Leaf`s.

    Raises:
        InvalidRequestError: for a value or key that has no form here; the path to it is in `key`.
    """
    document = {"version": _VERSION, "state": _encode(tree, ())}
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
        return _decode(document["state"], 0)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptionError(f"not an outline: {error}", key=OUTLINE_NAME) from error


def is_plain(value: Any) -> bool:
    """Tell whether the outline holds this value itself."""
    return value is None or isinstance(value, (bool, int, float, complex, str, bytes))


def describe(path: tuple[Any, ...]) -> str:
    """Return the path to a value, as the name of its tensor and for people."""
    return "/".join(str(key) for key in path)


def _encode(value: Any, path: tuple[Any, ...]) -> Any:
    if len(path) > MAX_DEPTH:
        raise InvalidRequestError(f"state nests deeper than {MAX_DEPTH} levels, or contains itself", key=str(path[0]))
    if isinstance(value, Leaf):
        return {"leaf": value.kind}
    if isinstance(value, Mapping):
        return {"dict": [[_encode_key(key, path), _encode(one, (*path, key))] for key, one in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(one, (*path, number)) for number, one in enumerate(value)]}
    if not is_plain(value):
        raise InvalidRequestError(f"{type(value).__name__} can't be saved without pickle", key=describe(path))
    return _encode_plain(value)


def _encode_plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, complex):
        return {"complex": [_encode_plain(value.real), _encode_plain(value.imag)]}
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)  # an IntEnum is stored as its number
    return str(value) if isinstance(value, str) else value


def _encode_key(key: Any, path: tuple[Any, ...]) -> Any:
    if key is not None and not isinstance(key, (bool, int, float, str)):
        raise InvalidRequestError(
            f"a key of type {type(key).__name__} can't be saved", key=describe(path), actual=repr(key)
        )
    return _encode_plain(key)


def _decode(node: Any, depth: int) -> Any:
    if depth > MAX_DEPTH + 1:
        raise ValueError("nested too deeply")
    if not isinstance(node, dict):
        if isinstance(node, list):
            raise ValueError("a list without a kind")
        return node
    if len(node) != 1:
        raise ValueError(f"{len(node)} kinds at one place")
    ((kind, content),) = node.items()
    if kind not in _DECODERS:
        raise ValueError(f"unknown kind {kind!r}")
    return _DECODERS[kind](content, depth)


def _decode_dict(content: Any, depth: int) -> dict[Any, Any]:
    pairs = [(_decode(key, depth + 1), _decode(value, depth + 1)) for key, value in content]
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _decode_bytes(content: Any, depth: int) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error


def _decode_leaf(content: Any, depth: int) -> Leaf:
    if not isinstance(content, str):
        raise ValueError("a leaf's kind is a string")
    return Leaf(content)


_DECODERS: dict[str, Callable[[Any, int], Any]] = {
    "dict": _decode_dict,
    "list": lambda content, depth: [_decode(one, depth + 1) for one in content],
    "tuple": lambda content, depth: tuple(_decode(one, depth + 1) for one in content),
    "float": lambda content, depth: float(content),
    "complex": lambda content, depth: complex(*(_decode(part, depth + 1) for part in content)),
    "bytes": _decode_bytes,
    "leaf": _decode_leaf,
}
