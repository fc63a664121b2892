"""What the outlines of several ranks have to agree on, small enough to be compared before anything is stored.

The daemon never reads outlines: it compares these remarks. Ranks whose remarks agree have outlines that `merging` can
merge, except for leaves of other kinds under one name, and for deeply nested dicts where another rank has a tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ckptd.engine.replicas import Remark
from ckptd.format.crc32c import crc32c
from ckptd.trees.outline import Leaf, PlainOfKind, describe, encode_outline, typed_of

_MOST_SHOWN = 60
_DICT_LEVELS = 2  # an optimizer's state has a dict for each of its parameters


def remarks_of(tree: Any) -> list[Remark]:
    """Return remarks on an outline's tree: on sequences, plain values, and the dicts of its first levels.

    None gets no remark: a value of another rank replaces it.
    """
    found: list[Remark] = []
    for path, node in _nodes(tree, ()):
        if isinstance(node, dict) and len(path) > _DICT_LEVELS:
            continue
        name = describe(path).encode(errors="backslashreplace").decode()
        if name:
            found.append(_remark(name, node))
    return found


_last_remarks: tuple[bytes, list[Remark]] = (b"", [])  # of the outline saved last, which seldom changes


def remarks_of_outline(outline: bytes, tree: Any) -> list[Remark]:
    """Return the remarks on an outline's tree; `outline` is the same encoded."""
    global _last_remarks
    known, remarks = _last_remarks
    if known != outline:
        remarks = remarks_of(tree)
        _last_remarks = outline, remarks
    return remarks


def _nodes(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield path, node
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(node, dict):
        children = node.items()
    elif isinstance(node, (list, tuple)) and not _is_plain(node):
        children = enumerate(node)
    for key, value in children:
        if value is not None and type(value) is not Leaf:  # of those there are thousands
            yield from _nodes(value, (*path, key))


def _is_plain(node: list[Any] | tuple[Any, ...]) -> bool:
    return not any(one is None or isinstance(one, (Leaf, dict, list, tuple)) for one in node)


def _remark(name: str, node: Any) -> Remark:
    if isinstance(node, dict):
        return Remark(name, crc32c(repr(("dict", typed_of(node))).encode()), "a dict")
    if isinstance(node, (list, tuple)) and not _is_plain(node):
        kind = "list" if isinstance(node, list) else "tuple"
        return Remark(name, crc32c(repr((kind, len(node), typed_of(node))).encode()), f"a {kind} of {len(node)}")
    shown = repr(node.form if isinstance(node, PlainOfKind) else node)
    return Remark(name, crc32c(encode_outline(node)), shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}…")
