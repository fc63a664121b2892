"""Orbax's words for what is saved and restored, recognised by what they offer: Orbax is never imported here.

``StandardSave(tree)`` and its kin have the tree as ``item``. ``Composite(state=…, meta=…)`` is a mapping of names to
such, and here a tree with these names on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptd.client.reader import CheckpointReader
from ckptd.errors import InvalidRequestError
from ckptd.jax.loading import load


def tree_of(args: Any) -> Any:
    """Return the tree that is meant.

    Raises:
        InvalidRequestError: it has no ``item``, as arguments for other things than trees and JSON.
    """
    if isinstance(args, Mapping):
        return {name: tree_of(one) for name, one in args.items() if one is not None}
    if not hasattr(args, "item"):
        raise InvalidRequestError(
            "args has an `item`, like StandardSave, or is a mapping of names to such", actual=type(args).__name__
        )
    return args.item


def load_args(reader: CheckpointReader, args: Any, *, partial: bool) -> Any:
    """Return what is meant of a checkpoint; of a mapping a mapping of its kind.

    Raises:
        InvalidRequestError: the target does not fit, or shardings stand where no target is.
    """
    if not isinstance(args, Mapping):
        return load(reader, _target(args), partial=partial)
    found = {
        name: load(reader, None if one is None else _target(one), part=name, partial=partial)
        for name, one in args.items()
    }
    return found if type(args) is dict else type(args)(**found)


def _target(args: Any) -> Any:
    target = tree_of(args)
    if target is None and getattr(args, "restore_args", None) is not None:
        raise InvalidRequestError("shardings stand in the target: a tree of jax.ShapeDtypeStruct(…, sharding=…)")
    return target
