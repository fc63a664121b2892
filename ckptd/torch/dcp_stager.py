"""State of a training step → the same state in memory that a save is written from.

`dcp.async_save` copies the state before it returns. If the copy goes to the memory that ckptd writes from, one copy is
enough.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from ckptd.client.capture.arrays import Array
from ckptd.errors import InvalidRequestError
from ckptd.torch.arrays import numpy_dtype_of
from ckptd.torch.dcp_session import DcpSession
from ckptd.torch.dcp_shards import StagedShards, items_of
from ckptd.torch.sharding import finished, has_own_items, is_declared
from ckptd.trees.kind import is_plain

_ALIGN_BYTES = 64
_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


@dataclass(frozen=True)
class _Source:
    """One tensor of the state.

    Attributes:
        locals: the parts that this process holds, in the host's memory or a device's.
        rebuilt: their copies → the object that replaces the tensor in the staged state.
    """

    locals: list[torch.Tensor]
    rebuilt: Callable[[list[torch.Tensor]], Any]


def stage(state_dict: dict[str, Any], session: DcpSession | None) -> dict[str, Any]:
    """Copy the state into memory of `session`, or into private memory if that is not possible."""
    sources = dict(_sources(state_dict))
    sizes = _sizes_bytes(sources)
    block = session.stage(sum(map(sum, sizes.values()))) if session is not None and sizes else None
    views: list[Array] = []
    at = 0
    staged: dict[int, Any] = {}
    with torch.no_grad():
        for key, source in sources.items():
            copies = []
            for number, local in enumerate(source.locals):
                if block is None:
                    copies.append(_private_copy(local))
                    continue
                # torch keeps the array itself until the last view of the memory is deleted.
                views.append(block[at : at + local.numel() * local.element_size()])
                at += sizes[key][number]
                copies.append(torch.from_numpy(views[-1]).view(local.dtype).view(local.shape).copy_(local))
            staged[key] = source.rebuilt(copies)
    if session is not None and block is not None:
        session.watch(views)
    rebuilt: dict[str, Any] = _rebuild(state_dict, staged)
    return rebuilt


def prepare(state_dict: dict[str, Any], session: DcpSession) -> None:
    """Allocate memory to stage states of this size in."""
    sizes = _sizes_bytes(dict(_sources(state_dict)))
    if sizes:
        session.prepare(sum(map(sum, sizes.values())))


def _sizes_bytes(sources: Mapping[int, _Source]) -> dict[int, list[int]]:
    """Return the size of each tensor's parts; nothing if one of them can't be staged in a session's memory."""
    try:
        return {key: [_size_bytes(local) for local in source.locals] for key, source in sources.items()}
    except InvalidRequestError:  # the save's error will name the tensor that can't be stored
        return {}


def _size_bytes(tensor: torch.Tensor) -> int:
    if type(tensor) not in _PLAIN or tensor.is_meta or tensor.layout != torch.strided:
        raise InvalidRequestError("a tensor without elements of its own")
    size = tensor.numel() * numpy_dtype_of("", tensor.dtype).itemsize
    return max(-(-size // _ALIGN_BYTES), 1) * _ALIGN_BYTES


def _private_copy(tensor: torch.Tensor) -> torch.Tensor:
    if type(tensor) in _PLAIN and not tensor.is_meta and tensor.layout == torch.strided:
        return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
    # Only the planner knows this object; the save refuses it if it can't be stored.
    return tensor.clone() if tensor.device.type in ("cpu", "meta") else tensor.cpu()


def _sources(value: Any) -> Iterator[tuple[int, _Source]]:
    """Yield every tensor of the state, by its identity."""
    if _is_tensor(value):
        yield id(value), _source(value)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _sources(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _sources(one)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or hasattr(value, "local_shards")  # a ShardedTensor is not a torch.Tensor


def _source(tensor: Any) -> _Source:
    if has_own_items(tensor) or is_declared(tensor) or hasattr(tensor, "local_shards"):
        # A plain tensor loses its attributes on the way to another process; its items are kept.
        shards = items_of(tensor)
        return _Source(
            [finished(local).detach() for _, local in shards],
            lambda copies: _with_attributes(tensor, StagedShards([item for item, _ in shards], copies)),
        )
    if isinstance(tensor, DTensor):
        return _Source(
            [finished(tensor.to_local()).detach()],
            lambda copies: _with_attributes(tensor, _distributed(tensor, copies[0])),
        )
    return _Source([tensor.detach()], lambda copies: _with_attributes(tensor, copies[0]))


def _distributed(tensor: DTensor, local: torch.Tensor) -> DTensor:
    return DTensor.from_local(
        local, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )


def _with_attributes(tensor: torch.Tensor, staged: torch.Tensor) -> torch.Tensor:
    """Set the plain attributes of the original on a copy; a planner may use them."""
    for name, value in getattr(tensor, "__dict__", {}).items():
        if _is_plain(value):
            setattr(staged, name, copy.deepcopy(value))
    return staged


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(is_plain, value)) and all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, (list, tuple)) else is_plain(value)


def _rebuild(value: Any, staged: Mapping[int, Any]) -> Any:
    if _is_tensor(value):
        return staged[id(value)]
    if isinstance(value, Mapping):
        return {key: _rebuild(one, staged) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_rebuild(one, staged) for one in value)
    return copy.deepcopy(value)
