"""A rank's part of DCP's save plan → what `Checkpointer.save` takes."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult

from ckptd.client.slice import Slice
from ckptd.errors import InvalidRequestError
from ckptd.format.names import is_note
from ckptd.torch.arrays import array_of

_TORCH_ARCHIVE = b"PK\x03\x04"  # what torch.save writes is a zip file


@dataclass
class Collected:
    """What one rank saves.

    Attributes:
        arrays: name → array, or slices.
        values: name → value that is not a tensor.
        opaque: name → bytes that only the planner can read.
        own: names of arrays whose note keeps the value of each rank.
        results: what DCP gets for each item.
    """

    arrays: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    opaque: dict[str, bytes] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    results: list[WriteResult] = field(default_factory=list)

    def add(self, beside: Mapping[str, Any]) -> None:
        """Add the arrays of values.

        Raises:
            InvalidRequestError: for a name that exists already.
        """
        for name in beside:
            if name in self.arrays:
                raise InvalidRequestError("two parts of the state would have this name", key=name)
        self.arrays.update(beside)


def collect(plan: SavePlan, planner: SavePlanner) -> Collected:
    """Resolve every item of a rank's plan; tensors of the host are not copied.

    Raises:
        InvalidRequestError: naming the tensor that can't be stored.
    """
    collected = Collected()
    for item in plan.items:
        if is_note(item.index.fqn):
            raise InvalidRequestError("ckptd keeps this name for its own notes: choose another key", key=item.index.fqn)
        take = _take_value if item.type == WriteItemType.BYTE_IO else _take_tensor
        collected.results.append(WriteResult(item.index, take(collected, item, planner), item.index.fqn))
    return collected


def _take_tensor(collected: Collected, item: WriteItem, planner: SavePlanner) -> int:
    name, data = item.index.fqn, item.tensor_data
    tensor = planner.resolve_data(item)
    if data is None or not isinstance(tensor, torch.Tensor):
        raise InvalidRequestError("the planner planned a tensor and returned something else", key=name)
    wait = getattr(tensor, "wait", None)  # a collective that is still in progress
    array = array_of(name, tensor if wait is None else wait())
    shape, box, start = tuple(data.size), tuple(data.chunk.sizes), tuple(data.chunk.offsets)
    if array.shape != box:
        raise InvalidRequestError(
            "the tensor has another shape than its plan", key=name, expected=list(box), actual=list(array.shape)
        )
    if box == shape:
        collected.arrays[name] = array
    elif array.size:
        collected.arrays.setdefault(name, []).append(Slice(array, shape, start))
    elif math.prod(shape) == 0:
        collected.arrays[name] = np.empty(shape, array.dtype)  # without elements, the whole is no larger than a part
    return array.nbytes


def _take_value(collected: Collected, item: WriteItem, planner: SavePlanner) -> int:
    name = item.index.fqn
    if isinstance(planner, DefaultSavePlanner) and keeps_values(type(planner)):
        collected.values[name] = planner.lookup_object(item.index)
        return 0
    data = planner.resolve_data(item)
    if not isinstance(data, io.BytesIO):
        raise InvalidRequestError("the planner planned bytes and returned something else", key=name)
    # The bytes of other planners may have any form. If they are torch's form of a plain value, the value is stored.
    try:
        data.seek(0)
        collected.values[name] = torch.load(data, weights_only=True)
    except Exception as error:
        if data.getvalue().startswith(_TORCH_ARCHIVE):
            raise InvalidRequestError("this can't be saved without pickle", key=name) from error
        collected.opaque[name] = data.getvalue()
    return data.getbuffer().nbytes


def keeps_values(planner: type[DefaultSavePlanner]) -> bool:
    """Return whether such a planner would only pickle its values."""
    return (
        planner.resolve_data is DefaultSavePlanner.resolve_data
        and planner.transform_object is DefaultSavePlanner.transform_object
    )
