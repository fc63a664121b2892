"""The tensors of a checkpoint as columns: to filter, sort, and show a page of tens of thousands, and to compare two.

Only the index is read for it. An entry that is wrong is a row that says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from ckptd.errors import CkptdError
from ckptd.format import crc32c
from ckptd.format.index import Index
from ckptd.format.plain import plain_tensors
from ckptd.format.slices import Box
from ckptd.format.stored import StoredTensor


@dataclass(frozen=True, slots=True)
class TensorLine:
    """One tensor.

    Attributes:
        number: which one in the index, from 0 on.
        name: as the index has it: any text.
        dtype: TensorFlow's name for it; "" where the entry is wrong.
        shape: of all of it.
        size_bytes: of its stored pieces.
        num_pieces: 1, or the number of its slices.
        crc32c: of its bytes in C order, where the sums of its pieces tell; else None.
        problem: why its entry cannot be right; "" where it can.
    """

    number: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    num_pieces: int
    crc32c: int | None
    problem: str = ""

    @property
    def num_elements(self) -> int:
        """Return how many there are; 1 in a scalar."""
        return math.prod(self.shape)


class ListOrder(Enum):
    """By what rows are sorted; ties are in the order of the index."""

    NAME = "name"
    SIZE = "size"
    DTYPE = "dtype"
    SHAPE = "shape"
    PIECES = "slices"


@dataclass(frozen=True)
class TensorList:
    """All tensors of one checkpoint, in the order of its index, which is that of their names as bytes."""

    rows: tuple[TensorLine, ...]
    num_shards: int

    @classmethod
    def of(cls, index: Index) -> TensorList:
        """Read all entries of an index."""
        return cls(tuple(_rows(index)), index.num_shards)

    @cached_property
    def size_bytes(self) -> int:
        """Of all tensors."""
        return sum(row.size_bytes for row in self.rows)

    @cached_property
    def by_name(self) -> dict[str, TensorLine]:
        """The rows by their tensors' names."""
        return {row.name: row for row in self.rows}

    @cached_property
    def separator(self) -> str:
        """What parts names: "/" as in TensorFlow, or "." as in torch, where hardly a name has the other."""
        with_slash = sum("/" in row.name for row in self.rows)
        with_dot = sum("." in row.name for row in self.rows)
        return "." if with_dot > 4 * with_slash else "/"

    def selected(
        self, *, text: str = "", under: str = "", order: ListOrder = ListOrder.NAME, descending: bool = False
    ) -> list[TensorLine]:
        """Return the rows whose names begin with `under` and have `text` in them, whatever its case."""
        wanted = text.casefold()
        rows = [
            row
            for row in self.rows
            if row.name.startswith(under) and (not wanted or wanted in row.name.casefold() or wanted == row.dtype)
        ]
        if order is not ListOrder.NAME:
            rows.sort(key=_KEYS[order], reverse=descending)
        elif descending:
            rows.reverse()
        return rows


@dataclass(frozen=True, slots=True)
class Folder:
    """Tensors whose names begin alike.

    Attributes:
        path: what they begin with, with the separator at its end.
        label: the last part of it.
        num_tensors, size_bytes: of all of them.
    """

    path: str
    label: str
    num_tensors: int
    size_bytes: int


def level(rows: Sequence[TensorLine], under: str, separator: str) -> tuple[list[Folder], list[TensorLine]]:
    """Return what is directly below a path of the tree: folders of at least two tensors, and tensors.

    Both are sorted as people count: ``layer_2`` before ``layer_10``. A folder that holds one folder and nothing else is
    joined with it. `rows` all begin with `under`.
    """
    groups: dict[str, list[TensorLine]] = {}
    leaves: list[TensorLine] = []
    for row in rows:
        head, found, _ = row.name[len(under) :].partition(separator)
        if found and len(head) <= _MOST_LABEL:
            groups.setdefault(head, []).append(row)
        else:
            leaves.append(row)
    folders = []
    for head, inside in groups.items():
        if len(inside) == 1:
            leaves.append(inside[0])
            continue
        path = _common(inside, under + head + separator, separator)
        folders.append(Folder(path, path[len(under) :], len(inside), sum(row.size_bytes for row in inside)))
    folders.sort(key=lambda folder: _as_counted(folder.label))
    leaves.sort(key=lambda row: _as_counted(row.name))
    return folders, leaves


