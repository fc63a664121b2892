"""Assign stored tensors to variables, all or none: what `Saver.restore` does once it has opened a checkpoint.

Everything is looked up and compared first, in TensorFlow's words where something does not fit, and read and verified
before anything is assigned. Source: TensorFlow ``tensorflow/core/kernels/save_restore_tensor.cc``,
``tensorflow/python/training/saver.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ckptd.client.capture.arrays import Array
from ckptd.client.restoring.reader import did_you_mean
from ckptd.client.saver.variables import VariableBox
from ckptd.engine.reading.bundle import Bundle, Wanted
from ckptd.errors import InvalidRequestError, NotFoundError
from ckptd.format.object_graph import OBJECT_GRAPH_NAME, keys_by_full_name

_FAILED = (
    "Restoring from checkpoint failed. This is most likely due to {reason} from the checkpoint. Please ensure that you "
    "have not altered the graph expected based on the checkpoint. Original error:\n\n{cause}"
)


class Assignable(Protocol):
    """A variable, or a framework's equivalent: it says which tensors it needs, and receives them."""

    name: str

    def places(self) -> list[VariableBox]:
        """Return the boxes that it needs of the stored tensor of its name: as many as `assign` takes arrays."""

    def assign(self, arrays: list[Array]) -> None:
        """Assign one array for each of the `places` returned before."""


@dataclass(frozen=True, slots=True)
class _Assignment:
    """A variable and what it gets: a box of one stored tensor per place, reshaped to `shape` if that is not None."""

    variable: Assignable
    key: str
    places: list[VariableBox]
    shape: tuple[int, ...] | None = None


def restore_all(bundle: Bundle, variables: Sequence[Assignable], *, reshape: bool, sequentially: bool) -> None:
    """Assign every variable what the checkpoint has for it.

    Args:
        bundle: the checkpoint.
        variables: what to restore; other tensors of the checkpoint are ignored.
        reshape: whether a stored tensor may have another shape of as many elements.
        sequentially: read and assign one variable after the other. This takes less memory, and damage that is only
            found while reading leaves those before it assigned.

    Raises:
        NotFoundError, InvalidRequestError: nothing was assigned.
        CorruptionError: the bytes are wrong; nothing was assigned, unless `sequentially`.
    """
    keys = _find(bundle, variables)
    work = _check(bundle, variables, keys, reshape)
    batches = [[one] for one in work] if sequentially else [work]
    for batch in batches:
        wanted = (Wanted(one.key, place.box) for one in batch for place in one.places)
        arrays = iter(bundle.read_many(wanted, thorough=True))
        got = [[next(arrays) for _ in one.places] for one in batch]
        for one, values in zip(batch, got, strict=True):
            one.variable.assign(_reshaped(values, one.shape))


def _reshaped(values: list[Array], shape: tuple[int, ...] | None) -> list[Array]:
    return values if shape is None else [value.reshape(shape) for value in values]


def _find(bundle: Bundle, variables: Sequence[Assignable]) -> Mapping[str, str]:
    """Return the stored name of every variable: its own or, in an object-based checkpoint, the object graph's."""
    missing = [one.name for one in variables if one.name not in bundle.index]
    if not missing:
        return {one.name: one.name for one in variables}
    if OBJECT_GRAPH_NAME not in bundle.index:
        cause = f"Key {missing[0]} not found in checkpoint{did_you_mean(missing[0], bundle.names())}"
        reason = "a Variable name or other graph key that is missing"
        raise NotFoundError(_FAILED.format(reason=reason, cause=cause))
    keys = keys_by_full_name(bundle.read(OBJECT_GRAPH_NAME).item())
    wanted = {one.name for one in variables}
    if wanted <= keys.keys():
        return {name: keys[name] for name in wanted}
    matching = wanted & keys.keys()
    raise NotFoundError(
        f"\n\nExisting variables not in the checkpoint: {', '.join(sorted(wanted - matching))}\n\n"
        f"Variables names when this checkpoint was written which don't exist now: "
        f"{', '.join(sorted(keys.keys() - matching))}\n\n({len(matching)} variable name(s) did match)\n\n"
        f"Could not find some variables in the checkpoint (see names above). It was written by tf.train.Checkpoint, "
        f"so the names were looked for in its object graph too."
    )


def _check(
    bundle: Bundle, variables: Sequence[Assignable], keys: Mapping[str, str], reshape: bool
) -> list[_Assignment]:
    work, wrong_dtypes = [], []
    for variable in variables:
        key = keys[variable.name]
        stored = bundle.index.tensor(key)
        places = variable.places()
        for place in places:
            if place.dtype is not None and place.dtype.number != stored.dtype.number:
                wrong_dtypes.append(
                    f"tensor_name = {key}; expected dtype {place.dtype.short} "
                    f"does not equal original dtype {stored.dtype.short}"
                )
        work.append(_Assignment(variable, key, places))
    if wrong_dtypes:
        raise _mismatch("\n".join(dict.fromkeys(wrong_dtypes)))
    return [_check_shape(one, bundle.shape(one.key), reshape) for one in work]


def _check_shape(one: _Assignment, stored: tuple[int, ...], reshape: bool) -> _Assignment:
    for place in one.places:
        if place.shape is None or place.shape == stored:
            continue
        if place.box is not None:
            raise _mismatch(
                f"tensor_name = {one.key}; shape in shape_and_slice spec {_shown(place.shape)} "
                f"does not match the shape stored in checkpoint: {_shown(stored)}"
            )
        if not (reshape or place.may_reshape):
            raise _mismatch(
                f"Assign requires shapes of both tensors to match. lhs shape= {_shown(place.shape)} "
                f"rhs shape= {_shown(stored)}; {_both_shapes(one, place.shape, stored)}"
            )
        if math.prod(place.shape) != math.prod(stored):
            raise _mismatch(
                f"Input to reshape is a tensor with {math.prod(stored)} values, "
                f"but the requested shape has {math.prod(place.shape)}; {_both_shapes(one, place.shape, stored)}"
            )
        return _Assignment(one.variable, one.key, one.places, place.shape)
    return one


def _both_shapes(one: _Assignment, here: Sequence[int], stored: Sequence[int]) -> str:
    return f"variable {one.variable.name!r} is {_shown(here)} here and {_shown(stored)} in the checkpoint"


def _mismatch(cause: str) -> InvalidRequestError:
    reason = "a mismatch between the current graph and the graph"
    return InvalidRequestError(_FAILED.format(reason=reason, cause=cause))


def _shown(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
