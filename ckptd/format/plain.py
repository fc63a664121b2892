"""Find many tensors at once, in columns: those that are stored in one piece and have elements of fixed width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ckptd.errors import CkptdError
from ckptd.format.dtypes import DType
from ckptd.format.entry import form_of
from ckptd.format.entry_columns import entry_columns
from ckptd.format.index import Index
from ckptd.format.names import tensor_key
from ckptd.format.stored import MAX_INT64
from ckptd.format.varint_columns import IntArray


class Form(NamedTuple):
    """Dtype and shape that many tensors share; `size` is in bytes."""

    dtype: DType
    shape: tuple[int, ...]
    size: int


@dataclass(frozen=True, slots=True)
class PlainTensors:
    """One row per tensor, checked as `Index.tensor` checks it.

    Attributes:
        requested: the indexes of the requested names that mean it, in ascending order.
        forms: the different dtypes and shapes.
        form: which of `forms` it has.
        shard_id, offset, size: int64; in bytes.
        crc32c: the plain checksum, uint32.
    """

    requested: IntArray
    forms: list[Form]
    form: IntArray
    shard_id: IntArray
    offset: IntArray
    size: IntArray
    crc32c: np.ndarray[Any, np.dtype[np.uint32]]

    def take(self, rows: IntArray) -> PlainTensors:
        """Return some of the rows, in that order."""
        return PlainTensors(
            self.requested[rows],
            self.forms,
            self.form[rows],
            self.shard_id[rows],
            self.offset[rows],
            self.size[rows],
            self.crc32c[rows],
        )


def plain_tensors(index: Index, names: Sequence[str]) -> PlainTensors:
    """Find those of `names` that are plain. Left out are slices, strings, and whatever is unknown, odd or damaged."""
    found = entry_columns([_value(index, name) for name in names])
    forms: list[Form] = []
    form_of_head: list[int] = []
    for head in found.heads:
        form_of_head.append(-1)
        try:
            dtype, box, size = form_of(head)
        except CkptdError:
            continue
        if size is not None:
            form_of_head[-1] = len(forms)
            forms.append(Form(dtype, box.shape, size))
    # A number of -1 takes the last: what has no form fits none.
    form = np.array([*form_of_head, -1], np.int64)[found.head]
    wanted_size = np.array([*(each.size for each in forms), -1], np.int64)[form]
    is_plain = found.is_usual & (found.size == wanted_size) & (found.shard_id < index.num_shards)
    is_plain &= found.offset <= MAX_INT64 - found.size
    rows = np.flatnonzero(is_plain)
    every = PlainTensors(np.arange(len(names)), forms, form, found.shard_id, found.offset, found.size, found.crc32c)
    return every.take(rows)


def _value(index: Index, name: str) -> bytes:
    """Return the entry of a name, nothing if there is none."""
    try:
        key = tensor_key(name)
    except CkptdError:
        return b""
    return (index.raw(key) or b"") if key else b""
