"""A checkpoint that is open for DCP: its content as DCP describes it, and how to read its tensors and values."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlanner, ReadItem

from ckptd.client.capture.arrays import Array
from ckptd.client.restoring.reader import CheckpointReader
from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.format.names import is_note
from ckptd.torch.arrays import memory_of, numpy_dtype_of, torch_dtype_of
from ckptd.torch.dcp_values import NOTE, DcpNote, decode_notes, decode_value, note_of_outline
from ckptd.trees.merging import merged_outline


@dataclass(frozen=True)
class Choice:
    """Which checkpoint a rank has opened: its base name, and which save of that name."""

    base: str
    save_id: str


@dataclass(frozen=True)
class Opened:
    """One open checkpoint and its content."""

    reader: CheckpointReader
    note: DcpNote
    metadata: Metadata

    @property
    def choice(self) -> Choice:
        """The value that the ranks compare."""
        return Choice(self.reader.prefix.rpartition("/")[2], self.note.save_id)


def open_reader(reader: CheckpointReader) -> Opened:
    """Find out what a checkpoint holds: from the notes of DCP's ranks, from an outline, or from its names alone.

    Raises:
        CorruptionError: notes or outline are damaged, or name a missing tensor.
    """
    names = list(reader)
    note = decode_notes({name: reader[name] for name in names if name.startswith(NOTE)})
    tree = None if note.save_id else merged_outline(reader, names).tree
    if tree is not None:
        note = note_of_outline(tree)
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    held: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
    hidden = note.hidden
    shown = {name: name for name in names if name not in hidden and not is_note(name)}
    for name, stored in [*shown.items(), *note.stored.items()]:
        if stored not in shapes:
            raise CorruptionError("the outline names a tensor that is missing", key=stored)
        dtype, shape = torch_dtype_of(dtypes[stored]), torch.Size(shapes[stored])
        if dtype is None:
            held[name] = BytesStorageMetadata()  # strings: values for Python
            continue
        whole = ChunkStorageMetadata(torch.Size([0] * len(shape)), shape)
        held[name] = TensorStorageMetadata(TensorProperties(dtype=dtype), shape, [whole])
    held.update({name: BytesStorageMetadata() for name in [*note.values, *note.opaque]})
    own_names = {name: (name,) for name in held}
    metadata = Metadata(
        held,
        planner_data=note.planner_data if note.save_id else {**own_names, **(note.planner_data or {})},
        storage_data={
            MetadataIndex(name, one.chunks[0].offsets if isinstance(one, TensorStorageMetadata) else None): name
            for name, one in held.items()
        },
        storage_meta=StorageMeta(checkpoint_id=reader.prefix, save_id=note.save_id or None),
    )
    return Opened(reader, note, metadata)


def destination(opened: Opened, item: ReadItem, target: torch.Tensor) -> tuple[str, tuple[int, ...], Array, bool]:
    """Return an item's stored tensor, where its box begins, the array to read it into, and if that is the target's."""
    name = item.storage_index.fqn
    stored_name = opened.note.stored.get(name, name)
    chunk = item.storage_index.offset or (0,) * len(item.lengths)
    start = tuple(at + within for at, within in zip(chunk, item.storage_offsets, strict=True))
    if target.shape != item.lengths:
        raise InvalidRequestError(
            "the planner's tensor has another shape than its plan",
            key=name,
            expected=list(item.lengths),
            actual=list(target.shape),
        )
    stored = opened.metadata.state_dict_metadata.get(name)
    if not isinstance(stored, TensorStorageMetadata):
        raise InvalidRequestError("the plan has a tensor here, and the checkpoint has another kind of value", key=name)
    dtype = stored.properties.dtype
    memory = memory_of(name, target) if target.dtype == dtype else None
    if memory is not None:
        return stored_name, start, memory, True
    return stored_name, start, np.empty(tuple(item.lengths), numpy_dtype_of(name, dtype)), False


def read_values(opened: Opened, items: Sequence[ReadItem], planner: LoadPlanner) -> None:
    """Pass a planner a value that is not a tensor, in torch's form: it is built here, not read from the checkpoint."""
    own = opened.note.own_of(dist.get_rank() if dist.is_available() and dist.is_initialized() else 0)
    wanted = {item.storage_index.fqn for item in items} - own.keys()
    known = wanted & opened.note.values.keys()
    leaves = [leaf for name in known for leaf in opened.note.leaves(name) if leaf in opened.reader]
    arrays = opened.reader.get_tensors([*leaves, *(wanted - known)])  # in one call: each call may be a request
    values: dict[str, Any] = {name: array[()] for name, array in arrays.items()}
    for item in items:
        name = item.storage_index.fqn
        if name in opened.note.opaque:
            if type(planner).load_bytes is DefaultLoadPlanner.load_bytes:
                raise InvalidRequestError(
                    "only the planner that saved this can read it, and nothing is unpickled", key=name
                )
            planner.load_bytes(item, io.BytesIO(values[name]))
            continue
        data = io.BytesIO()
        value = decode_value(opened.note, name, values.__getitem__) if name in known else values.get(name)
        torch.save(own.get(name, value), data)
        data.seek(0)
        planner.load_bytes(item, data)
