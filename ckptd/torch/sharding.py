"""Where the elements of a sharded tensor are: the boxes of the whole that this rank holds, and its memory for each.

Three kinds of tensors are larger than the part that a process holds:

- a `DTensor`;
- a plain tensor with the attributes of torch 2.14's `CheckpointableTensor`: `global_shape`, and for each of its shards
  `global_offsets`, `local_offsets` and `local_sizes`;
- a tensor that provides its own items for `torch.distributed.checkpoint`, such as Megatron-Core's and TorchRec's: it
  supports no other operation.

A rank's part of a `DTensor` is a product of intervals, one list of them per dimension. `Shard` cuts a dimension in
equal pieces, the last ones shorter or empty, as ``torch.chunk`` does; if several mesh dimensions cut the same one, each
cuts the remainder of the one before. `_StridedShard`, which FSDP2 uses after tensor parallelism, first cuts in
`split_factor` pieces, and takes its share of each: the only case of more than one interval.
"""

from __future__ import annotations

import itertools
import math
import operator
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ckptd.client.slice import Slice
from ckptd.errors import InvalidRequestError
from ckptd.torch.arrays import Array, array_of, check_form

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

_Interval = tuple[int, int]
"""First position and the one after the last, in the whole tensor."""

_SHAPE, *_SHARDS = DECLARED = ("global_shape", "global_offsets", "local_offsets", "local_sizes")
"""The attributes of a plain tensor that is one or several shards of a larger one."""


@dataclass(frozen=True, slots=True, eq=False)
class ShardPart:
    """One box of a whole tensor, and this rank's elements of it: a view of the local tensor."""

    start: tuple[int, ...]
    local: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of the box, per dimension."""
        return tuple(self.local.shape)


def is_dtensor(value: Any) -> bool:
    """Return whether `value` is a `DTensor`, without importing its module."""
    # A program that has a DTensor has imported the module; the import costs other programs a second.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def full_shape(name: str, tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the shape of the whole tensor, of which this rank may hold a part.

    Raises:
        InvalidRequestError: naming the tensor, as `local_parts`.
    """
    if has_own_items(tensor):
        return _itemized(name, tensor)[0]
    if not is_dtensor(tensor) and is_declared(tensor):
        return _sizes(name, getattr(tensor, _SHAPE))
    return tuple(tensor.shape)


def local_parts(name: str, tensor: torch.Tensor) -> list[ShardPart]:
    """Return the boxes that this rank holds; of an ordinary tensor, all of it. None of them is empty unless all are.

    A rank outside of the tensor's mesh holds nothing.

    Raises:
        InvalidRequestError: naming the tensor: its ranks hold addends of it (`Partial`), it has an unknown placement,
            or its attributes contradict each other.
    """
    if has_own_items(tensor):
        return _not_empty(*_itemized(name, tensor))
    if is_dtensor(tensor):
        return _parts_of_dtensor(name, tensor)  # type: ignore[arg-type]  # as `is_dtensor` says
    check_form(name, tensor)
    if is_declared(tensor):
        return _not_empty(_sizes(name, getattr(tensor, _SHAPE)), _declared(name, tensor))
    return [ShardPart((0,) * tensor.dim(), tensor)]


def parts_of(name: str, tensor: torch.Tensor) -> Array | list[Slice]:
    """Return a tensor as `Checkpointer.save` accepts it: its elements, or this rank's slices of it.

    Several ranks may return the same slices, for replicated tensors: these are written once. The result is empty if
    this rank holds no part of the tensor, and then the rank should not name it at all.

    Raises:
        InvalidRequestError: as `local_parts` and `array_of`.
    """
    parts = local_parts(name, tensor)
    shape = full_shape(name, tensor)
    if len(parts) == 1 and parts[0].shape == shape:
        return array_of(name, parts[0].local)
    return [Slice(array_of(name, part.local), shape, part.start) for part in parts]


def is_declared(tensor: torch.Tensor) -> bool:
    """Return whether a tensor has the attributes of a shard, or several."""
    return all(hasattr(tensor, attribute) for attribute in DECLARED)


def has_own_items(tensor: torch.Tensor) -> bool:
    """Return whether a tensor, or the local part of a `DTensor`, provides its own items for DCP."""
    local = getattr(tensor, "_local_tensor", None) if is_dtensor(tensor) else tensor
    return hasattr(local, "__create_write_items__")


