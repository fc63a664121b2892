"""JAX's arrays of elements that the format lacks, stored as integers of the same bits; see `ckptd.trees.bits`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ckptd.trees import bits
from ckptd.trees.kind import Kind
from ckptd.trees.kinds import register

_STRUCT: Any = jax.ShapeDtypeStruct  # its constructor has no types


@dataclass(frozen=True, slots=True)
class Held:
    """A leaf that is a JAX array, in the tree of containers; as integers of its bits if the format lacks its dtype."""

    value: jax.Array
    as_integers: bool = False

    @property
    def is_storable(self) -> bool:
        """Whether it is stored as it is, without a note of what it was."""
        return self.as_integers or not bits.is_stored_so(np.dtype(self.value.dtype))


def _take(held: Held) -> tuple[Any, Any]:
    return Held(held.value, as_integers=True), held.value.dtype.name


def _dtype(name: str) -> Any:
    dtype = getattr(jnp, name, None)
    if dtype is None or name not in bits.DTYPES:
        raise bits.refusal(name, "JAX")
    return dtype


def _made(integers: jax.Array, name: str) -> Any:
    return jax.lax.bitcast_convert_type(integers, _dtype(name))


def _described(integers: Any, name: str) -> Any:
    return _STRUCT(integers.shape, _dtype(name))


def register_all() -> None:
    """Have them stored. May be repeated."""
    register(Kind("jax.bits", _take, bits.make), Held)
    bits.register_maker(jax.Array, _made)
    bits.register_maker(jax.ShapeDtypeStruct, _described)


register_all()
