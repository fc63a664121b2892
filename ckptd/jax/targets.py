"""The leaves of a target: what each wants of a checkpoint, whether it is there, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from numpy.typing import NDArray

from ckptd.client.reader import did_you_mean
from ckptd.errors import InvalidRequestError
from ckptd.jax import random_keys, shards
from ckptd.jax.shards import Bounds

Array = NDArray[Any]
Wanted = str | tuple[str, Sequence[int], Sequence[int]]
"""A tensor, or a box of it, as `CheckpointReader.get_many` takes it."""

_PLAIN = (bool, int, float, complex, str, bytes)


@dataclass(frozen=True, slots=True)
class Stored:
    """What a checkpoint has under one name: a tensor's shape and dtype, or a plain value of the outline.

    `value` counts where `dtype` is None; `kind` is Python's or the outline's word for it.
    """

    kind: str
    shape: tuple[int, ...] = ()
    dtype: np.dtype[Any] | None = None
    value: Any = None

    def __str__(self) -> str:
        return f"{self.kind} {self.value!r}" if self.dtype is None else _described(self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class Target:
    """One leaf of a target: `like` says what it shall become."""

    name: str
    like: Any

    @property
    def is_plain(self) -> bool:
        """Whether it is a number, string or bytes of Python's own."""
        return isinstance(self.like, _PLAIN) and not isinstance(self.like, np.generic)

    @property
    def is_numpy(self) -> bool:
        """Whether it is to be in numpy's hands."""
        return isinstance(self.like, (np.ndarray, np.generic))

    @property
    def is_key(self) -> bool:
        """Whether it is of typed random keys."""
        return not self.is_plain and not self.is_numpy and random_keys.is_key(self.like)

    @property
    def sharding(self) -> Sharding | None:
        """How it is to be spread; None leaves that to JAX, as it is for an array that was put nowhere on purpose."""
        if isinstance(self.like, jax.Array):
            array = jax.random.key_data(self.like) if self.is_key else self.like
            if not getattr(array, "committed", True):
                return None
        return getattr(self.like, "sharding", None)

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that it is made of."""
        if self.is_key:
            return (f"{self.name}/{random_keys.NUMBERS}", f"{self.name}/{random_keys.IMPL}")
        return (self.name,)

    def __str__(self) -> str:
        return type(self.like).__name__ if self.is_plain else _described(self.like.dtype, self.like.shape)

    def misfit(self, stored: Mapping[str, Stored]) -> str | None:
        """Return in what the checkpoint does not fit, None if it does."""
        if not (self.is_plain or (hasattr(self.like, "shape") and hasattr(self.like, "dtype"))):
            return f"{self.name}: a target's leaves are arrays or describe them, and not a {type(self.like).__name__}"
        for name in self.names:
            if name not in stored:
                return f"{name}: not in the checkpoint{did_you_mean(name, stored)}"
        there = stored[self.names[0]]
        if self.is_plain:
            return None if _is_castable(there, self.like) else f"{self.name}: stored {there}, target {self}"
        if self.is_key:
            # The numbers of a key fill dimensions of their own, and how many only its generator knows.
            fits = (
                there.dtype is not None
                and there.dtype == np.uint32
                and there.shape[: len(self.like.shape)] == self.like.shape
            )
            return None if fits else f"{self.name}: stored {there}, target {self}"
        if there.dtype is None or there.dtype != self.like.dtype or there.shape != tuple(self.like.shape):
            return f"{self.name}: stored {there}, target {self}"
        if not self.is_numpy and jax.dtypes.canonicalize_dtype(self.like.dtype) != self.like.dtype:
            return f"{self.name}: JAX would cut {self} to 32 bits; enable jax_enable_x64, or give a numpy array"
        return None

    def wanted(self, stored: Mapping[str, Stored]) -> list[Wanted]:
        """Return what is read of a checkpoint that fits: tensors, or boxes of the one, each once."""
        if self._is_spread:
            name, shape = self.name, stored[self.name].shape
            return [name if box[1] == shape else (name, *box) for box in self._boxes()]
        return [name for name in self.names if stored[name].dtype is not None]

    def made_of(self, arrays: Sequence[Array], stored: Mapping[str, Stored]) -> Any:
        """Return the leaf, from the arrays of what is `wanted`."""
        if self._is_spread:
            return self._spread(dict(zip(self._boxes(), arrays, strict=True)))
        read = iter(arrays)
        first, *more = [stored[name].value if stored[name].dtype is None else next(read) for name in self.names]
        if self.is_plain:
            return _cast(first, type(self.like))
        if self.is_numpy:
            return first if isinstance(self.like, np.ndarray) else first[()]
        return self._key(first, _cast(more[0], str)) if more else self._with_weak_type(first)

    @property
    def _is_spread(self) -> bool:
        return not (self.is_plain or self.is_numpy or self.is_key) and self.sharding is not None

    def _boxes(self) -> list[Bounds]:
        assert self.sharding is not None  # `_is_spread`
        return list(dict.fromkeys(shards.places(self.sharding, tuple(self.like.shape)).values()))

    def _spread(self, boxes: Mapping[Bounds, Array]) -> jax.Array:
        assert self.sharding is not None  # `_is_spread`
        shape = tuple(self.like.shape)
        if self._is_weak_scalar and self.sharding.is_fully_addressable:
            return _to_device(self._with_weak_type(next(iter(boxes.values()))), self.sharding)
        return shards.assemble(shape, self.like.dtype, self.sharding, boxes)

    @property
    def _is_weak_scalar(self) -> bool:
        return getattr(self.like, "weak_type", False) and not self.like.shape

    def _with_weak_type(self, array: Array) -> jax.Array:
        """Return a JAX array, weakly typed where the target is and JAX has a way to say so, which is for scalars."""
        if self._is_weak_scalar:
            weak = jnp.asarray(array.item())
            if weak.dtype == array.dtype:
                return weak
        return _to_device(array, None)

    def _key(self, numbers: Array, impl: str) -> jax.Array:
        keys = random_keys.wrap(numbers, impl, self.name)
        if keys.dtype != self.like.dtype or keys.shape != self.like.shape:
            raise InvalidRequestError(
                "the keys don't fit", key=self.name, expected=str(self), actual=_described(keys.dtype, keys.shape)
            )
        if self.sharding is None:
            return keys
        boxes = {box: keys[shards.slices(box)] for box in self._boxes()}
        return shards.assemble(keys.shape, keys.dtype, self.sharding, boxes)


def to_jax(array: Array) -> Any:
    """Return a JAX array on the default device; the array itself where JAX has no such type or would cut it."""
    if array.dtype.kind in "OSU" or jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        return array
    return _to_device(array, None)


def _to_device(array: Any, where: Sharding | None) -> jax.Array:
    placed: jax.Array = jax.device_put(array, where)
    return placed


def check(targets: Sequence[Target], stored: Mapping[str, Stored], where: str, *, partial: bool) -> None:
    """Refuse a target that the checkpoint does not fit, naming all that is wrong.

    Raises:
        InvalidRequestError: shapes or dtypes differ, something is missing or, unless `partial`, too much.
    """
    wrong = list(_misfits(targets, stored, partial))
    if wrong:
        raise InvalidRequestError("\n  ".join([f"the target does not fit the checkpoint {where}:", *wrong]))


def _misfits(targets: Sequence[Target], stored: Mapping[str, Stored], partial: bool) -> Iterator[str]:
    asked: set[str] = set()
    for target in targets:
        asked.update(target.names)
        misfit = target.misfit(stored)
        if misfit is not None:
            yield misfit
    if not partial:
        more = [f"{name}: {one} is stored and not in the target" for name, one in stored.items() if name not in asked]
        yield from more
        if more:
            yield "(partial=True passes over what is not in the target)"


def _is_castable(there: Stored, like: Any) -> bool:
    if there.shape:
        return False
    if there.dtype is None:
        return isinstance(there.value, type(like)) or (type(like) is float and type(there.value) is int)
    kinds = {bool: "b", int: "iu", float: "fiu", complex: "cfiu", str: "O", bytes: "O"}
    wanted = kinds.get(type(like), "")
    return there.dtype.kind in wanted or (there.dtype.kind == "V" and "f" in wanted)  # bfloat16 and its kin


def _cast(value: Any, kind: type) -> Any:
    if isinstance(value, np.ndarray):
        value = value.item()
    return value.decode() if kind is str and isinstance(value, bytes) else kind(value)


def _described(dtype: Any, shape: Sequence[int]) -> str:
    name = "string" if str(dtype) == "object" else str(dtype)
    return f"{name} of shape {list(shape)}" if shape else f"{name} scalar"
