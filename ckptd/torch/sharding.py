"""Where the elements of a `DTensor` lie: the boxes of the whole tensor that this rank holds, and its memory for each.

A rank's part is a product of intervals, one list of them per dimension. `Shard` cuts a dimension in equal pieces, the
last ones shorter or empty, as ``torch.chunk`` does; where several mesh dimensions cut the same one, each cuts what the
one before left. `_StridedShard`, by which FSDP2 says that tensor parallelism cut first, first cuts in `split_factor`
pieces, and takes its share of each: the only case of more than one interval.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ckptd.client.slice import Slice
from ckptd.errors import InvalidRequestError
from ckptd.torch.arrays import Array, array_of

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

_Interval = tuple[int, int]
"""First position and the first after it, in the whole tensor."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One box of a whole tensor, and this rank's elements of it: a view of the local tensor."""

    start: tuple[int, ...]
    local: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """How far the box reaches, per dimension."""
        return tuple(self.local.shape)


def is_dtensor(value: Any) -> bool:
    """Tell whether `value` is a `DTensor`, without importing what defines it."""
    # Who holds one has imported it; the import alone costs others a second.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def local_parts(name: str, tensor: torch.Tensor) -> list[Part]:
    """Return the boxes that this rank holds; of an ordinary tensor, all of it. None of them is empty unless all are.

    A rank outside of the tensor's mesh holds nothing.

    Raises:
        InvalidRequestError: naming the tensor, whose ranks hold addends of it (`Partial`), or which has a placement
            that is not known here.
    """
    if not is_dtensor(tensor):
        return [Part((0,) * tensor.dim(), tensor)]
    sharded: DTensor = tensor  # type: ignore[assignment]  # as `is_dtensor` says
    if not sharded.numel():
        return [Part((0,) * sharded.dim(), _local_of(sharded).new_empty(sharded.shape))]
    mesh = sharded.device_mesh
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        return []
    cuts = [[(0, size)] for size in sharded.shape]
    for size, index, placement in zip(mesh.shape, coordinate, sharded.placements, strict=True):
        if placement.is_replicate():
            continue
        dim = getattr(placement, "dim", None)
        if placement.is_partial() or not isinstance(dim, int):
            raise InvalidRequestError(
                f"tensor {name!r}: each rank holds an addend of it or the like; redistribute it first",
                actual=str(placement),
            )
        cuts[dim] = _share(cuts[dim], size, index, getattr(placement, "split_factor", 1))
    return list(_boxes(_local_of(sharded), cuts))


def parts_of(name: str, tensor: torch.Tensor) -> Array | list[Slice]:
    """Return what `Checkpointer.save` takes for a tensor: its elements, or this rank's slices of it.

    Several ranks may return the same slices, of replicated tensors: they are written once. Empty when this rank holds
    nothing of it, and should not name it at all.

    Raises:
        InvalidRequestError: as `local_parts` and `array_of`.
    """
    parts = local_parts(name, tensor)
    shape = tuple(tensor.shape)
    if len(parts) == 1 and parts[0].shape == shape:
        return array_of(name, parts[0].local)
    return [Slice(array_of(name, part.local), shape, part.start) for part in parts]


def _local_of(tensor: DTensor) -> torch.Tensor:
    with torch.no_grad():
        local = tensor.to_local()
    wait = getattr(local, "wait", None)  # a collective that is still under way
    finished: torch.Tensor = local if wait is None else wait()
    return finished


def _share(held: list[_Interval], num_shares: int, index: int, split_factor: int) -> list[_Interval]:
    """Return share `index` of the positions in `held`, which are counted on across the intervals."""
    total = sum(stop - start for start, stop in held)
    shares: list[_Interval] = []
    for piece in range(split_factor):
        begin, end = _chunk(0, total, split_factor, piece)
        shares += _positions(held, *_chunk(begin, end, num_shares, index))
    return shares


def _chunk(begin: int, end: int, num_chunks: int, index: int) -> _Interval:
    size = -(-(end - begin) // num_chunks)
    return min(begin + index * size, end), min(begin + (index + 1) * size, end)


def _positions(held: list[_Interval], begin: int, end: int) -> Iterator[_Interval]:
    """Yield the intervals of positions `begin` to `end`, counted across `held`."""
    passed = 0
    for start, stop in held:
        low, high = max(begin - passed, 0), min(end - passed, stop - start)
        if low < high:
            yield start + low, start + high
        passed += stop - start


def _boxes(local: torch.Tensor, cuts: list[list[_Interval]]) -> Iterator[Part]:
    """Yield each box of the product, with its place in the local tensor, where intervals follow one another."""
    if any(not intervals for intervals in cuts):
        return
    axes = []
    for intervals in cuts:
        offsets = itertools.accumulate((stop - start for start, stop in intervals), initial=0)
        axes.append([(start, at, stop - start) for (start, stop), at in zip(intervals, offsets, strict=False)])
    for corner in itertools.product(*axes):
        view = local
        for dim, (_, at, length) in enumerate(corner):
            view = view.narrow(dim, at, length)
        yield Part(tuple(start for start, _, _ in corner), view)
