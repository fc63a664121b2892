"""Whether a stored state fits an optimizer, which identifies parameters by number and checks little itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ckptd.torch.arrays import numpy_dtype_of
from ckptd.torch.casting import Cast, needed_cast
from ckptd.torch.differences import Differences, Mismatch
from ckptd.torch.stored import Stored
from ckptd.trees.outline import Leaf

_OF_OTHER_SHAPES = ("row_var", "col_var")  # Adafactor's


def fitting(
    optimizer: torch.optim.Optimizer,
    stored: Mapping[str, Any],
    checkpoint: Stored,
    name: str,
    cast: Cast | None,
    differences: Differences,
) -> Mapping[str, Any] | None:
    """Return the outline of the stored state that an optimizer can load, or None; note what does not fit."""
    groups = _other_groups(optimizer, stored, name)
    if groups is not None:
        differences.mismatched.append(groups)
        return None
    if optimizer.state:
        return stored  # it has moments, and they are compared one by one
    differences.refused += _narrowed(optimizer, stored, checkpoint, name, cast)
    found = list(_other_shapes(optimizer, stored, checkpoint.shapes, name))
    if not found:
        return stored
    differences.mismatched += [mismatch for _, mismatch in found]
    other = {index for index, _ in found}
    return {**stored, "state": {index: one for index, one in stored["state"].items() if index not in other}}


def _other_groups(optimizer: torch.optim.Optimizer, stored: Any, name: str) -> Mismatch | None:
    """Return the difference if stored parameter groups have other numbers of parameters.

    The state would go to other parameters then, or ``load_state_dict`` would fail after the model was filled.
    """
    groups = stored.get("param_groups") if isinstance(stored, Mapping) else None
    if not isinstance(groups, (list, tuple)):
        return None  # a layout of its own
    there = [group.get("params") if isinstance(group, Mapping) else None for group in groups]
    if not all(isinstance(one, (list, tuple)) for one in there):
        return None
    counts = [len(one) for one in there if one is not None]
    here = [len(group["params"]) for group in optimizer.param_groups]
    if counts == here:
        return None
    return Mismatch(f"{name}/param_groups", f"groups of {counts} parameters", f"groups of {here}")


def _other_shapes(
    optimizer: torch.optim.Optimizer, stored: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], name: str
) -> Iterator[tuple[int, Mismatch]]:
    """Yield the numbers of parameters whose stored moments have another shape, for torch's own optimizers.

    The optimizer would load them unchecked, and the next step would fail.
    """
    if not type(optimizer).__module__.startswith("torch.optim"):
        return
    for index, key, parameter in _moments(optimizer, stored):
        moment = f"{name}/state/{index}/{key}"
        there, here = shapes.get(moment), tuple(parameter.shape)
        if there and key not in _OF_OTHER_SHAPES and len(there) == len(here) and there != here:
            yield index, Mismatch(moment, f"{list(there)}", f"{list(here)}")


def _narrowed(
    optimizer: torch.optim.Optimizer, stored: Mapping[str, Any], checkpoint: Stored, name: str, cast: Cast | None
) -> Iterator[str]:
    """Yield sentences about moments that torch would silently convert to the narrower dtype of their parameters."""
    if type(optimizer).load_state_dict is not torch.optim.Optimizer.load_state_dict or cast == "any":
        return
    for index, key, parameter in _moments(optimizer, stored):
        moment = f"{name}/state/{index}/{key}"
        there = checkpoint.dtypes.get(moment)
        if there is None or key == "step" or not parameter.is_floating_point() or not checkpoint.shapes[moment]:
            continue
        here = numpy_dtype_of(moment, parameter.dtype)
        if needed_cast(there, here) == "any":
            yield f"{moment} is stored as {there}, and the optimizer converts it to {here}; cast='any' allows it"


def _moments(optimizer: torch.optim.Optimizer, stored: Mapping[str, Any]) -> Iterator[tuple[int, str, torch.Tensor]]:
    """Yield number, key and parameter of each tensor that is stored for one."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    state = stored.get("state")
    for index, moments in (state if isinstance(state, Mapping) else {}).items():
        if isinstance(moments, Mapping) and isinstance(index, int) and index < len(parameters):
            for key, leaf in moments.items():
                if isinstance(leaf, Leaf):
                    yield index, key, parameters[index]
