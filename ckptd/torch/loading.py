"""Loading nested state: as new tensors, or into those that a program has, which may be sharded in any way."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch

from ckptd.client.reader import CheckpointReader
from ckptd.torch.arrays import Array, tensor_of, torch_dtype_of
from ckptd.torch.filling import Filling
from ckptd.torch.places import Place, open_checkpoint
from ckptd.trees.flatten import leaves_of, read_outline, rebuild
from ckptd.trees.outline import OUTLINE_NAME, is_note

_log = logging.getLogger("ckptd.torch")


def load(
    where: Place,
    step: int | None = None,
    *,
    into: Any = None,
    device: torch.device | str | None = None,
    strict: bool = True,
    **options: Any,
) -> Any:
    """Load nested state that `save` stored, or any checkpoint that ckptd reads.

    Args:
        where: as in `save`; also the prefix of a checkpoint.
        step: which one; None for the latest.
        into: nested state to load into, with the tensors that a program has already: they are filled in place, by each
            rank with the boxes that it holds, however they were sharded when they were saved. Objects with
            ``load_state_dict()`` take over what is stored for them. Other values are replaced in their dicts and lists,
            and an empty dict or None takes everything that is stored there.
        device: where new tensors go; the host's memory if None.
        strict: what is stored within a dict of `into`, and has no place there, is refused. At its top it never is:
            ``into={"model": model}`` loads the model alone.
        options: for a path, as in `save`.

    Returns:
        `into`, filled. Without it, what was saved: dicts, lists and tuples with torch tensors, numpy arrays, and
        numbers and strings as they were; from another's checkpoint, tensors by their names.

    Raises:
        NotFoundError: there is no such checkpoint.
        InvalidRequestError: naming every tensor of `into` that is missing, or has another shape or dtype. Nothing is
            changed then.
        CorruptionError: the bytes are wrong; what is in `into` may be partly filled.
    """
    began_at = time.perf_counter()
    reader = open_checkpoint(where, step, options)
    tree = read_outline(reader[OUTLINE_NAME]) if OUTLINE_NAME in reader else None
    filling = None if into is None else Filling(reader, tree, device, strict=strict)
    state = _load_all(reader, tree, device) if filling is None else filling.load(into)
    _log.info("%s: loaded in %.3f s", reader.prefix, time.perf_counter() - began_at)
    return state


def _load_all(reader: CheckpointReader, tree: Any, device: torch.device | str | None) -> Any:
    names = (
        [name for name in reader if not is_note(name)]
        if tree is None
        else [name for name, _ in leaves_of(tree) if name in reader]
    )
    arrays = reader.get_tensors(names)
    if tree is None:
        return {name: new_value(array, device) for name, array in arrays.items()}
    return rebuild(tree, arrays.__getitem__, lambda array: new_value(array, device))


def new_value(array: Array, device: torch.device | str | None) -> Any:
    """Return a tensor over an array's memory, or on a device; the array itself when torch has no such elements."""
    if torch_dtype_of(array.dtype) is None:
        return array
    tensor = tensor_of(array)
    return tensor if device is None else tensor.to(device)
