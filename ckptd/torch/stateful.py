"""Objects that have a ``state_dict()``, such as modules, optimizers and schedulers, within nested state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ckptd.trees.outline import Leaf


def is_stateful(value: Any) -> bool:
    """Tell whether `value` gives and takes its state: a module, an optimizer, a scheduler, a scaler."""
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


def unwrapped(value: Any) -> Any:
    """Return the ``state_dict()`` of a stateful object, and anything else as it is."""
    while is_stateful(value):
        value = value.state_dict()
    return value


def template_of(stateful: Any, stored: Any, shape_of: Callable[[str], tuple[int, ...]], name: str) -> Any:
    """Return the state to fill for `stateful`; an optimizer that has made no step yet gets room for what is stored.

    Without that, what is stored for a sharded parameter would be read whole on every rank.

    Args:
        stateful: the object.
        stored: the outline of what is stored for it; None when that is not known.
        shape_of: name of a stored tensor → its full shape.
        name: of the object, within the state.
    """
    state = stateful.state_dict()
    if not isinstance(stateful, torch.optim.Optimizer) or not isinstance(stored, dict):
        return state
    if state.get("state") != {} or not isinstance(stored.get("state"), dict):
        return state  # steps were made, or it is flat, as TorchTitan's: its keys are names of parameters and moments
    parameters = [one for group in stateful.param_groups for one in group["params"]]
    rooms: dict[Any, Any] = {}
    for index, moments in stored["state"].items():
        if not isinstance(moments, dict) or not isinstance(index, int) or index >= len(parameters):
            return state  # an optimizer with a layout of its own: it takes what is stored as it is
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
