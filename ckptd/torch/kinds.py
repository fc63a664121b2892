"""Values of PyTorch's own that are no tensors, and are stored by their names; see `ckptd.trees.kinds`."""

from __future__ import annotations

from typing import Any

import torch
from torch.torch_version import TorchVersion

from ckptd.torch.arrays import BITS
from ckptd.trees import bits
from ckptd.trees.kinds import Kind, Typed, register


def _by_name(kind: type) -> Kind:
    def make(name: str, _: Any) -> Any:
        found = getattr(torch, name.removeprefix("torch."), None)
        if type(found) is not kind:
            raise ValueError(f"this torch has no {kind.__name__} {name!r}")
        return found

    return Kind(f"torch.{kind.__name__}", lambda value: (str(value), None), make, is_scalar=True)


def has_bits(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is stored as integers of the same bits: no reader knows a number for its dtype."""
    return tensor.dtype in BITS and not hasattr(tensor, "device_mesh")


def bits_of(tensor: torch.Tensor) -> tuple[torch.Tensor, Typed | None]:
    """Return what of a tensor is stored, over the same memory, and the kind that says what it was."""
    if not has_bits(tensor):
        return tensor, None
    return tensor.detach().view(BITS[tensor.dtype]), Typed("torch.bits", str(tensor.dtype))


def _take_bits(tensor: torch.Tensor) -> tuple[Any, Any]:
    form, typed = bits_of(tensor)
    if typed is None:
        raise ValueError(f"elements of {tensor.dtype} have no form")
    return form, typed.beside


def _made_of_bits(form: torch.Tensor, name: str) -> torch.Tensor:
    dtype = getattr(torch, name, None)
    if dtype not in BITS:
        raise bits.refusal(name, "this torch")
    return form.view(dtype)


def register_all() -> None:
    """Have them stored. May be repeated."""
    for kind in (torch.dtype, torch.layout, torch.memory_format):
        register(_by_name(kind), kind)
    device = Kind("torch.device", lambda value: (str(value), None), lambda form, _: torch.device(form), is_scalar=True)
    register(device, torch.device)
    register(Kind("torch.Size", lambda value: (tuple(value), None), lambda form, _: torch.Size(form)), torch.Size)
    version = Kind(
        "torch.TorchVersion", lambda value: (str(value), None), lambda form, _: TorchVersion(form), is_scalar=True
    )
    register(version, TorchVersion)
    register(Kind("torch.bits", _take_bits, bits.make), torch.Tensor, torch.nn.Parameter)
    bits.register_maker(torch.Tensor, _made_of_bits)


register_all()
