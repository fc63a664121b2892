"""DCP's values beside the tensors of a checkpoint ⇄ arrays, without pickle.

Numbers and strings become tensors of their own, so that every reader sees them. Their Python types, and values that are
neither tensors nor numbers, are stored in a note: a string tensor ``_CKPTD_DCP/RANK`` of each rank that has such
values. It holds two outlines (see `ckptd.trees.outline`): the planner's data, and the values.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.torch.arrays import tensor_of
from ckptd.trees.flatten import flatten, leaves_of, read_outline, rebuild
from ckptd.trees.kind import is_plain
from ckptd.trees.outline import OUTLINE_NAME, Leaf, decode_outline, describe, encode_outline

NOTE = "_CKPTD_DCP/"
"""The beginning of a note's name; the rank follows."""

_VERSION = 1


@dataclass(frozen=True)
class DcpNote:
    """The note of one rank, or of a whole checkpoint.

    Attributes:
        save_id: one per save, the coordinator's.
        planner_data: as the planner gave it: nested containers of plain values.
        values: name → the outline's tree of a value that is not a torch tensor.
        opaque: names of values, as bytes, that only their planner can read.
        streams: names of values that were `io.BytesIO`.
        paths: name → path in the outline, of values that are not at its top.
        stored: name → stored name, of tensors that are stored under another name.
        own: rank → name → value, if ranks saved independently: their values may differ.
    """

    save_id: str = ""
    planner_data: Any = None
    values: Mapping[str, Any] = field(default_factory=dict)
    opaque: frozenset[str] = frozenset()
    streams: frozenset[str] = frozenset()
    paths: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    stored: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def own_of(self, rank: int) -> Mapping[str, Any]:
        """Return this rank's own values; those of the lowest rank for a rank that did not save."""
        return self.own.get(rank) or self.own.get(min(self.own, default=rank), {})

    @property
    def hidden(self) -> set[str]:
        """Names of the tensors that hold values, or parts of them, or that have another name for DCP."""
        return {leaf for name in self.values for leaf in self.leaves(name)} | self.opaque | {*self.stored.values()}

    def leaves(self, name: str) -> list[str]:
        """Return the names of the tensors that hold one value."""
        return [leaf for leaf, _ in leaves_of(self.values[name], self.path(name))]

    def path(self, name: str) -> tuple[Any, ...]:
        """Return where a value is in its outline."""
        return self.paths.get(name, (name,))


def encode_values(
    rank: int, values: Mapping[str, Any], opaque: Mapping[str, bytes], planner: DcpNote, *, keep_own: bool = False
) -> dict[str, Any]:
    """Return the tensors for one rank's values, including its note.

    Args:
        rank: of this process.
        values: name → value that is not a tensor, of any kind that `ckptd.trees` supports.
        opaque: name → bytes that only the planner can decode.
        planner: has the `save_id` and the `planner_data` of the save.
        keep_own: note the values themselves, too: another rank may store others under the same names.

    Raises:
        InvalidRequestError: naming a value that can't be stored without pickle.
    """
    streams = {name: value.getvalue() for name, value in values.items() if isinstance(value, io.BytesIO)}
    arrays = flatten({**values, **streams}, lambda value: isinstance(value, torch.Tensor))
    outline = arrays.pop(OUTLINE_NAME)
    head = {
        "version": _VERSION,
        "save_id": planner.save_id,
        "planner_data": planner.planner_data,
        "opaque": sorted(opaque),
        "streams": sorted(streams),
    }
    if keep_own:
        head["own"] = {name: value for name, value in values.items() if _is_plain(value)}
    try:
        encoded_head = encode_outline(head)
    except InvalidRequestError as error:
        error.add_note("it is in the planner's planner_data")
        raise
    note = np.array([encoded_head, outline], object)
    return {**arrays, **opaque, f"{NOTE}{rank}": note}


