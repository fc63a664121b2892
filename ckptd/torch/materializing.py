"""Modules on the meta device: their tensors are replaced by ones with elements, filled from a checkpoint.

Each tensor of a module is created once, so that tied weights stay tied.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, field
from typing import Any

import torch

from ckptd.errors import InvalidRequestError

_log = logging.getLogger("ckptd.torch")


def is_on_meta(stateful: Any) -> bool:
    """Return whether an object is a module with a tensor that has no elements yet."""
    return isinstance(stateful, torch.nn.Module) and any(
        tensor.is_meta for tensor in itertools.chain(stateful.parameters(), stateful.buffers())
    )


def own_tensors(module: torch.nn.Module) -> dict[str, Any]:
    """Return a module's state with its own parameters and buffers as objects, so that tied ones can be recognised."""
    state: dict[str, Any] = module.state_dict(keep_vars=True)
    return state


def assign(module: torch.nn.Module, state: dict[str, Any]) -> None:
    """Set the tensors of `state` on a module; its own tensors stay the same objects."""
    module.load_state_dict(state, assign=True)
    left = [name for name, buffer in module.named_buffers() if buffer.is_meta and name not in state]
    if left:
        _log.warning("buffers that no state_dict() holds are still on the meta device, compute them: %s", left)


@dataclass
class Tied:
    """The names of one tensor, and whether it is loaded under one of them."""

    tensor: torch.Tensor  # referenced, so that its id stays unique
    names: list[str] = field(default_factory=list)
    is_filled: bool = False


def check_taken(name: str, state: Any) -> None:
    """Raise `InvalidRequestError` if an object has copied its new tensors to the meta device, where they are lost."""
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    for part in parts:
        check_taken(name, part)
    if isinstance(state, torch.Tensor) and state.is_meta:
        raise InvalidRequestError(
            "its tensors are still on the meta device, as its load_state_dict() copies into the tensors that it has: "
            "create them first, with to_empty(device=…), or pass the module itself",
            key=name or None,
        )


class Materialized:
    """The tensors that were created for those on the meta device, once for each."""

    def __init__(self, device: torch.device | str | None) -> None:
        self._device = device or "cpu"
        self._made: dict[int, tuple[torch.Tensor, Tied]] = {}

    def __len__(self) -> int:
        """Return how many were created."""
        return len(self._made)

    def of(self, tensor: torch.Tensor) -> tuple[torch.Tensor, Tied]:
        """Return a tensor like this one, with memory that is not filled yet; a parameter for a parameter."""
        if id(tensor) not in self._made:
            new = torch.empty_like(tensor.detach(), device=self._device)
            if isinstance(tensor, torch.nn.Parameter):
                new = torch.nn.Parameter(new, requires_grad=tensor.requires_grad)
            self._made[id(tensor)] = (new, Tied(tensor))
        return self._made[id(tensor)]
