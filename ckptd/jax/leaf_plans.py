"""What a leaf becomes when Orbax's arguments restore it: what is read of the checkpoint, and how that is converted.

A target of Orbax need not have the dtype that was saved, nor be of the same framework: arrays are cast, and a number is
put into an array. What was numpy's or Python's stays numpy's where the target only describes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, Sharding

from ckptd.errors import InvalidRequestError
from ckptd.jax.targets import LeafTarget

_STRUCT: Any = jax.ShapeDtypeStruct  # its constructor has no types
_NUMBERS = (bool, int, float, complex)
_FOR_ARRAYS = ("dtype", "sharding", "mesh", "global_shape", "shape")


@dataclass(frozen=True, slots=True)
class LeafPlan:
    """The leaf of the target for `load`, and the conversion of the leaf that it returns."""

    target: Any
    finish: Callable[[Any], Any] = lambda leaf: leaf


def plan_leaf(name: str, like: Any, args: Any, stored: Any) -> LeafPlan:
    """Return what is requested for one leaf.

    Args:
        name: of the leaf.
        like: the item's leaf in its place; without an item what `describe` has for it.
        args: its ``restore_args``, or None.
        stored: what `describe` has for it; None if nothing is stored.

    Raises:
        InvalidRequestError: they request what has no counterpart here.
    """
    leaf = LeafTarget(name, like)
    kind = getattr(args, "restore_type", None)
    is_number = type(like) in _NUMBERS
    if leaf.is_key or not _is_numeric(stored) or not (leaf.is_array or is_number):
        _check_no_args(name, args)
        return LeafPlan(like)
    is_for_array = kind in (np.ndarray, jax.Array) or _sharding(args) is not None
    if kind in _NUMBERS or (is_number and not is_for_array):
        dtype = getattr(args, "dtype", None)
        by_dtype = type(like) if dtype is None else type(np.zeros((), dtype).item())
        return _plan_number(name, stored, kind if kind in _NUMBERS else by_dtype)
    return _plan_array(name, like, args, stored)


def _is_numeric(stored: Any) -> bool:
    if type(stored) in _NUMBERS:
        return True
    dtype = getattr(stored, "dtype", None)
    return isinstance(dtype, np.dtype) and dtype.kind not in "OSU" and not isinstance(stored, np.dtype)


def _check_no_args(name: str, args: Any) -> None:
    if any(getattr(args, each, None) is not None for each in _FOR_ARRAYS):
        raise InvalidRequestError(
            "restore_args are for arrays; here a target with its sharding says it", key=name, actual=str(args)[:200]
        )


def _plan_array(name: str, like: Any, args: Any, stored: Any) -> LeafPlan:
    is_number = type(stored) in _NUMBERS
    shape = tuple(np.shape(like))
    _check_shape(name, args, tuple(np.shape(stored)))
    if is_number and shape:
        return LeafPlan(like)  # `load` tells that it does not fit
    was: np.dtype[Any] = np.dtype(type(stored) if is_number else stored.dtype)
    sharding = _sharding(args) or LeafTarget(name, like).sharding
    dtype = _dtype(like, args, was)
    read_like = stored if is_number else np.broadcast_to(np.zeros((), was), shape)
    if not _is_for_jax(like, args, sharding, stored):
        is_scalar = isinstance(like, np.generic)
        return LeafPlan(read_like, lambda leaf: _cast(name, leaf, dtype, is_scalar=is_scalar))
    if type(like) in _NUMBERS:
        dtype = jax.dtypes.canonicalize_dtype(dtype)
    if is_number or jax.dtypes.canonicalize_dtype(was) != was:
        if jax.dtypes.canonicalize_dtype(dtype) != dtype:
            return LeafPlan(_STRUCT(shape, was))  # `load` tells that JAX would cut it
        return LeafPlan(read_like, lambda leaf: _placed(_cast(name, leaf, dtype), sharding))
    weak = {"weak_type": True} if getattr(like, "weak_type", False) and dtype == was else {}
    target = _STRUCT(shape, was, sharding=sharding, **weak)
    return LeafPlan(target) if dtype == was else LeafPlan(target, lambda leaf: leaf.astype(dtype))


def _is_for_jax(like: Any, args: Any, sharding: Sharding | None, stored: Any) -> bool:
    """Return whether JAX or numpy gets the array; for a description without a sharding, what was saved decides."""
    kind = getattr(args, "restore_type", None)
    if kind in (np.ndarray, jax.Array):
        return kind is jax.Array
    if _is_numpy(like):
        return False
    return sharding is not None or isinstance(like, jax.Array) or isinstance(stored, jax.ShapeDtypeStruct)


def _is_numpy(like: Any) -> bool:
    return isinstance(like, (np.ndarray, np.generic))


def _dtype(like: Any, args: Any, was: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that is requested; with a type to restore and none, it is the stored one."""
    wanted = getattr(args, "dtype", None)
    if wanted is None:
        is_free = getattr(args, "restore_type", None) is not None or type(like) in _NUMBERS
        wanted = was if is_free else like.dtype
    dtype: np.dtype[Any] = np.dtype(wanted)
    return dtype


def _check_shape(name: str, args: Any, there: tuple[int, ...]) -> None:
    shape = getattr(args, "global_shape", None) or getattr(args, "shape", None)
    if shape is not None and tuple(shape) != there:
        raise InvalidRequestError(
            "restore_args: arrays are neither cut nor filled up", key=name, expected=there, actual=shape
        )


def _sharding(args: Any) -> Sharding | None:
    if getattr(args, "sharding", None) is not None:
        # Orbax's own description of one has a method that makes it.
        made = getattr(args.sharding, "to_jax_sharding", None)
        found: Sharding = args.sharding if made is None else made()
        return found
    mesh, axes = getattr(args, "mesh", None), getattr(args, "mesh_axes", None)
    return None if mesh is None or axes is None else NamedSharding(mesh, axes)


def _cast(name: str, value: Any, dtype: np.dtype[Any], *, is_scalar: bool = False) -> Any:
    """Return numpy's array of this dtype; integers are cast to integers only if they stay what they are."""
    array = np.asarray(value)
    cast = array.astype(dtype, copy=False)
    if array.dtype.kind in "iu" and dtype.kind in "iu" and not np.array_equal(cast, array):
        raise InvalidRequestError(f"{array.dtype} holds numbers here that {dtype} can't", key=name, actual=array)
    return cast[()] if is_scalar else cast


def _placed(array: Any, sharding: Sharding | None) -> jax.Array:
    if sharding is None:
        placed: jax.Array = jax.device_put(array)
        return placed
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _plan_number(name: str, stored: Any, kind: type) -> LeafPlan:
    """A number of Python's: of another type only if that loses nothing."""
    if np.shape(stored):
        return LeafPlan(kind())  # `load` tells that it does not fit

    def finish(value: Any) -> Any:
        number = value.item() if hasattr(value, "item") else value
        made = kind(number) if kind is complex or not isinstance(number, complex) else None
        if made is None or (kind in (bool, int) and made != number):
            raise InvalidRequestError(f"this should become a number of type {kind.__name__}", key=name, actual=number)
        return made

    return LeafPlan(np.zeros((), stored.dtype) if hasattr(stored, "dtype") else stored, finish)
