"""Sending the state that one rank has loaded to every rank: the store is read once, for any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ckptd.errors import CkptdError
from ckptd.torch.places import membership


@dataclass(frozen=True)
class _Place:
    """Replaces a tensor until that arrives."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def of_all_ranks(value: Any) -> list[Any]:
    """Return the value of each rank; every rank calls this."""
    if membership().get("world_size", 1) == 1:
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_rank_0(load: Callable[[], Any]) -> Any:
    """Return on every rank what `load` returns on rank 0; only rank 0 calls `load`. Tensors arrive in host memory.

    Args:
        load: returns dicts, lists and tuples of tensors and of picklable values.

    Raises:
        CkptdError: the error of `load`, on every rank.
    """
    rank_and_size = membership()
    if rank_and_size.get("world_size", 1) == 1:
        return load()
    # Tensors of the host need a gloo group.
    group = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
    try:
        return _sent(load, group) if rank_and_size["rank"] == 0 else _received(group)
    finally:
        if group is not None:
            dist.destroy_process_group(group)


def _sent(load: Callable[[], Any], group: Any) -> Any:
    try:
        value = load()
    except CkptdError as error:
        dist.broadcast_object_list([error], 0, group)
        raise
    tensors: list[torch.Tensor] = []

    def emptied(tensor: torch.Tensor) -> _Place:
        tensors.append(tensor)
        return _Place(tuple(tensor.shape), tensor.dtype)

    dist.broadcast_object_list([_mapped(value, torch.Tensor, emptied)], 0, group)
    for tensor in tensors:
        dist.broadcast(_bytes_of(tensor.detach().cpu().contiguous()), 0, group)
    return value


def _received(group: Any) -> Any:
    head: list[Any] = [None]
    dist.broadcast_object_list(head, 0, group)
    if isinstance(head[0], CkptdError):
        raise head[0]

    def filled(place: _Place) -> torch.Tensor:
        tensor = torch.empty(place.shape, dtype=place.dtype)
        dist.broadcast(_bytes_of(tensor), 0, group)
        return tensor

    return _mapped(head[0], _Place, filled)


def _mapped(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Return nested state with each value of a kind replaced, in order."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(one, kind, change) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(one, kind, change) for one in value)
    return value


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return the memory of a contiguous tensor as bytes; gloo does not support every dtype."""
    return tensor.reshape(-1).view(torch.uint8)
