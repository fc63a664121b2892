"""Loading nested state: as new tensors, or into those that a program has, which may be sharded in any way."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import torch

from ckptd.errors import InvalidRequestError
from ckptd.torch import kinds as _kinds  # registered  # noqa: F401
from ckptd.torch.arrays import Array, tensor_of, torch_dtype_of
from ckptd.torch.casting import Cast, check_cast
from ckptd.torch.differences import Loaded
from ckptd.torch.filling import Filling
from ckptd.torch.places import Place, open_checkpoint
from ckptd.torch.renaming import Rename
from ckptd.torch.stored import Stored
from ckptd.trees.class_kinds import Classes
from ckptd.trees.flatten import check_classes, rebuild

_log = logging.getLogger("ckptd.torch")


def load(
    where: Place,
    step: int | None = None,
    *,
    into: Any = None,
    device: torch.device | str | None = None,
    strict: bool = True,
    cast: Cast | None = None,
    rename: Rename | None = None,
    classes: Iterable[type] = (),
    **options: Any,
) -> Any:
    """Load nested state that `save` stored, or any checkpoint that ckptd reads.

    Args:
        where: as in `save`; also the prefix of a checkpoint.
        step: which one; None for the latest.
        into: nested state to load into, with the tensors that a program has already: they are filled in place, by each
            rank with the boxes that it holds, however they were sharded when they were saved. Objects with
            ``load_state_dict()`` take over what is stored for them. Other values are replaced in their dicts and lists,
            and an empty dict or None takes everything that is stored there. Modules on the meta device get tensors
            that are filled; tied ones stay tied.
        device: where new tensors go; the host's memory if None.
        strict: what is missing, has another shape, or is stored within a dict of `into` and has no place there, is
            refused, unless only some of the ranks that saved had it. At its top the last never is:
            ``into={"model": model}`` loads the model alone. With False, all that fits is loaded, and the rest is
            listed in what is returned; of what ranks saved differently under one name, that of the first.
        cast: which other dtypes of `into` are filled, too: None for none, ``"widen"`` for those that hold every value
            of the stored one, ``"any"`` for narrower floats as well. No finite value becomes infinite, and no integer
            another one: that is refused.
        rename: what stored names are called in `into` or in what is returned: a dict of beginnings of keys, at any
            depth, and what takes their place, such as ``{"module.": "", "_orig_mod.": ""}``, one after the other; a
            list of such pairs; or a function of the whole name, such as ``model/module.weight``.
        classes: of the enums, dataclasses and named tuples that are stored. Nothing is imported by its name, so they
            are needed; but not for values that `into` holds already.
        options: for a path, as in `save`.

    Returns:
        `into`, filled. Without it, what was saved: dicts, lists and tuples with torch tensors, numpy arrays, and
        numbers and strings as they were; from another's checkpoint, tensors by their names. With ``strict=False``,
        a `Loaded`: that, and the lists of what was not loaded.

    Raises:
        NotFoundError: there is no such checkpoint.
        InvalidRequestError: ranks saved under one name what can't both be loaded, such as lists of different lengths;
            or naming every tensor of `into` that is missing, or has another shape or dtype; also with
            ``strict=False`` when none of them fits, as under a wrong prefix; or a class that is wanted. Nothing is
            changed then.
        CorruptionError: the bytes are wrong; what is in `into` may be partly filled.
    """
    began_at = time.perf_counter()
    check_cast(cast)
    if not isinstance(strict, bool):
        raise InvalidRequestError("strict is True or False", actual=repr(strict))
    device = _usable(device, fills=into is not None)
    if into is None and cast is not None:
        raise InvalidRequestError("cast converts to the dtypes of `into`, which is not given")
    known = Classes(classes)
    with open_checkpoint(where, step, options) as reader:  # what is read, nobody deletes
        stored = Stored(reader, rename)
        stored.check_conflicts(into, strict=strict)
        if into is None:
            loaded = Loaded(_load_all(stored, device, known), [], [], [])
        else:
            loaded = Filling(stored, device, strict=strict, cast=cast, classes=known).load(into)
    _log.info("%s: loaded in %.3f s", stored.prefix, time.perf_counter() - began_at)
    return loaded.state if strict else loaded


def _usable(device: torch.device | str | None, *, fills: bool) -> torch.device | None:
    """Return where tensors are put, before anything is read.

    Raises:
        InvalidRequestError: there is no such device here, or tensors there have no elements to fill.
    """
    if device is None:
        return None
    try:
        found = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:  # each device has its own
        raise InvalidRequestError(f"device={device!r} can't be used: {str(error).splitlines()[0]}") from error
    if found.type == "meta" and fills:
        raise InvalidRequestError("what is filled needs elements: device='meta' is for a load without `into`")
    return found


def _load_all(stored: Stored, device: torch.device | str | None, classes: Classes) -> Any:
    check_classes(stored.tree, classes)
    arrays = stored.read(stored.names())
    if stored.tree is None:
        return {name: new_value(array, device) for name, array in arrays.items()}
    return rebuild(stored.tree, arrays.__getitem__, lambda array: new_value(array, device), classes=classes)


def new_value(array: Array, device: torch.device | str | None) -> Any:
    """Return a tensor over an array's memory, or on a device; the array itself when torch has no such elements."""
    if torch_dtype_of(array.dtype) is None:
        return array
    tensor = tensor_of(array)
    return tensor if device is None else tensor.to(device)
