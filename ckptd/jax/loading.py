"""Load a checkpoint as a pytree: plain containers, or exactly what a target says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

import jax
import numpy as np
from jax import tree_util
from numpy.typing import NDArray

from ckptd.client.paths.latest import Path
from ckptd.client.restoring.reader import CheckpointReader, did_you_mean, load_checkpoint
from ckptd.errors import CorruptionError, NotFoundError
from ckptd.format.names import is_note
from ckptd.jax import random_keys
from ckptd.jax.nodes import name_of
from ckptd.jax.refusals import as_orbaxs
from ckptd.jax.targets import LeafTarget, StoredLeaf, check, to_jax
from ckptd.trees import outline
from ckptd.trees.flatten import leaves_of, rebuild
from ckptd.trees.merging import merged_outline
from ckptd.trees.outline import Leaf

Array = NDArray[Any]

_STRUCT: Callable[..., Any] = jax.ShapeDtypeStruct  # its constructor has no types

_BATCH_BYTES = 1 << 30
"""How much is read before it is passed to JAX, which may copy it: at most this much is in memory twice."""


@as_orbaxs
def load(source: CheckpointReader | Path, target: Any = None, *, part: str | None = None, partial: bool = False) -> Any:
    """Read a checkpoint that `to_arrays` described, or any other.

    Without a target: dicts, lists and tuples as they nested, with JAX arrays on the default device where JAX arrays
    were saved; 64-bit ones stay numpy arrays while `jax_enable_x64` is off. Of a checkpoint of another program:
    a flat dict of its tensors.

    Args:
        source: the prefix or directory of a checkpoint, or what `Checkpointer.reader` or `load_checkpoint` returned.
        target: a pytree of any nodes, its leaves arrays or `jax.ShapeDtypeStruct`s, numpy arrays, numbers or strings,
            or ``...`` for what is not to be read, and is returned as ``...``.
            Of each leaf shape, dtype, and sharding if it has one, are what is returned; of a tensor just the boxes
            are read that this process's devices will hold, each once.
        part: what to read of the saved tree, by its path: ``"params"``; the target is for that part then.
        partial: the checkpoint, or that part of it, may hold more than the target.

    Raises:
        InvalidRequestError: the target does not fit, with every path and both shapes.
        NotFoundError: no such checkpoint or part.
        CorruptionError: the bytes are wrong.
    """
    reader = source if isinstance(source, CheckpointReader) else load_checkpoint(source)
    tree, path = _part(_outline(reader), part)
    if target is None:
        return _load_plain(reader, tree, path)
    flat, structure = tree_util.tree_flatten_with_path(target, is_leaf=_is_left_out)
    names = [name_of(at, path) for at, _ in flat]
    stored = _stored(reader, tree, path, set(names))
    for name in (name for name, (_, like) in zip(names, flat, strict=True) if _is_left_out(like)):
        stored = {one: there for one, there in stored.items() if one != name and not one.startswith(f"{name}/")}
    targets = [LeafTarget(name, like) for name, (_, like) in zip(names, flat, strict=True) if not _is_left_out(like)]
    check(targets, stored, reader.prefix, partial=partial)
    loaded = (leaf for batch in _batches(targets, stored) for leaf in _load_batch(reader, batch, stored))
    return tree_util.tree_unflatten(structure, [like if _is_left_out(like) else next(loaded) for _, like in flat])


def _is_left_out(like: Any) -> bool:
    """Return whether a leaf of a target stands for what is not to be read, as with Orbax."""
    return like is Ellipsis


@as_orbaxs
def describe(source: CheckpointReader | Path) -> Any:
    """Return what `load` would without a target, with a `jax.ShapeDtypeStruct` for each of JAX's arrays, unread.

    A target can be made of it, by giving the leaves a sharding. For numpy arrays stand arrays of that shape and dtype
    that take no memory; numbers and strings are themselves.

    Raises:
        NotFoundError, CorruptionError: as `load`.
    """
    reader = source if isinstance(source, CheckpointReader) else load_checkpoint(source)
    tree = _outline(reader)
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    plain = [name for name, leaf in leaves_of(tree) if _is_small(leaf) and name in shapes]
    values = reader.get_tensors(plain)

    def stand_in(name: str) -> Array:
        empty = np.zeros((), dtypes[name])
        return values[name] if name in values else np.broadcast_to(empty, shapes[name])

    def to_struct(array: Array) -> Any:
        return array if array.dtype.kind == "O" else _STRUCT(array.shape, array.dtype)

    def to_key_struct(numbers: Any, impl: Any, name: str) -> Any:
        return jax.eval_shape(lambda given: random_keys.wrap(given, impl, name), numbers)

    return _with_keys(rebuild(tree, stand_in, to_struct), to_key_struct)


def _is_small(leaf: Leaf) -> bool:
    """Return whether a description has the value of a leaf itself."""
    return leaf.kind not in ("array", "numpy") or (leaf.typed is not None and leaf.typed.kind == "numpy.scalar")


def _outline(reader: CheckpointReader) -> Any:
    """Return the nesting; for a checkpoint of another program, a flat dict."""
    tree = merged_outline(reader, reader).tree
    if tree is not None:
        return tree
    return {name: Leaf("array") for name in reader if not is_note(name)}


def _part(tree: Any, part: str | None) -> tuple[Any, tuple[Any, ...]]:
    """Return a part of an outline's tree, and the path to it."""
    path: tuple[Any, ...] = ()
    for wanted in part.split("/") if part else ():
        children = dict(tree if isinstance(tree, dict) else enumerate(tree if isinstance(tree, (list, tuple)) else ()))
        found = [key for key in children if str(key) == wanted]
        if not found:
            raise NotFoundError(f"there is no {part!r}{did_you_mean(wanted, map(str, children))}")
        tree, path = children[found[0]], (*path, found[0])
    return tree, path