def _itemized(name: str, tensor: torch.Tensor) -> tuple[tuple[int, ...], list[ShardPart]]:
    """Return the shape and the boxes of a tensor that provides its own items."""
    if is_dtensor(tensor) and tensor.device_mesh.get_coordinate() is None:  # type: ignore[attr-defined]
        return tuple(tensor.shape), []
    shape, parts = tuple(tensor.shape), []
    for item in tensor.__create_write_items__(name, tensor):  # type: ignore[attr-defined]
        if item.tensor_data is None:
            raise InvalidRequestError(f"tensor {name!r}: one of its own items is not a part of a tensor")
        shape, chunk = tuple(item.tensor_data.size), item.tensor_data.chunk
        local = finished(tensor.__get_tensor_shard__(item.index))  # type: ignore[attr-defined]
        if tuple(local.shape) != tuple(chunk.sizes):
            raise InvalidRequestError(
                f"tensor {name!r}: one of its shards does not have the shape of its item",
                expected=list(chunk.sizes),
                actual=list(local.shape),
            )
        parts.append(ShardPart(tuple(chunk.offsets), local.detach()))
    return shape, parts


def _declared(name: str, tensor: torch.Tensor) -> list[ShardPart]:
    """Return the boxes of a tensor with the attributes of shards."""
    shape = _sizes(name, getattr(tensor, _SHAPE))
    described = [getattr(tensor, attribute) for attribute in _SHARDS]
    if len({len(one) for one in described}) != 1:
        raise InvalidRequestError(
            f"tensor {name!r} has attributes that give different numbers of shards",
            actual={attribute: len(one) for attribute, one in zip(_SHARDS, described, strict=True)},
        )
    parts = []
    for shard in zip(*described, strict=True):
        start, at, sizes = (_sizes(name, one) for one in shard)
        if not _is_inside(start, sizes, shape) or not _is_inside(at, sizes, tuple(tensor.shape)):
            raise InvalidRequestError(
                f"tensor {name!r}: a shard of sizes {list(sizes)} does not fit at {list(start)} of {list(shape)}, or "
                f"at {list(at)} of the local tensor, which is {list(tensor.shape)}"
            )
        box = tuple(slice(begin, begin + size) for begin, size in zip(at, sizes, strict=True))
        parts.append(ShardPart(start, tensor.detach()[box]))
    return parts


def _sizes(name: str, given: Any) -> tuple[int, ...]:
    try:
        return tuple(operator.index(one) for one in given)
    except TypeError as error:
        raise InvalidRequestError(
            f"tensor {name!r} has attributes of a shard that are not integers", actual=given
        ) from error


def _is_inside(start: tuple[int, ...], sizes: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    return len(start) == len(sizes) == len(whole) and all(
        at >= 0 and size >= 0 and at + size <= full for at, size, full in zip(start, sizes, whole, strict=True)
    )


def _not_empty(shape: tuple[int, ...], parts: list[ShardPart]) -> list[ShardPart]:
    """Leave out parts without elements; if the whole tensor has none, each rank keeps one part."""
    if math.prod(shape):
        return [part for part in parts if part.local.numel()]
    return [ShardPart((0,) * len(shape), part.local.new_empty(shape)) for part in parts[:1]]


def _parts_of_dtensor(name: str, tensor: DTensor) -> list[ShardPart]:
    if not tensor.numel():
        return [ShardPart((0,) * tensor.dim(), _local_of(tensor).new_empty(tensor.shape))]
    mesh = tensor.device_mesh
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        return []
    cuts = [[(0, size)] for size in tensor.shape]
    for size, index, placement in zip(mesh.shape, coordinate, tensor.placements, strict=True):
        if placement.is_replicate():
            continue
        dim = getattr(placement, "dim", None)
        if placement.is_partial() or not isinstance(dim, int):
            raise InvalidRequestError(
                f"tensor {name!r}: each rank may hold only an addend of it (see its placement); redistribute it first",
                actual=str(placement),
            )
        cuts[dim] = _share(cuts[dim], size, index, getattr(placement, "split_factor", 1))
    return list(_boxes(_local_of(tensor), cuts))


def finished(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor once a pending collective that fills it has ended."""
    wait = getattr(tensor, "wait", None)
    done: torch.Tensor = tensor if wait is None else wait()
    return done


def _local_of(tensor: DTensor) -> torch.Tensor:
    with torch.no_grad():
        return finished(tensor.to_local())


def _share(held: list[_Interval], num_shares: int, index: int, split_factor: int) -> list[_Interval]:
    """Return share `index` of the positions in `held`, counted across the intervals."""
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


def _boxes(local: torch.Tensor, cuts: list[list[_Interval]]) -> Iterator[ShardPart]:
    """Yield each box of the product, with its place in the local tensor, where intervals are contiguous."""
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
        yield ShardPart(tuple(start for start, _, _ in corner), view)
