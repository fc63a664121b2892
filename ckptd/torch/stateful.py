"""Objects that have a ``state_dict()``, such as modules, optimizers and schedulers, within nested state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ckptd.trees.outline import Leaf


def is_stateful(value: Any) -> bool:
    """Return whether `value` saves and loads its own state: a module, an optimizer, a scheduler, a scaler."""
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


def unwrapped(value: Any) -> Any:
    """Return the ``state_dict()`` of a stateful object, and any other value unchanged."""
    while is_stateful(value):
        value = value.state_dict()
    return value


def template_of(stateful: Any, stored: Any, shape_of: Callable[[str], tuple[int, ...]], name: str) -> Any:
    """Return the state to fill for `stateful`; for an optimizer that has made no step yet, create empty moments.

    Without these, every rank would read the whole moments of a sharded parameter.

    Args:
        stateful: the object.
        stored: the outline of its stored state; None if that is unknown.
        shape_of: name of a stored tensor → its full shape.
        name: of the object, within the state.
    """
    state = stateful.state_dict()
    if not isinstance(stateful, torch.optim.Optimizer) or not isinstance(stored, dict):
        return state
    if state.get("state") != {} or not isinstance(stored.get("state"), dict):
        return state  # it has made steps, or is flat, such as TorchTitan's, with keys of parameters and moments
    parameters = [one for group in stateful.param_groups for one in group["params"]]
    rooms: dict[Any, Any] = {}
    for index, moments in stored["state"].items():
        if not isinstance(moments, dict) or not isinstance(index, int) or index >= len(parameters):
            return state  # an optimizer with its own layout: it gets the stored values unchanged
        parameter = parameters[index].detach()
        rooms[index] = {
            key: torch.empty_like(parameter)
            if isinstance(kind, Leaf)
            and hasattr(parameter, "device_mesh")
            and shape_of(f"{name}/state/{index}/{key}") == tuple(parameter.shape)
            else None
            for key, kind in moments.items()
        }
    return {**state, "state": rooms}
