"""Loading nested state: as new tensors, or into the tensors of a program, which may be sharded in any way."""

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
        into: nested state to load into. Its tensors are filled in place; each rank fills the boxes that it holds,
            however the tensors were sharded when they were saved. ``load_state_dict()`` is called on objects that have
            it. Other values are replaced in their dicts and lists; an empty dict or None is replaced by everything that
            is stored there. Modules on the meta device get new tensors, which are filled; tied ones stay tied.
        device: where new tensors are created; the host's memory if None.
        strict: True refuses parts that are missing, have another shape, or are stored within a dict of `into` without a
            place there, unless only some of the ranks saved them. Extra parts at the top are never refused:
            ``into={"model": model}`` loads only the model. With False, everything that fits is loaded, and the rest is
            listed in the result; if ranks saved different things under one name, the first rank's is loaded.
        cast: which conversions of dtypes are allowed: None allows none, ``"widen"`` those to dtypes that hold every
            value of the stored one, ``"any"`` also those to narrower floats. A conversion that would make a finite
            value infinite, or change an integer, is refused.
        rename: stored names → names in `into` or in the result: a dict of prefixes of keys, at any depth, and their
            replacements, such as ``{"module.": "", "_orig_mod.": ""}``, one after the other; a list of such pairs; or a
            function of the whole name, such as ``model/module.weight``.
        classes: the classes of stored enums, dataclasses and named tuples. They are needed because nothing is imported
            by name; values that `into` holds already need none.
        options: for a path, as in `save`.

    Returns:
        `into`, filled. Without it, the saved state: dicts, lists and tuples with torch tensors, numpy arrays, numbers
        and strings; for a checkpoint of another program, a dict of tensors by name. With ``strict=False``, a `Loaded`:
        the same, and lists of the names that were not loaded.

    Raises:
        NotFoundError: there is no such checkpoint.
        InvalidRequestError: ranks saved contradicting values under one name, such as lists of different lengths;
            tensors of `into` are missing or have another shape or dtype (the error names each); with ``strict=False``,
            none of them fits, for example because of a wrong prefix; or a class is missing in `classes`. Nothing is
            changed.
        CorruptionError: the bytes are wrong; `into` may be partly filled.
    """
    began_at = time.perf_counter()
    check_cast(cast)
    if not isinstance(strict, bool):
        raise InvalidRequestError("strict is True or False", actual=repr(strict))
    device = _usable(device, fills=into is not None)
    if into is None and cast is not None:
        raise InvalidRequestError("cast converts to the dtypes of `into`: pass into=")
    known = Classes(classes)
    with open_checkpoint(where, step, options) as reader:  # an open checkpoint is not deleted
        stored = Stored(reader, rename)
        stored.check_conflicts(into, strict=strict)
        if into is None:
            loaded = Loaded(_load_all(stored, device, known), [], [], [])
        else:
            loaded = Filling(stored, device, strict=strict, cast=cast, classes=known).load(into)
    _log.info("%s: loaded in %.3f s", stored.prefix, time.perf_counter() - began_at)
    return loaded.state if strict else loaded


def _usable(device: torch.device | str | None, *, fills: bool) -> torch.device | None:
    """Return the device for tensors, before anything is read.

    Raises:
        InvalidRequestError: there is no such device here, or tensors there have no elements to fill.
    """
    if device is None:
        return None
    try:
        found = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:  # each device type raises its own
        raise InvalidRequestError(f"device={device!r} can't be used: {str(error).splitlines()[0]}") from error
    if found.type == "meta" and fills:
        raise InvalidRequestError("device='meta' has no elements to fill: use it only without `into`")
    return found


def _load_all(stored: Stored, device: torch.device | str | None, classes: Classes) -> Any:
    check_classes(stored.tree, classes)
    arrays = stored.read(stored.names())
    if stored.tree is None:
        return {name: new_value(array, device) for name, array in arrays.items()}
    return rebuild(stored.tree, arrays.__getitem__, lambda array: new_value(array, device), classes=classes)


def new_value(array: Array, device: torch.device | str | None) -> Any:
    """Return a tensor over an array's memory, or on a device; the array itself if torch lacks its dtype."""
    if torch_dtype_of(array.dtype) is None:
        return array
    tensor = tensor_of(array)
    return tensor if device is None else tensor.to(device)
