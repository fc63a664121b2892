"""The leaves of a target: what each needs of a checkpoint, whether that is there, and the value that is returned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from numpy.typing import NDArray

from ckptd.client.restoring.reader import did_you_mean
from ckptd.errors import InvalidRequestError
from ckptd.jax import random_keys, shards
from ckptd.jax.shards import Bounds
from ckptd.trees import bits, kinds, numpy_kinds
from ckptd.trees.flatten import leaves_of, rebuild
from ckptd.trees.outline import Leaf, typed_of

Array = NDArray[Any]
Wanted = str | tuple[str, Sequence[int], Sequence[int]]
"""A tensor, or a box of it, as `CheckpointReader.get_many` takes it."""

_PLAIN = (bool, int, float, complex, str, bytes)


@dataclass(frozen=True, slots=True)
class StoredLeaf:
    """What a checkpoint has under one name: a tensor's shape and dtype, a plain value, or a value of another kind.

    Attributes:
        kind: Python's or the outline's word for it.
        shape: of a tensor.
        dtype: of a tensor, as it was saved; None for everything else.
        value: a plain value that the outline holds.
        node: of an outline, for what is of another kind: its value is rebuilt of the tensors below it.
        path: to the node.
        is_integers: the tensor holds integers of the bits of `dtype`.
    """

    kind: str
    shape: tuple[int, ...] = ()
    dtype: np.dtype[Any] | None = None
    value: Any = None
    node: Any = None
    path: tuple[Any, ...] = ()
    is_integers: bool = False

    @staticmethod
    def of(node: Any, path: tuple[Any, ...], shape: tuple[int, ...] = (), dtype: Any = None) -> StoredLeaf:
        """Return what an outline has at a path; shape and dtype are those of its tensor, if it is one."""
        typed = typed_of(node)
        if typed is None:
            return (
                StoredLeaf(node.kind, shape, dtype)
                if isinstance(node, Leaf)
                else StoredLeaf(type(node).__name__, value=node)
            )
        was = bits.dtype_of(typed)
        if was is not None:
            return StoredLeaf(typed.kind, shape, was, is_integers=True)
        text = numpy_kinds.dtype_of(typed)
        if text is not None:
            return StoredLeaf(typed.kind, shape, text, node=node, path=path)
        if typed.kind == "numpy.scalar" or typed.kind.endswith(".bits"):  # of a type that only another framework has
            return StoredLeaf(typed.kind, shape, dtype)
        return StoredLeaf(typed.kind, node=node, path=path)

    @property
    def tensors(self) -> list[str]:
        """The tensors that a value of another kind is made of."""
        return [name for name, _ in leaves_of(self.node, self.path)]

    def __str__(self) -> str:
        if self.dtype is not None:
            return _described(self.dtype, self.shape)
        return self.kind if self.node is not None else f"{self.kind} {self.value!r}"


@dataclass(frozen=True, slots=True)
class LeafTarget:
    """One leaf of a target: `like` says what it becomes."""

    name: str
    like: Any

    @property
    def is_plain(self) -> bool:
        """Whether it is a number, string or bytes of Python's own."""
        return isinstance(self.like, _PLAIN) and not isinstance(self.like, np.generic)

    @property
    def is_array(self) -> bool:
        """Whether it is an array, or describes one."""
        return not isinstance(self.like, type) and hasattr(self.like, "shape") and hasattr(self.like, "dtype")

    @property
    def is_numpy(self) -> bool:
        """Whether it becomes a numpy array."""
        return isinstance(self.like, (np.ndarray, np.generic))

    @property
    def is_key(self) -> bool:
        """Whether it is of typed random keys."""
        return self.is_array and not self.is_numpy and random_keys.is_key(self.like)

    @property
    def sharding(self) -> Sharding | None:
        """Its sharding; None leaves that to JAX, as for an array that was not explicitly placed."""
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
        return _described(self.like.dtype, self.like.shape) if self.is_array else type(self.like).__name__

    def misfit(self, stored: Mapping[str, StoredLeaf]) -> str | None:
        """Return how the checkpoint does not fit, None if it does."""
        kind = None if self.is_plain or self.is_array else kinds.name_of(self.like)
        if not (self.is_plain or self.is_array or kind):
            return (
                f"{self.name}: a target's leaves are arrays or describe them, or values like those that were saved, "
                f"and not a {type(self.like).__name__}"
            )
        for name in self.names:
            if name not in stored:
                return f"{name}: not in the checkpoint{did_you_mean(name, stored)}"
        there = stored[self.names[0]]
        if kind is not None:
            return None if there.kind == kind else f"{self.name}: stored {there}, target {kind}"
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

    def wanted(self, stored: Mapping[str, StoredLeaf]) -> list[Wanted]:
        """Return what is read of a checkpoint that fits: tensors, or boxes of the one, each once."""
        if self._is_spread:
            name, shape = self.name, stored[self.name].shape
            return [name if box[1] == shape else (name, *box) for box in self._boxes()]
        if (there := stored[self.names[0]]).node is not None:
            return [*there.tensors]
        return [name for name in self.names if stored[name].dtype is not None]

    def made_of(self, arrays: Sequence[Array], stored: Mapping[str, StoredLeaf]) -> Any:
        """Return the leaf, from the arrays of what is `wanted`."""
        if stored[self.names[0]].is_integers:
            arrays = [array.view(self.like.dtype) for array in arrays]
        if self._is_spread:
            return self._spread(dict(zip(self._boxes(), arrays, strict=True)))
        if (there := stored[self.names[0]]).node is not None:
            values = dict(zip(there.tensors, arrays, strict=True))
            return rebuild(there.node, values.__getitem__, to_jax, there.path)
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


def check(targets: Sequence[LeafTarget], stored: Mapping[str, StoredLeaf], where: str, *, partial: bool) -> None:
    """Refuse a target that the checkpoint does not fit, naming everything that is wrong.

    Raises:
        InvalidRequestError: shapes or dtypes differ, something is missing or, unless `partial`, too much.
    """
    wrong = list(_misfits(targets, stored, partial))
    if wrong:
        raise InvalidRequestError("\n  ".join([f"the target does not fit the checkpoint {where}:", *wrong]))


def _misfits(targets: Sequence[LeafTarget], stored: Mapping[str, StoredLeaf], partial: bool) -> Iterator[str]:
    in_target: set[str] = set()
    for target in targets:
        in_target.update(target.names)
        misfit = target.misfit(stored)
        if misfit is not None:
            yield misfit
    if not partial:
        more = [
            f"{name}: {one} is stored and not in the target" for name, one in stored.items() if name not in in_target
        ]
        yield from more
        if more:
            yield "(partial=True ignores what is not in the target)"


def _is_castable(there: StoredLeaf, like: Any) -> bool:
    if there.shape or there.node is not None:
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
