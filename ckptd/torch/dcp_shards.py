"""Tensors that provide their own items for DCP, and the objects that replace them once their shards are copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from torch.distributed.checkpoint.planner import WriteItem
from torch.distributed.checkpoint.planner_helpers import _create_write_items
from torch.distributed.checkpoint.utils import find_tensor_shard
from torch.distributed.tensor import DTensor


def items_of(tensor: Any) -> list[tuple[WriteItem, torch.Tensor]]:
    """Return the items of a tensor for DCP, each with its shard.

    Nothing else is called: such a tensor may forbid every operation.
    """
    if isinstance(tensor, DTensor) and tensor.device_mesh.get_coordinate() is None:
        return []  # this rank is not in the tensor's mesh
    return [(item, find_tensor_shard(tensor, item.index)) for item in _create_write_items("", tensor)]


class StagedShards(torch.Tensor):
    """Replaces a tensor that provides its own items: the same items, and copies of its shards."""

    @staticmethod
    def __new__(cls, items: Sequence[WriteItem], shards: Sequence[torch.Tensor]) -> StagedShards:
        """Create an object that DCP accepts as a tensor, without memory."""
        shape = items[0].tensor_data.size if items and items[0].tensor_data is not None else torch.Size([0])
        made: StagedShards = torch.Tensor._make_wrapper_subclass(cls, shape)
        return made

    def __init__(self, items: Sequence[WriteItem], shards: Sequence[torch.Tensor]) -> None:
        self._items, self._shards = list(items), list(shards)

    def __create_write_items__(self, fqn: str, staged: Any) -> list[WriteItem]:
        """Return the items, under the planner's name."""
        return [replace(item, index=replace(item.index, fqn=fqn)) for item in self._items]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        """Return the boxes of the shards."""
        return [item.tensor_data.chunk for item in self._items if item.tensor_data is not None]

    def __get_tensor_shard__(self, index: MetadataIndex) -> torch.Tensor:
        """Return the copy of one shard."""
        for item, shard in zip(self._items, self._shards, strict=True):
            if item.index.offset == index.offset:
                return shard
        raise ValueError(f"no shard of {index.fqn!r} begins at {index.offset}")

    def __reduce_ex__(self, protocol: Any) -> Any:
        return StagedShards, (self._items, self._shards)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"StagedShards({self._items})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuse every operation: there are no elements."""
        raise NotImplementedError(f"{func} of a tensor that is staged to be saved")
