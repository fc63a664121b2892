"""PyTorch's own values that are stored by name, and the notes about tensors; see `ckptd.trees.kinds`."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.parameter import is_lazy
from torch.torch_version import TorchVersion

from ckptd.errors import InvalidRequestError
from ckptd.torch.arrays import BITS
from ckptd.torch.sharding import has_own_items, is_declared, is_dtensor
from ckptd.trees import bits
from ckptd.trees.class_kinds import class_name
from ckptd.trees.kind import Kind, KindOfClass
from ckptd.trees.kinds import register, register_of_class


def _by_name(kind: type) -> Kind:
    def make(name: str, _: Any) -> Any:
        found = getattr(torch, name.removeprefix("torch."), None)
        if type(found) is not kind:
            raise ValueError(f"this torch has no {kind.__name__} {name!r}")
        return found

    return Kind(f"torch.{kind.__name__}", lambda value: (str(value), None), make, is_scalar=True)


def is_more_than_elements(tensor: torch.Tensor) -> bool:
    """Return whether a tensor needs a note beside its elements, such as a parameter or a subclass of the program.

    A part of a larger tensor needs none.
    """
    kind = type(tensor)
    if kind is torch.Tensor and not tensor.requires_grad and tensor.dtype not in BITS:
        return False
    if is_lazy(tensor) or tensor.is_nested or kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return False  # without elements of its own: the error that names it comes later
    return not (is_dtensor(tensor) or is_declared(tensor) or has_own_items(tensor))


def bits_of(tensor: torch.Tensor) -> tuple[torch.Tensor, str | None]:
    """Return the tensor to store, over the same memory, and the name of the original dtype if these are its bits."""
    if tensor.dtype not in BITS or hasattr(tensor, "device_mesh") or is_declared(tensor):
        return tensor, None
    return tensor.detach().view(BITS[tensor.dtype]), str(tensor.dtype).removeprefix("torch.")


def _take_tensor(tensor: torch.Tensor) -> tuple[torch.Tensor, list[Any]]:
    kind = type(tensor)
    more = sorted(vars(tensor)) if kind not in (torch.Tensor, torch.nn.Parameter) else []
    if more:
        raise ValueError(
            f"it has attributes beside its elements ({', '.join(more)}): save x.as_subclass(torch.Tensor), and these "
            "attributes under keys of their own"
        )
    form, of_bits = bits_of(tensor.detach().as_subclass(torch.Tensor))
    name = None if kind is torch.Tensor else "Parameter" if kind is torch.nn.Parameter else class_name(kind)
    return form, [name, tensor.requires_grad, of_bits]


def _made_tensor(form: Any, beside: Any, kind: Any) -> Any:
    name, requires_grad, of_bits = beside
    tensor = form if of_bits is None else bits.make(form, of_bits)
    if not isinstance(tensor, torch.Tensor):
        return tensor  # another framework loads it, and uses the elements
    if name == "Parameter":
        return torch.nn.Parameter(tensor, requires_grad)
    if kind is not None:
        if not issubclass(kind, torch.Tensor):
            raise InvalidRequestError(f"a tensor is stored here, and {kind.__qualname__} is not a tensor class")
        tensor = tensor.as_subclass(kind)
    return tensor.requires_grad_(requires_grad)


def _made_of_bits(form: torch.Tensor, name: str) -> torch.Tensor:
    dtype = getattr(torch, name, None)
    if dtype not in BITS:
        raise bits.refusal(name, "this torch")
    return form.view(dtype)


_KIND_OF_TENSORS = KindOfClass(
    bits.TENSOR,
    lambda kind: issubclass(kind, torch.Tensor),
    _take_tensor,
    lambda beside: None if beside[0] in (None, "Parameter") else str(beside[0]),
    _made_tensor,
)


def register_all() -> None:
    """Register the kinds. May be repeated."""
    for kind in (torch.dtype, torch.layout, torch.memory_format):
        register(_by_name(kind), kind)
    device = Kind("torch.device", lambda value: (str(value), None), lambda form, _: torch.device(form), is_scalar=True)
    register(device, torch.device)
    register(Kind("torch.Size", lambda value: (tuple(value), None), lambda form, _: torch.Size(form)), torch.Size)
    version = Kind(
        "torch.TorchVersion", lambda value: (str(value), None), lambda form, _: TorchVersion(form), is_scalar=True
    )
    register(version, TorchVersion)
    register_of_class(_KIND_OF_TENSORS)
    bits.register_maker(torch.Tensor, _made_of_bits)


register_all()