def _as_counted(label: str) -> list[tuple[int, int, str]]:
    """Return what sorts text by the numbers in it."""
    parts = _DIGITS.split(label[: 4 * _MOST_LABEL])
    return [(0, int(part), "") if part.isdecimal() and part.isascii() else (1, 0, part) for part in parts]


_DIGITS = re.compile("([0-9]{1,18})")


_MOST_LABEL = 200


def _common(rows: Sequence[TensorLine], path: str, separator: str) -> str:
    """Return the longest path, from `path` on, below which all of `rows` are."""
    while len(path) <= 4 * _MOST_LABEL:
        head, found, _ = rows[0].name[len(path) :].partition(separator)
        longer = path + head + separator
        if not found or not all(row.name.startswith(longer) for row in rows):
            break
        path = longer
    return path


class Comparison(Enum):
    """How a tensor of one checkpoint is to the tensor of the same name in an older one."""

    SAME = "same"
    CHANGED = "changed"
    RESHAPED = "another shape or dtype"
    ADDED = "added"
    REMOVED = "removed"
    UNKNOWN = "not comparable"


def compare(newer: TensorList, older: TensorList) -> list[tuple[Comparison, TensorLine]]:
    """Compare two checkpoints by the checksums in their indexes, without reading a byte of data.

    Rows are the newer one's, those of removed tensors the older one's and last. Equal sums are taken for equal bytes.
    Sums of tensors that are cut across their first dimension differently cannot be compared.
    """
    found = [(_compared(row, older.by_name.get(row.name)), row) for row in newer.rows]
    found += [(Comparison.REMOVED, row) for row in older.rows if row.name not in newer.by_name]
    return found


def _compared(row: TensorLine, before: TensorLine | None) -> Comparison:
    if before is None:
        return Comparison.ADDED
    if (row.dtype, row.shape) != (before.dtype, before.shape):
        return Comparison.RESHAPED
    if row.crc32c is None or before.crc32c is None:
        return Comparison.UNKNOWN
    return Comparison.SAME if row.crc32c == before.crc32c else Comparison.CHANGED


def sum_of(tensor: StoredTensor) -> int | None:
    """Return the checksum of a tensor's bytes in C order, if its pieces follow one another in it; else None."""
    if not tensor.is_sliced:
        return tensor.pieces[0].crc32c
    if not tensor.dtype.width or not tensor.shape:
        return None
    pieces = sorted(tensor.pieces, key=lambda piece: piece.box.start[0])
    at = 0
    for piece in pieces:
        rows = Box((at, *(0 for _ in tensor.shape[1:])), (piece.box.shape[0], *tensor.shape[1:]))
        if piece.box != rows:
            return None
        at += piece.box.shape[0]
    if at != tensor.shape[0]:
        return None
    return crc32c.joined([piece.crc32c for piece in pieces], [piece.size for piece in pieces])


def _rows(index: Index) -> Iterator[TensorLine]:
    names = index.names()
    plain = plain_tensors(index, names)
    found: dict[int, TensorLine] = {}
    for number, form, size, crc in zip(
        plain.requested.tolist(), plain.form.tolist(), plain.size.tolist(), plain.crc32c.tolist(), strict=True
    ):
        dtype, shape, _ = plain.forms[form]
        found[number] = TensorLine(number, names[number], dtype.name, shape, size, 1, crc)
    for number, name in enumerate(names):
        yield found.get(number) or _row(index, number, name)


def _row(index: Index, number: int, name: str) -> TensorLine:
    try:
        tensor = index.tensor(name)
    except CkptdError as error:
        return TensorLine(number, name, "", (), 0, 0, None, error.reason)
    size = sum(piece.size for piece in tensor.pieces)
    return TensorLine(number, name, tensor.dtype.name, tensor.shape, size, len(tensor.pieces), sum_of(tensor))


_KEYS = {
    ListOrder.SIZE: lambda row: row.size_bytes,
    ListOrder.DTYPE: lambda row: row.dtype,
    ListOrder.SHAPE: lambda row: (len(row.shape), row.shape),
    ListOrder.PIECES: lambda row: row.num_pieces,
}
