"""Merge the outlines of several ranks into one that lists whatever any of them has.

Rank 0 stores its outline as `OUTLINE_NAME`, every other rank its own below that, under a hash of its content. So
equal ones are stored once, however many ranks there are, and no rank has to call another. Versions of ckptd that do
not know this read the outline of rank 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ckptd.trees import bits
from ckptd.trees.flatten import read_outline
from ckptd.trees.outline import (
    OUTLINE_NAME,
    DictOfKind,
    Leaf,
    ListOfKind,
    PlainOfKind,
    TupleOfKind,
    describe,
    of_kind,
    typed_of,
)

_OTHERS = f"{OUTLINE_NAME}/"


def outline_name(outline: bytes, rank: int) -> str:
    """Return the name under which a rank stores its outline."""
    return _OTHERS + hashlib.sha256(outline).hexdigest()[:32] if rank else OUTLINE_NAME


@dataclass
class Outline:
    """The merged outline of all ranks of a checkpoint.

    Attributes:
        tree: as from `read_outline`; None when there is no outline.
        conflicts: the paths at which ranks contradict each other, with what each has; `tree` has the first there.
        partial: the paths of dict entries that only some ranks have.
    """

    tree: Any
    conflicts: dict[tuple[Any, ...], str] = field(default_factory=dict)
    partial: set[tuple[Any, ...]] = field(default_factory=set)


def merged_outline(stored: Mapping[str, Any], names: Iterable[str]) -> Outline:
    """Return the outlines of a checkpoint merged into one.

    Dicts are united, sequences of equal length part by part, and None gives way to a value.

    Args:
        stored: name → tensor.
        names: of all tensors.

    Raises:
        CorruptionError: one of them is damaged.
    """
    notes = [name for name in names if name == OUTLINE_NAME or name.startswith(_OTHERS)]
    if not notes:
        return Outline(None)
    notes.sort()  # that of rank 0 first
    encoded = dict.fromkeys(_one_string(stored[name]) for name in notes)  # equal ones are read once
    first, *others = (read_outline(one) for one in encoded)
    outline = Outline(first)
    for other in others:
        outline.tree = _merged(outline.tree, other, (), outline)
    return outline


def _one_string(tensor: Any) -> Any:
    return tensor if isinstance(tensor, bytes) else tensor.item() if getattr(tensor, "shape", None) == () else None


def _merged(one: Any, other: Any, path: tuple[Any, ...], outline: Outline) -> Any:
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, Leaf) and isinstance(other, Leaf) and _have_the_same_elements(one, other):
        return one
    if _kind_of(one) == _kind_of(other) and typed_of(one) == typed_of(other):
        if isinstance(one, dict):
            return _merged_dicts(one, other, path, outline)
        if isinstance(one, (list, tuple)) and len(one) == len(other):
            parts = [_merged(a, b, (*path, at), outline) for at, (a, b) in enumerate(zip(one, other, strict=True))]
            form = parts if isinstance(one, list) else tuple(parts)
            typed = typed_of(one)
            return form if typed is None else of_kind(form, typed)
        if not isinstance(one, (list, tuple)) and (one == other or repr(one) == repr(other)):  # nan is like nan
            return one
    outline.conflicts.setdefault(path, f"{told_node(one)} on one rank, {told_node(other)} on another")
    return one


def _have_the_same_elements(one: Leaf, other: Leaf) -> bool:
    """Return whether all that differs is whether it is a parameter, wants a gradient, or is of a class of its own."""
    marks = all(typed is None or typed.kind == bits.TENSOR for typed in (one.typed, other.typed))
    return one.kind == other.kind == "array" and marks and bits.name_in(one.typed) == bits.name_in(other.typed)


def _merged_dicts(
    one: dict[Any, Any], other: dict[Any, Any], path: tuple[Any, ...], outline: Outline
) -> dict[Any, Any]:
    found = {
        key: _merged(value, other[key], (*path, key), outline) if key in other else value for key, value in one.items()
    }
    found.update((key, value) for key, value in other.items() if key not in one)
    outline.partial.update((*path, key) for key in one.keys() ^ other.keys())
    mine, theirs = getattr(one, "keys_typed", {}), getattr(other, "keys_typed", {})
    for key in one.keys() & other.keys():
        if mine.get(key) != theirs.get(key):
            outline.conflicts.setdefault((*path, key), "a key of one type on one rank, of another type on another")
    typed_keys = {**{key: typed for key, typed in theirs.items() if key not in one}, **mine}
    typed = typed_of(one)
    return found if typed is None and not typed_keys else DictOfKind(found, typed, typed_keys)


def _kind_of(node: Any) -> type:
    for plain, kind in ((dict, DictOfKind), (list, ListOfKind), (tuple, TupleOfKind)):
        if isinstance(node, kind):
            return plain
    return type(node)


def told_node(node: Any) -> str:
    """Return what an outline has at one place, in words."""
    typed = typed_of(node)
    if isinstance(node, (dict, list, tuple)):
        count = "" if isinstance(node, dict) else f" of {len(node)}"
        return f"a {typed.kind if typed else _kind_of(node).__name__}{count}"
    if isinstance(node, Leaf):
        kind = "a tensor" if node.kind == "array" else f"a {node.kind}"
        return f"{kind} ({typed.kind})" if typed else kind
    return repr(node.form if isinstance(node, PlainOfKind) else node)[:60]


def told(conflicts: Mapping[tuple[Any, ...], str]) -> str:
    """Return the conflicts as text, the first few of many."""
    lines = [f"{describe(path) or 'the whole state'} is {what}" for path, what in conflicts.items()]
    return "; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")
