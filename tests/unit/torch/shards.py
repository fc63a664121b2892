"""Tensors that are shards of larger ones and say so in a way of their own, as frameworks over torch make them."""

from __future__ import annotations

import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType


def declared(local, shape, *shards):
    """Return a plain tensor that says which boxes of a tensor of `shape` it holds: (start there, start here, sizes)."""
    local.global_shape = tuple(shape)
    local.global_offsets, local.local_offsets, local.local_sizes = zip(*shards, strict=True) if shards else ((), (), ())
    return local


class OwnItems(torch.Tensor):
    """A tensor that brings its own items for DCP and forbids every operation, as Megatron-Core's do."""

    @staticmethod
    def __new__(cls, shape, boxes):
        return torch.Tensor._make_wrapper_subclass(cls, torch.Size(shape))  # float32, whatever its parts are

    def __init__(self, shape, boxes):
        self.whole, self.boxes = torch.Size(shape), boxes

    def _chunks(self):
        return [ChunkStorageMetadata(torch.Size(start), local.size()) for start, local in self.boxes]

    def __create_write_items__(self, fqn, one):
        return [
            WriteItem(
                MetadataIndex(fqn, chunk.offsets, number),
                WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk, TensorProperties.create_from_tensor(local), one.whole),
            )
            for number, (chunk, (_, local)) in enumerate(zip(one._chunks(), one.boxes, strict=True))
        ]

    def __create_chunk_list__(self):
        return self._chunks()

    def __get_tensor_shard__(self, index):
        return next(local for start, local in self.boxes if torch.Size(start) == index.offset)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError(f"{func} is not for such tensors")

    def __repr__(self):
        return f"OwnItems({self.boxes})"
