"""Convert a pytree of any registered nodes to dicts, lists and tuples, and name its leaves.

A checkpoint has no node types of JAX: a node with named children becomes a dict, one with numbered children a list. A
tensor's name is the path to its leaf, as `jax.tree_util` gives it, its keys joined by ``/``.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

from jax import tree_util

from ckptd.errors import InvalidRequestError
from ckptd.trees import outline

_DICTS = (dict, OrderedDict, defaultdict)

Path = tuple[Any, ...]


def key_of(entry: Any) -> Any:
    """Return what stands in a name for one step of one of JAX's key paths."""
    if isinstance(entry, (tree_util.DictKey, tree_util.FlattenedIndexKey)):
        return entry.key
    if isinstance(entry, tree_util.SequenceKey):
        return entry.idx
    if isinstance(entry, tree_util.GetAttrKey):
        return entry.name
    return str(entry)  # a node may bring keys of its own kind


def name_of(path: Path, below: Path = ()) -> str:
    """Return the name of the leaf at one of JAX's key paths, in a tree that is `below` these keys."""
    return outline.describe((*below, *(key_of(entry) for entry in path)))


def to_containers(tree: Any, leaf: Callable[[Path, Any], Any], path: Path = ()) -> Any:
    """Return the tree as dicts, lists and tuples, each leaf replaced by what `leaf` returns for its keys and it.

    Raises:
        InvalidRequestError: two children of a node have the same key, or JAX can't take a node apart.
    """
    kind = type(tree)
    if tree is None:
        return None
    if len(path) > outline.MAX_DEPTH:
        raise InvalidRequestError("state nests too deeply, or contains itself", key=outline.describe(path[:3]))
    if kind in _DICTS:  # JAX would sort the keys
        return {key: to_containers(child, leaf, (*path, key)) for key, child in tree.items()}
    if kind in (list, tuple):
        return kind(to_containers(child, leaf, (*path, number)) for number, child in enumerate(tree))
    try:
        children, _ = tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"JAX can't flatten this {kind.__name__}: {error}", key=_shown(path)) from error
    if len(children) == 1 and not children[0][0]:
        return leaf(path, tree)
    entries = [entry for (entry,), _ in children]
    if entries and all(isinstance(one, (tree_util.SequenceKey, tree_util.FlattenedIndexKey)) for one in entries):
        return [to_containers(child, leaf, (*path, key_of(entry))) for (entry,), child in children]
    named = {key_of(entry): to_containers(child, leaf, (*path, key_of(entry))) for (entry,), child in children}
    if len(named) != len(children):
        raise InvalidRequestError(f"two children of this {kind.__name__} have the same key", key=_shown(path))
    return named


def _shown(path: Path) -> str | None:
    return outline.describe(path) or None
