"""The parts of all ranks in one table. Pure.

Refused here: ranks that disagree about a tensor's dtype or full shape. There is a step of Python for each rank, and for
each tensor of a schema that no earlier rank had, but none for each part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.layout import Column
from ckptd.engine.manifest import STRING, VARIANT, Manifest, products
from ckptd.errors import InvalidRequestError
from ckptd.format import dtypes

_Schema = tuple[tuple[str, ...], tuple[int, ...], tuple[tuple[int, ...], ...]]


@dataclass(frozen=True, eq=False, slots=True)
class PartTable:
    """The parts of all ranks in one table sorted by (tensor, rank), tensors under common numbers.

    Per tensor there are `ndims`, `volumes`, and `dimensions_at`: where its full shape begins in the flat `dimensions`.
    Per part, `corner_at` is where its numbers begin in the flat `starts` and `shapes`.
    """

    names: tuple[str, ...]
    dtypes: tuple[int, ...]
    full_shapes: tuple[tuple[int, ...], ...]
    ndims: Column
    volumes: Column
    dimensions_at: Column
    dimensions: Column
    tensor: Column
    rank: Column
    item: Column
    size: Column
    lengths_size: Column
    lengths_crc: Column
    lengths_covered: Column
    is_whole: NDArray[np.bool_]
    corner_at: Column
    starts: Column
    shapes: Column

    def corners(self, rows: Column, ndim: int) -> tuple[Column, Column]:
        """Return starts and shapes of some parts of tensors of `ndim` dimensions, each [rows, ndim]."""
        at = self.corner_at[rows][:, None] + np.arange(ndim)
        return self.starts[at], self.shapes[at]

    def full(self, tensors: Column, ndim: int) -> Column:
        """Return the full shapes of tensors of `ndim` dimensions, [tensors, ndim]."""
        shapes: Column = self.dimensions[self.dimensions_at[tensors][:, None] + np.arange(ndim)]
        return shapes


def gather(manifests: Sequence[Manifest]) -> PartTable:
    """Put the parts of all ranks, `manifests[rank]`, into one table.

    Raises `InvalidRequestError` naming the tensor, two ranks and both values where ranks disagree about a tensor.
    """
    schemas = _Schemas(manifests)
    tensor = np.concatenate([np.zeros(0, np.int64), *(schemas.numbers(rank) for rank in range(len(manifests)))])
    if not schemas.names:
        raise InvalidRequestError("there is nothing to save: no rank brought a tensor")
    counts = np.array([manifest.num_parts for manifest in manifests], np.int64)
    rank = np.repeat(np.arange(len(manifests)), counts)
    ndims = np.fromiter(map(len, schemas.full_shapes), np.int64, len(schemas.full_shapes))
    dimensions = np.fromiter(chain.from_iterable(schemas.full_shapes), np.int64)
    volumes = products(dimensions, ndims)
    starts = np.concatenate([manifest.starts for manifest in manifests])
    shapes = np.concatenate([manifest.shapes for manifest in manifests])
    of_part = ndims[tensor]
    own = products(shapes, of_part)
    order = np.argsort(tensor, kind="stable")
    # An empty part brings nothing, unless the whole tensor is empty.
    is_kept = (own > 0) | (volumes[tensor] == 0)
    if not is_kept.all():
        order = order[is_kept[order]]
    has_lengths = any(number in (STRING, VARIANT) for number in schemas.dtypes)

    def column(of: Callable[[Manifest], NDArray[np.int64] | NDArray[np.uint32]], *, needed: bool = True) -> Column:
        if not needed:
            return np.broadcast_to(np.int64(0), len(order))
        return np.concatenate([of(manifest) for manifest in manifests])[order].astype(np.int64, copy=False)

    return PartTable(
        names=tuple(schemas.names),
        dtypes=tuple(schemas.dtypes),
        full_shapes=tuple(schemas.full_shapes),
        ndims=ndims,
        volumes=volumes,
        dimensions_at=np.cumsum(ndims) - ndims,
        dimensions=dimensions,
        tensor=tensor[order],
        rank=rank[order],
        item=(np.arange(len(tensor)) - np.repeat(np.cumsum(counts) - counts, counts))[order],
        size=column(lambda manifest: manifest.sizes),
        lengths_size=column(lambda manifest: manifest.lengths_sizes, needed=has_lengths),
        lengths_crc=column(lambda manifest: manifest.lengths_crcs, needed=has_lengths),
        lengths_covered=column(lambda manifest: manifest.lengths_covered, needed=has_lengths),
        is_whole=(own == volumes[tensor])[order],
        corner_at=(np.cumsum(of_part) - of_part)[order],
        starts=starts,
        shapes=shapes,
    )


class _Schemas:
    """The tensors of all ranks under common numbers. Ranks that save the same ones are looked at once."""

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self.names: list[str] = []
        self.dtypes: list[int] = []
        self.full_shapes: list[tuple[int, ...]] = []
        self._manifests = manifests
        self._ids: dict[str, int] = {}
        self._by_place: dict[tuple[int, int, int], Column] = {}  # the ranks' manifests often share their tuples
        self._known: dict[_Schema, Column] = {}

    def numbers(self, rank: int) -> Column:
        """Return the common number of each part's tensor, of the rank that comes next."""
        manifest = self._manifests[rank]
        place = id(manifest.names), id(manifest.dtypes), id(manifest.full_shapes)
        numbers = self._by_place.get(place)
        if numbers is None:
            schema = manifest.names, manifest.dtypes, manifest.full_shapes
            numbers = self._known.get(schema)
            if numbers is None:
                numbers = self._known[schema] = self._add(rank, manifest)
            self._by_place[place] = numbers
        return numbers[manifest.tensor]

    def _add(self, rank: int, manifest: Manifest) -> Column:
        ids, before = self._ids, len(self._ids)
        numbers = [ids.setdefault(name, len(ids)) for name in manifest.names]
        if len(ids) - before == len(numbers):
            self.names += manifest.names
            self.dtypes += manifest.dtypes
            self.full_shapes += manifest.full_shapes
            return np.array(numbers, np.int64)
        rows = zip(numbers, manifest.names, manifest.dtypes, manifest.full_shapes, strict=True)
        for number, name, dtype, shape in rows:
            if number >= before:
                self.names.append(name)
                self.dtypes.append(dtype)
                self.full_shapes.append(shape)
            elif (dtype, shape) != (self.dtypes[number], self.full_shapes[number]):
                self._refuse(rank, name)
        return np.array(numbers, np.int64)

    def _refuse(self, second: int, name: str) -> None:
        first = next(rank for rank, manifest in enumerate(self._manifests) if name in manifest.names)
        one, other = self._manifests[first], self._manifests[second]
        a, b = one.names.index(name), other.names.index(name)
        if one.full_shapes[a] != other.full_shapes[b]:
            what, expected, actual = "full shape", str(list(one.full_shapes[a])), str(list(other.full_shapes[b]))
        else:
            what = "dtype"
            expected, actual = dtypes.by_number(one.dtypes[a]).name, dtypes.by_number(other.dtypes[b]).name
        raise InvalidRequestError(
            f"ranks {first} and {second} disagree about the {what} of tensor {name!r}",
            expected=f"{expected} as on rank {first}",
            actual=f"{actual} on rank {second}",
        )