def names_of_own(names: Iterable[str], values: Mapping[str, Any]) -> frozenset[str]:
    """Return the names from `encode_values` whose values the note of each rank keeps.

    Args:
        names: of the tensors.
        values: as for `encode_values`, with `keep_own`.
    """
    own = {name for name, value in values.items() if _is_plain(value)}
    return frozenset(
        name
        for name in names
        if any(beginning in own for beginning in accumulate(name.split("/"), lambda above, key: f"{above}/{key}"))
    )


def decode_notes(notes: Mapping[str, Any]) -> DcpNote:
    """Return the notes of all ranks, by their names, as one.

    Raises:
        CorruptionError: one of them is not a note.
    """
    save_id, planner_data = "", None
    values: dict[str, Any] = {}
    opaque: set[str] = set()
    streams: set[str] = set()
    own: dict[int, Mapping[str, Any]] = {}
    for name, note in notes.items():
        parts = np.asarray(note, object)
        if parts.shape != (2,):
            raise CorruptionError("a note has two strings", key=NOTE, actual=f"shape {list(parts.shape)}")
        head = decode_outline(parts[0])
        if not isinstance(head, dict) or head.get("version") != _VERSION:
            raise CorruptionError("the note has another version", key=NOTE, expected=_VERSION)
        tree = read_outline(parts[1])
        if not isinstance(tree, dict):
            raise CorruptionError("the values of the note have no names", key=NOTE)
        values.update(tree)
        opaque.update(map(str, head.get("opaque") or ()))
        streams.update(map(str, head.get("streams") or ()))
        rank = name.removeprefix(NOTE)
        if isinstance(head.get("own"), dict) and rank.isdecimal():
            own[int(rank)] = head["own"]
        save_id = save_id or str(head.get("save_id") or "")
        planner_data = _merged(planner_data, head.get("planner_data"))
    return DcpNote(save_id, planner_data, values, frozenset(opaque), frozenset(streams), own=own)


def note_of_outline(tree: Any) -> DcpNote:
    """Return a note for state that was saved with an outline, not by DCP, with the names that DCP would use.

    DCP joins keys with dots. It descends into dicts, and into lists that hold dicts or tensors.
    """
    values: dict[str, Any] = {}
    paths: dict[str, tuple[Any, ...]] = {}
    stored: dict[str, str] = {}
    planner_data: dict[str, tuple[str | int, ...]] = {}
    for keys, path, value in _flattened(tree, (), ()):
        name = ".".join(map(str, keys))
        planner_data[name] = keys
        if isinstance(value, Leaf) and value.kind == "array":
            stored[name] = describe(path)
        else:
            values[name], paths[name] = value, path
    return DcpNote(planner_data=planner_data, values=values, paths=paths, stored=stored)


def _flattened(
    tree: Any, keys: tuple[str | int, ...], path: tuple[Any, ...]
) -> Iterator[tuple[tuple[str | int, ...], tuple[Any, ...], Any]]:
    if isinstance(tree, dict):
        for key, one in tree.items():
            yield from _flattened(one, (*keys, str(key)), (*path, key))
    elif isinstance(tree, list) and _holds_more(tree):
        for at, one in enumerate(tree):
            yield from _flattened(one, (*keys, at), (*path, at))
    elif keys:
        yield keys, path, tree


def _holds_more(values: list[Any]) -> bool:
    return any(
        isinstance(one, dict)
        or (isinstance(one, Leaf) and one.kind == "array")
        or (isinstance(one, list) and _holds_more(one))
        for one in values
    )


def decode_value(note: DcpNote, name: str, read: Callable[[str], Any]) -> Any:
    """Return one value with its Python type.

    Args:
        note: of the checkpoint.
        name: of the value.
        read: the name of a tensor → numpy array.

    Raises:
        CorruptionError: a tensor is missing, or does not fit the value.
    """
    value = rebuild(note.values[name], read, tensor_of, note.path(name))
    return io.BytesIO(value) if name in note.streams else value


def _is_plain(value: Any) -> bool:
    """Return whether the head of a note holds such a value itself."""
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, (list, tuple)) else is_plain(value)


def _merged(known: Any, more: Any) -> Any:
    if isinstance(known, dict) and isinstance(more, dict):
        return {**more, **known}
    return more if known is None else known
