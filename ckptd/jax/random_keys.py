"""Store typed random keys (`jax.random.key`) as two tensors that any reader can use: numbers and the generator's name.

In the nesting a key is a dict of these two, so checkpoints with keys need nothing that other frameworks lack.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ckptd.errors import CorruptionError, InvalidRequestError

NUMBERS = "prng_key_data"
IMPL = "prng_impl"


def is_key(value: Any) -> bool:
    """Return whether this array, or its description, is of typed keys."""
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def is_stored_key(node: Any) -> bool:
    """Return whether this part of an outline, or of a tree, stands for keys."""
    return isinstance(node, dict) and node.keys() == {NUMBERS, IMPL}


def impl_of(keys: jax.Array, name: str) -> str:
    """Return the name of the generator that the keys are for.

    Raises:
        InvalidRequestError: it has none; JAX itself has a name for each of its own.
    """
    impl = jax.random.key_impl(keys)
    if not isinstance(impl, str):
        raise InvalidRequestError("keys of a generator without a name can't be saved", key=name, actual=repr(impl))
    return impl


def wrap(numbers: Any, impl: Any, name: str) -> jax.Array:
    """Return the keys again.

    Raises:
        CorruptionError: the numbers do not fit this generator, or the generator is unknown.
    """
    try:
        keys: jax.Array = jax.random.wrap_key_data(numbers, impl=impl)
    except (TypeError, ValueError) as error:
        raise CorruptionError(f"no keys of the generator {impl!r}: {error}", key=name) from error
    return keys
