"""Values of PyTorch's own that are no tensors, and are stored by their names; see `ckptd.trees.kinds`."""

from __future__ import annotations

from typing import Any

import torch
from torch.torch_version import TorchVersion

from ckptd.trees.kinds import Kind, register


def _by_name(kind: type) -> Kind:
    def make(name: str, _: Any) -> Any:
        found = getattr(torch, name.removeprefix("torch."), None)
        if type(found) is not kind:
            raise ValueError(f"this torch has no {kind.__name__} {name!r}")
        return found

    return Kind(f"torch.{kind.__name__}", lambda value: (str(value), None), make, is_scalar=True)


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


register_all()
