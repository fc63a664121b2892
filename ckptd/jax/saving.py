"""Convert a pytree to what `Checkpointer.save` takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from ckptd.client.capture.arrays import to_array
from ckptd.client.parts import NamedParts
from ckptd.client.slice import Slice
from ckptd.engine.replicas import Remark
from ckptd.errors import InvalidRequestError
from ckptd.format import dtypes
from ckptd.jax import random_keys, shards
from ckptd.jax.kinds import Held
from ckptd.jax.nodes import Path, to_containers
from ckptd.trees import bits
from ckptd.trees.flatten import flatten_apart
from ckptd.trees.outline import OUTLINE_NAME, describe, encode_outline
from ckptd.trees.remarks import remarks_of_outline


def to_arrays(tree: Any) -> dict[str, Any]:
    """Return name → array, for `Checkpointer.save` and `ckptd.save_checkpoint`, of any pytree.

    A name is the path to a leaf, its keys joined by ``/``. Arrays are views of JAX's memory where the host can see it,
    so that the tree may be donated once `save` has returned and the views are gone. Of arrays that are spread over
    devices it is the boxes that this process saves, as `Slice`s. Leaves may also be numpy arrays, numbers,
    strings and bytes. How it all nests is in one more tensor, so that `load` needs no target; what a node holds
    besides its children is not saved.

    Every process of a job calls this with the same tree; leaves that are not spread over all of them have the same
    value everywhere.

    Raises:
        InvalidRequestError: naming the leaf that can't be saved, for example because it was donated.
    """
    return _arrays(tree, lambda name, value: value)


def held_arrays(tree: Any) -> dict[str, Any]:
    """Return what `to_arrays` does, with copies of what is not JAX's: nothing that happens to the tree changes it.

    Raises:
        InvalidRequestError: as `to_arrays`.
    """
    return _arrays(tree, _copy)


def _arrays(tree: Any, take: Callable[[str, Any], Any]) -> dict[str, Any]:
    nested = to_containers(tree, _leaf)
    if isinstance(nested, Held):
        raise InvalidRequestError(
            "what is saved is a tree whose leaves have names, {'w': array}, or Composite(w=…)", actual="an array"
        )
    leaves, outlined = flatten_apart(
        nested, lambda value: isinstance(value, Slice) or (isinstance(value, Held) and value.is_storable)
    )
    outline = encode_outline(outlined)
    waiting = [leaf.value for leaf in leaves.values() if isinstance(leaf, Held)]
    for array in waiting:
        shards.send_ahead(array)
    found = {name: _pieces(name, leaf) if isinstance(leaf, Held) else take(name, leaf) for name, leaf in leaves.items()}
    held = {name: value for name, value in found.items() if not isinstance(value, list) or value}

    def remarks() -> list[Remark]:  # one outline is stored for all ranks: what differs in it is not contradicted
        return [replace(each, is_outline=False) for each in remarks_of_outline(outline, outlined)]

    return NamedParts({**held, OUTLINE_NAME: outline}, remarks)


def _copy(name: str, value: Any) -> Any:
    if isinstance(value, Slice):
        return Slice(to_array(name, value.part)[0].copy(), value.full_shape, value.start)
    return value.copy() if isinstance(value, np.ndarray) else value


def _leaf(path: Path, value: Any) -> Any:
    """Return a leaf as it is, or its stored form in the tree of containers."""
    if not isinstance(value, jax.Array):
        return value
    name = describe(path)
    if isinstance(value, jax.core.Tracer):
        raise InvalidRequestError("a function that JAX transforms can't save", key=name, actual=str(value.aval))
    if value.is_deleted():
        raise InvalidRequestError("the array was deleted, as JAX does with donated ones", key=name)
    if random_keys.is_key(value):
        numbers = Held(jax.random.key_data(value))
        return {random_keys.NUMBERS: numbers, random_keys.IMPL: random_keys.impl_of(value, name)}
    return Held(value)


def _pieces(name: str, held: Held) -> Any:
    array = held.value
    try:
        if held.as_integers:
            return shards.pieces(array, bits.integers)
        dtypes.of_array_dtype(np.dtype(array.dtype))
        return shards.pieces(array)
    except InvalidRequestError as error:
        way = f"; save jax.lax.bitcast_convert_type(x, jnp.uint{8 * array.dtype.itemsize}) and convert it back"
        raise InvalidRequestError(f"{error.reason}{way}", key=name) from error
    except RuntimeError as error:
        raise InvalidRequestError(f"the array can't be read: {error}", key=name) from error
