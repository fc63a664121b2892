"""State of a training step → the same state in memory that a save is written from.

`dcp.async_save` copies the state before it returns. Copied to where ckptd would copy it anyway, it is copied once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.checkpoint import staging
from torch.distributed.tensor import DTensor

from ckptd.client.arrays import Array
from ckptd.errors import InvalidRequestError
from ckptd.torch.arrays import numpy_dtype_of
from ckptd.torch.dcp_session import Session

_ALIGN_BYTES = 64
_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer, DTensor)


def _stage_privately(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Copy the state into memory of this process, as `dcp.async_save` does by itself."""
    stager: Any
    if hasattr(staging, "DefaultStager"):
        stager = staging.DefaultStager(staging.StagingOptions(False, False, False, False))
    else:  # PyTorch before 2.8
        stager = staging.BlockingAsyncStager()
    staged: dict[str, Any] = stager.stage(state_dict)
    return staged


def stage(state_dict: dict[str, Any], session: Session | None) -> dict[str, Any]:
    """Copy the state into memory of `session`, or privately where there is none or it can't be copied there."""
    tensors, sizes = _measure(state_dict)
    block = session.stage(sum(sizes.values())) if session is not None and sizes else None
    if session is None or block is None:
        return _stage_privately(state_dict)
    staged: dict[int, torch.Tensor] = {}
    views: list[Array] = []
    at = 0
    with torch.no_grad():
        for key, local in tensors.items():
            # torch keeps the very array that it was given until the last view of the memory is gone.
            views.append(block[at : at + local.numel() * local.element_size()])
            at += sizes[key]
            staged[key] = torch.from_numpy(views[-1]).view(local.dtype).view(local.shape)
            staged[key].copy_(local)
    session.watch(views)
    rebuilt: dict[str, Any] = _rebuild(state_dict, staged)
    return rebuilt


def prepare(state_dict: dict[str, Any], session: Session) -> None:
    """Have memory made ready that states of this size are staged in."""
    _, sizes = _measure(state_dict)
    if sizes:
        session.prepare(sum(sizes.values()))


def _measure(state_dict: dict[str, Any]) -> tuple[dict[int, torch.Tensor], dict[int, int]]:
    """Return the host's part of every tensor, and how much room it takes; nothing if one can't be staged by us."""
    tensors: dict[int, torch.Tensor] = {}
    if not _collect(state_dict, tensors):
        return {}, {}
    try:
        return tensors, {key: _size_bytes(local) for key, local in tensors.items()}
    except InvalidRequestError:  # the save will tell which tensor can't be stored
        return {}, {}


def _collect(value: Any, tensors: dict[int, torch.Tensor]) -> bool:
    """Note the host's part of every tensor, by the identity of the tensor; False if there is one of another kind."""
    if isinstance(value, torch.Tensor):
        if type(value) not in _PLAIN:
            return False
        tensors[id(value)] = _local(value)
        return type(tensors[id(value)]) in _PLAIN and not isinstance(tensors[id(value)], DTensor)
    if isinstance(value, Mapping):
        return all(_collect(one, tensors) for one in value.values())
    if isinstance(value, (list, tuple)):
        return all(_collect(one, tensors) for one in value)
    return not hasattr(value, "local_shards")  # a ShardedTensor is no tensor in Python's eyes


def _local(tensor: torch.Tensor) -> torch.Tensor:
    if not isinstance(tensor, DTensor):
        return tensor.detach()
    local = tensor.to_local().detach()
    wait = getattr(local, "wait", None)  # of a collective that is still under way
    return local if wait is None else wait()


def _size_bytes(tensor: torch.Tensor) -> int:
    if tensor.is_meta or tensor.layout != torch.strided:
        raise InvalidRequestError("a tensor without elements of its own")
    size = tensor.numel() * numpy_dtype_of("", tensor.dtype).itemsize
    return max(-(-size // _ALIGN_BYTES), 1) * _ALIGN_BYTES


def _rebuild(value: Any, staged: Mapping[int, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        local = staged[id(value)]
        if not isinstance(value, DTensor):
            return local
        return DTensor.from_local(
            local, value.device_mesh, value.placements, run_check=False, shape=value.shape, stride=value.stride()
        )
    if isinstance(value, Mapping):
        return {key: _rebuild(one, staged) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_rebuild(one, staged) for one in value)
    return copy.deepcopy(value)
