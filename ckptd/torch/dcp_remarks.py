"""Values that several ranks have under one name, before DCP's planner chooses one of them.

The planner drops duplicates before they are stored, so they could differ unnoticed. Here each rank sends a remark about
each of its small values, and ckptd compares the remarks.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType

from ckptd.engine.replicas import Remark
from ckptd.errors import InvalidRequestError
from ckptd.format.crc32c import crc32c
from ckptd.torch.arrays import array_of
from ckptd.torch.dcp_items import keeps_values
from ckptd.trees.outline import encode_outline

_SMALL_BYTES = 64 << 10
_MOST_SHOWN = 60


def remarks_of_plan(plan: SavePlan, planner: SavePlanner) -> list[Remark]:
    """Return remarks about a rank's own plan: values first, then whole tensors of the host, the smallest first.

    There are none for planners that convert values and tensors.
    """
    if not (isinstance(planner, DefaultSavePlanner) and keeps_values(type(planner))):
        return []
    values = [_of_value(item.index.fqn, planner.lookup_object(item.index)) for item in plan.items if _is_value(item)]
    return [each for each in values if each is not None] + [
        remark for _, remark in sorted(_of_tensors(plan, planner), key=lambda found: found[0])
    ]


def _is_value(item: WriteItem) -> bool:
    return bool(item.type == WriteItemType.BYTE_IO)


def _of_value(name: str, value: Any) -> Remark | None:
    try:
        data = value.getvalue() if isinstance(value, io.BytesIO) else encode_outline(value)
    except InvalidRequestError:
        return None  # it contains tensors: they are compared if they are stored
    return Remark(name, crc32c(data), _shown(value), is_outline=False)


def _of_tensors(plan: SavePlan, planner: DefaultSavePlanner) -> Iterator[tuple[int, Remark]]:
    for item in plan.items:
        data = item.tensor_data
        if data is None or tuple(data.chunk.sizes) != tuple(data.size):
            continue  # each rank holds another part of it
        tensor = planner.resolve_data(item)
        if type(tensor) is not torch.Tensor or tensor.device.type != "cpu":
            continue  # a copy from a device only for this would take time
        if 0 < tensor.nbytes <= _SMALL_BYTES:
            stored = array_of(item.index.fqn, tensor).tobytes()
            what = _shown(tensor.item()) if tensor.ndim == 0 else f"a tensor {list(tensor.shape)}"
            yield tensor.nbytes, Remark(item.index.fqn, crc32c(stored), what, is_outline=False)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}…"
