"""Saving nested state: modules, optimizers and other state of a training program, in one call."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any

import torch

from ckptd.client.parts import NamedParts
from ckptd.client.saving.pending import PendingSave
from ckptd.client.slice import Slice
from ckptd.torch.kinds import is_more_than_elements
from ckptd.torch.places import Place, checkpointer_at, membership
from ckptd.torch.sharding import parts_of
from ckptd.torch.stateful import unwrapped
from ckptd.trees.flatten import flatten_apart
from ckptd.trees.merging import outline_name
from ckptd.trees.outline import encode_outline
from ckptd.trees.remarks import remarks_of_outline

_log = logging.getLogger("ckptd.torch")


def save(
    state: Any,
    where: Place,
    step: int | None = None,
    *,
    overwrite: bool = False,
    meta_graph: bytes | None = None,
    may_differ: Collection[str] = (),
    **options: Any,
) -> PendingSave:
    """Begin to save nested state; return once it may be changed again by training.

    The name of a tensor is the path to it, such as ``model/layer.weight``; the same holds for numbers and strings. A
    `DTensor` is stored as the parts that its ranks hold, each once, for any placements. Every rank calls this with its
    own state; `load` returns the state of all ranks. A value that several ranks have under one name has to be the same
    on all of them, as one rank's is stored: small values are compared, see `replicas` of `ckptd.Checkpointer`. Nothing
    is pickled.

    Args:
        state: nested dicts, lists and tuples of tensors, numpy arrays, `ckptd.Slice`s, numbers, strings, None; objects
            with ``state_dict()``, which is stored instead of them; and other types that need no pickle:
            ``OrderedDict``, ``Counter``, ``defaultdict``, ``deque``, sets, paths, dates and times, ranges, dtypes,
            devices, sizes; enums, dataclasses and named tuples, whose classes have to be passed to `load`.
        where: a `ckptd.Checkpointer`; or a path, which means a run: of the daemon that ``CKPTD_ADDRESS`` names in the
            environment, otherwise this directory, for one process. The run stays open until the program ends.
        step: of training; None for the only checkpoint without one.
        overwrite: replace a checkpoint of this step.
        meta_graph: bytes for a ``.meta`` file beside it.
        may_differ: names, such as ``"loss"``, whose values need not be the same on all ranks: any of them is stored.
        options: for a path, those of the `ckptd.Checkpointer` that is created for it: `max_to_keep` and so on. Rank
            and world size come from ``torch.distributed``, if it is initialised.

    Returns:
        The pending save. Its `result()` is durable; the next save raises an error that was not raised yet.

    Raises:
        InvalidRequestError: naming a value that can't be stored without pickle, has no elements, or is only an addend.
    """
    began_at = time.perf_counter()
    checkpointer = checkpointer_at(where, options)
    pending = checkpointer.save(
        step,
        lambda: named_parts(state, checkpointer.rank),  # if it refuses something, the other ranks are told
        overwrite=overwrite,
        meta_graph=meta_graph,
        may_differ=may_differ,
    )
    stalled_s = time.perf_counter() - began_at
    _log.info("%s: training stood still for %.3f s", pending, stalled_s)
    pending.add_done_callback(lambda ended: _tell(ended, began_at))
    return pending


def named_parts(state: Any, rank: int | None = None) -> dict[str, Any]:
    """Return nested state as `Checkpointer.save` accepts it: views of its tensors and slices, and its outline.

    Args:
        state: as in `save`.
        rank: that saves it; None for the rank in ``torch.distributed``, or 0 if that is not used.

    Raises:
        InvalidRequestError: as `save`.
    """
    flat, tree = flatten_apart(state, _is_leaf, unwrap=unwrapped, stores_classes=True)
    outline = encode_outline(tree)
    leaves = {name: parts_of(name, leaf) if isinstance(leaf, torch.Tensor) else leaf for name, leaf in flat.items()}
    # This rank has no part of a tensor whose mesh does not contain it.
    held = {name: leaf for name, leaf in leaves.items() if not (isinstance(leaf, list) and not leaf)}
    rank = membership().get("rank", 0) if rank is None else rank
    return NamedParts({**held, outline_name(outline, rank): outline}, lambda: remarks_of_outline(outline, tree))


def _is_leaf(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return not is_more_than_elements(value)
    return isinstance(value, Slice) or (
        isinstance(value, list) and bool(value) and all(isinstance(one, Slice) for one in value)
    )


def _tell(pending: PendingSave, began_at: float) -> None:
    saved = pending.checkpoint
    if saved is not None:  # errors are raised by `result`, or by the next save
        _log.info("%s is durable after %.3f s", saved.prefix, time.perf_counter() - began_at)