def _load_plain(reader: CheckpointReader, tree: Any, path: tuple[Any, ...]) -> Any:
    names = [name for name, _ in leaves_of(tree, path) if name in reader]
    arrays = reader.get_tensors(names)
    return _with_keys(rebuild(tree, arrays.pop, to_jax, path), random_keys.wrap, path)


def _with_keys(tree: Any, wrap: Callable[[Any, Any, str], Any], path: tuple[Any, ...] = ()) -> Any:
    """Return the tree with random keys in the place of their stored form."""
    if random_keys.is_stored_key(tree):
        return wrap(tree[random_keys.NUMBERS], tree[random_keys.IMPL], outline.describe(path))
    if type(tree) is dict:
        return {key: _with_keys(value, wrap, (*path, key)) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_with_keys(value, wrap, (*path, number)) for number, value in enumerate(tree))
    return tree


def _stored(reader: CheckpointReader, tree: Any, path: tuple[Any, ...], whole: Set[str]) -> dict[str, StoredLeaf]:
    """Return a mapping from name to content: tensors, and the plain values of the outline.

    Args:
        reader: has the tensors.
        tree: of the outline.
        path: to it.
        whole: the names at which a container of another kind, such as a set, is one leaf.
    """
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    found: dict[str, StoredLeaf] = {}
    for at, node in _places(tree, path, whole):
        name = outline.describe(at)
        if not isinstance(node, Leaf):
            found[name] = StoredLeaf.of(node, at)
        elif name in shapes:
            found[name] = StoredLeaf.of(node, at, tuple(shapes[name]), dtypes[name])
        else:
            raise CorruptionError("the outline names a tensor that is missing", key=name)
    return found


def _places(tree: Any, path: tuple[Any, ...], whole: Set[str]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield (path, node) for what is a leaf in an outline's tree; None is none in JAX."""
    is_leaf = outline.typed_of(tree) is not None and outline.describe(path) in whole
    if isinstance(tree, dict) and not is_leaf:
        children: Iterator[tuple[Any, Any]] = iter(tree.items())
    elif isinstance(tree, (list, tuple)) and not is_leaf:
        children = iter(enumerate(tree))
    else:
        if tree is not None:
            yield path, tree
        return
    for key, child in children:
        yield from _places(child, (*path, key), whole)


def _batches(targets: Sequence[LeafTarget], stored: Mapping[str, StoredLeaf]) -> Iterator[list[LeafTarget]]:
    batch: list[LeafTarget] = []
    size = 0
    for target in targets:
        there = stored[target.names[0]]
        if there.dtype is not None:
            size += math.prod(there.shape) * there.dtype.itemsize
        batch.append(target)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    yield batch


def _load_batch(
    reader: CheckpointReader, targets: Sequence[LeafTarget], stored: Mapping[str, StoredLeaf]
) -> Iterator[Any]:
    """Read the tensors of these leaves, all at once, and yield the leaves."""
    wanted = [target.wanted(stored) for target in targets]
    arrays = iter(reader.get_many(one for each in wanted for one in each))
    for target, each in zip(targets, wanted, strict=True):
        yield target.made_of([next(arrays) for _ in each], stored)
