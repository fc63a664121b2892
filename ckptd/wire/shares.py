"""What a host is told to write ⇄ its message: columns of numbers, as narrow as they fit, as there may be millions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.hosts.messages import Passing
from ckptd.engine.layout import Layout, Literal
from ckptd.engine.replicas import NO_REPLICAS
from ckptd.errors import InvalidRequestError
from ckptd.format import names
from ckptd.wire import convert
from ckptd.wire.v1 import agent_pb2

_WIDTHS = (1, 2, 4, 8)  # bytes of a number
_ENTRIES = ("entry_tensor", "entry_offset", "entry_size", "entry_lengths_crc")
_SEGMENTS = (
    "segment_entry",
    "segment_rank",
    "segment_item",
    "segment_item_offset",
    "segment_size",
    "segment_offset",
    "segment_is_lengths",
)


def share_to_wire(layout: Layout) -> agent_pb2.HostShare:
    """Return the message for the layout of one shard; see `HostShare`."""
    message = agent_pb2.HostShare(
        names=[names.tensor_key(name) for name in layout.names],
        dtypes=layout.dtypes,
        ranks=[len(shape) for shape in layout.full_shapes],
        full_shapes=[size for shape in layout.full_shapes for size in shape],
        literals=[agent_pb2.ShareLiteral(offset=each.offset, data=each.data) for each in layout.literals],
    )
    for name in (*_ENTRIES, *_SEGMENTS):
        setattr(message, name, _packed(getattr(layout, name)))
    return message


def _packed(column: NDArray[Any]) -> bytes:
    most = int(column.max()) if len(column) else 0
    width = next(width for width in _WIDTHS if most < 1 << 8 * width)
    return bytes([width]) + np.ascontiguousarray(column, f"<u{width}").tobytes()


def share_from_wire(message: agent_pb2.HostShare, shard: int, num_shards: int, size_bytes: int) -> Layout:
    """Read the layout of one shard; `InvalidRequestError` when it does not fit together."""
    entries = _columns(message, _ENTRIES)
    segments = _columns(message, _SEGMENTS)
    num_tensors, num_entries = len(message.names), len(entries["entry_tensor"])
    _check_within("entry_tensor", entries["entry_tensor"], num_tensors)
    _check_within("segment_entry", segments["segment_entry"], num_entries)
    for offsets, sizes in (
        (entries["entry_offset"], entries["entry_size"]),
        (segments["segment_offset"], segments["segment_size"]),
    ):
        if len(offsets) and (min(offsets.min(), sizes.min()) < 0 or (offsets + sizes).max() > size_bytes):
            raise InvalidRequestError("what a host is told to write does not fit into its shard", expected=size_bytes)
    if len(message.dtypes) != num_tensors or len(message.ranks) != num_tensors:
        raise InvalidRequestError("each tensor of a share has a dtype and a shape", expected=num_tensors)
    return Layout(
        names=tuple(names.tensor_name(name) for name in message.names),
        dtypes=tuple(message.dtypes),
        full_shapes=_shapes(message),
        shard_sizes=tuple(size_bytes if each == shard else 0 for each in range(num_shards)),
        entry_tensor=entries["entry_tensor"],
        entry_shard=np.full(num_entries, shard, np.int64),
        entry_offset=entries["entry_offset"],
        entry_size=entries["entry_size"],
        entry_lengths_crc=entries["entry_lengths_crc"].astype(np.uint32),
        slices={},
        segment_entry=segments["segment_entry"],
        segment_rank=segments["segment_rank"],
        segment_item=segments["segment_item"],
        segment_item_offset=segments["segment_item_offset"],
        segment_size=segments["segment_size"],
        segment_offset=segments["segment_offset"],
        segment_is_lengths=segments["segment_is_lengths"].astype(np.bool_),
        literals=tuple(Literal(shard, each.offset, each.data) for each in message.literals),
        replicas=NO_REPLICAS,
    )


def passing_to_wire(passing: Passing) -> agent_pb2.Passing:
    """Return the message for what ranks of a host have for the shard of another."""
    return agent_pb2.Passing(
        shard=passing.shard,
        key=passing.key,
        host=passing.host,
        by=passing.by,
        addresses=passing.addresses,
        size_bytes=passing.size_bytes,
        share=share_to_wire(passing.share),
    )


def passing_from_wire(message: agent_pb2.Passing, num_shards: int) -> Passing:
    """Read what ranks of a host have for the shard of another; `InvalidRequestError` when it does not fit together."""
    if not 0 <= message.shard < num_shards or message.size_bytes < 0:
        raise InvalidRequestError("a host is told to pass bytes on for a shard that there is not", actual=message.shard)
    return Passing(
        message.shard,
        convert.key_from_wire(message.key),
        convert.text_from_wire(message.host),
        message.by,
        tuple(convert.text_from_wire(each) for each in message.addresses),
        message.size_bytes,
        share_from_wire(message.share, message.shard, num_shards, message.size_bytes),
    )


def _columns(message: agent_pb2.HostShare, wanted: tuple[str, ...]) -> dict[str, NDArray[np.int64]]:
    columns: dict[str, NDArray[Any]] = {}
    for name in wanted:
        data: bytes = getattr(message, name)
        width = data[0] if data else 0
        if width not in _WIDTHS or (len(data) - 1) % width:
            raise InvalidRequestError("a column of numbers is cut off", key=name, actual=f"{len(data)} bytes")
        columns[name] = np.frombuffer(data, f"<u{width}", offset=1).astype(np.int64)
    if len({len(column) for column in columns.values()}) != 1:
        raise InvalidRequestError("the columns of a share differ in length")
    return columns


def _check_within(what: str, numbers: NDArray[np.int64], most: int) -> None:
    if len(numbers) and not (int(numbers.min()) >= 0 and int(numbers.max()) < most):
        raise InvalidRequestError(f"{what} of a share is out of range", expected=f"below {most}")


def _shapes(message: agent_pb2.HostShare) -> tuple[tuple[int, ...], ...]:
    ends = np.cumsum(message.ranks).tolist()
    if min(message.ranks, default=0) < 0 or (ends[-1] if ends else 0) != len(message.full_shapes):
        raise InvalidRequestError("the shapes of a share do not add up")
    return tuple(tuple(message.full_shapes[end - rank : end]) for end, rank in zip(ends, message.ranks, strict=True))
