"""Orbax's arguments for saving and restoring, recognised by their attributes: Orbax is never imported here.

``StandardSave(tree)`` and its kin have the tree as ``item``. ``Composite(state=…, meta=…)`` is a mapping of names to
such, and here a tree with these names on top. ``restore_args`` is a tree that says what each leaf becomes.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from jax import tree_util

from ckptd.client.restoring.reader import CheckpointReader
from ckptd.errors import InvalidRequestError, NotFoundError
from ckptd.jax.leaf_plans import plan_leaf
from ckptd.jax.loading import describe, load
from ckptd.jax.nodes import name_of
from ckptd.jax.refusals import MissingItemError

_UNDERSTOOD = {"item", "save_args", "restore_args", "partial_restore"}


def tree_of(args: Any) -> Any:
    """Return the tree that is meant to be saved.

    Raises:
        InvalidRequestError: it has no ``item``, as arguments for other things than trees and JSON, or it requests
            something that has no counterpart here.
    """
    if isinstance(args, type):
        raise InvalidRequestError(f"args is a class: call it, {args.__name__}(tree)")
    if isinstance(args, Mapping):
        return {name: tree_of(one) for name, one in args.items() if one is not None}
    if not hasattr(args, "item"):
        raise InvalidRequestError(
            "args has an `item`, like StandardSave, or is a mapping of names to such", actual=type(args).__name__
        )
    _check_fields(args)
    for name, one in _by_name(getattr(args, "save_args", None)).items():
        if getattr(one, "dtype", None) is not None:
            raise InvalidRequestError("save_args: cast the array before it is saved", key=name, actual=one.dtype)
    return args.item


def load_args(reader: CheckpointReader, args: Any, *, partial: bool) -> Any:
    """Return the part of a checkpoint that is meant; for a mapping, a mapping of its kind.

    Arrays get the dtype and the sharding that ``restore_args`` has for them, else those of the item, as with Orbax.

    Raises:
        InvalidRequestError: the target does not fit, or something is requested that has no counterpart here.
        MissingItemError: a name of the mapping is not in the checkpoint.
    """
    if not isinstance(args, Mapping):
        return _load(reader, args, None, partial)
    found = {}
    for name, one in args.items():
        try:
            found[name] = _load(reader, one, name, partial)
        except NotFoundError as error:
            raise MissingItemError(f"{reader.prefix}: {error.reason}") from error
    return found if type(args) is dict else type(args)(**found)


def as_composite(tree: Any) -> Any:
    """Return a tree of items as Orbax's manager with ``item_names`` returns it, where the program has Orbax."""
    orbax: Any = sys.modules.get("orbax.checkpoint")
    return tree if orbax is None or type(tree) is not dict else orbax.args.Composite(**tree)


def _load(reader: CheckpointReader, args: Any, part: str | None, partial: bool) -> Any:
    if args is None:
        return load(reader, None, part=part, partial=partial)
    if isinstance(args, type):
        raise InvalidRequestError(f"args is a class: call it, {args.__name__}(target)")
    has_item = isinstance(args, Mapping) or hasattr(args, "item") or not hasattr(args, "restore_args")
    item = tree_of(args) if has_item else None  # that of a random key has none
    partial = partial or bool(getattr(args, "partial_restore", False))
    leaf_args = _by_name(getattr(args, "restore_args", None))
    if item is None and not leaf_args:
        return load(reader, None, part=part, partial=partial)
    there = _part_of(describe(reader), part)
    stored = {name_of(path): leaf for path, leaf in tree_util.tree_flatten_with_path(there)[0]}
    flat, structure = tree_util.tree_flatten_with_path(
        there if item is None else item, is_leaf=lambda leaf: leaf is Ellipsis
    )
    names = [name_of(path) for path, _ in flat]
    unknown = sorted(set(leaf_args) - set(names))
    if unknown:
        raise InvalidRequestError("restore_args names what is not in the item", key=unknown[0])
    plans = [
        plan_leaf(name, leaf, leaf_args.get(name), stored.get(name))
        for name, (_, leaf) in zip(names, flat, strict=True)
    ]
    target = tree_util.tree_unflatten(structure, [plan.target for plan in plans])
    found = tree_util.tree_leaves(
        load(reader, target, part=part, partial=partial), is_leaf=lambda leaf: leaf is Ellipsis
    )
    finished = [plan.finish(leaf) for leaf, plan in zip(found, plans, strict=True)]
    return tree_util.tree_unflatten(structure, finished)


def _by_name(args: Any) -> dict[str, Any]:
    """Return a mapping from name to what a tree of arguments has for that leaf."""
    flat, _ = tree_util.tree_flatten_with_path(args, is_leaf=lambda leaf: hasattr(leaf, "dtype"))
    return {name_of(path): leaf for path, leaf in flat}


def _part_of(tree: Any, part: str | None) -> Any:
    return tree if part is None or not isinstance(tree, dict) else tree.get(part)


def _check_fields(args: Any) -> None:
    """Refuse arguments that are set and would be ignored."""
    for each in dataclasses.fields(args) if dataclasses.is_dataclass(args) else ():
        value = getattr(args, each.name)
        if each.name not in _UNDERSTOOD and value is not each.default and value != each.default:
            raise InvalidRequestError(
                f"{each.name} of {type(args).__name__} has no counterpart in ckptd", actual=repr(value)[:200]
            )
