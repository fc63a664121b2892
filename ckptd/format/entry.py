"""Encode and decode the value under one key of an index: a tensor, or a slice of one.

Source: TensorFlow ``tensorflow/core/protobuf/tensor_bundle.proto``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache

from google.protobuf.message import DecodeError

from ckptd.errors import CorruptionError
from ckptd.format import crc32c as checksum
from ckptd.format import dtypes, tensors
from ckptd.format.bundle_pb2 import BundleEntryProto, TensorShapeProto
from ckptd.format.dtypes import DType
from ckptd.format.slices import Box, TensorSlice

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

NO_CRC32C = checksum.unmask(0)
"""The checksum of an entry that has none: its masked form is 0, which protobuf leaves out."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The value under one key, as recorded and not yet checked; `crc32c` is the plain checksum."""

    dtype: int
    shape: tuple[int, ...]
    shard_id: int = 0
    offset: int = 0
    size: int = 0
    crc32c: int = NO_CRC32C
    slices: tuple[TensorSlice, ...] = ()

    def encode(self) -> bytes:
        """Return the entry's bytes as TensorFlow serializes them."""
        message = BundleEntryProto(
            dtype=self.dtype,
            shard_id=self.shard_id,
            offset=self.offset,
            size=self.size,
            crc32c=checksum.mask(self.crc32c),
        )
        # The shape is there even when it is a scalar's and empty.
        message.shape.SetInParent()
        for size in self.shape:
            message.shape.dim.add(size=size)
        for recorded in self.slices:
            proto = message.slices.add()
            for start, length in recorded.extents:
                extent = proto.extent.add(start=start)
                if length is not None:
                    extent.length = length
        return message.SerializeToString(deterministic=True)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read an entry, skipping unknown fields.

        Raises:
            CorruptionError: if the bytes are no such message, or the shape's rank is unknown.
        """
        return cls.of(parse_entry(data))

    @classmethod
    def of(cls, message: BundleEntryProto) -> Self:
        """Return the fields of a message."""
        return cls(
            message.dtype,
            tuple([dim.size for dim in message.shape.dim]),
            message.shard_id,
            message.offset,
            message.size,
            checksum.unmask(message.crc32c),
            tuple(
                [
                    TensorSlice(
                        tuple([(e.start, e.length if e.HasField("has_length") else None) for e in recorded.extent])
                    )
                    for recorded in message.slices
                ]
            ),
        )


def parse_entry(data: bytes) -> BundleEntryProto:
    """Return the message under a key.

    Raises:
        CorruptionError: if the bytes are no such message, or the shape's rank is unknown.
    """
    message = BundleEntryProto()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise CorruptionError("entry cannot be parsed") from error
    if message.shape.unknown_rank:
        raise CorruptionError("shape has no known rank")
    return message


@lru_cache(maxsize=1024)
def usual_form(dtype_number: int, shape: bytes) -> tuple[DType, Box, int | None]:
    """Return what tensors of one dtype and one encoded shape have in common; the last is their size, if it is fixed."""
    dtype = dtypes.by_number(dtype_number)
    message = TensorShapeProto()
    message.ParseFromString(shape)
    sizes = tuple([dim.size for dim in message.dim])
    tensors.check_shape(sizes)
    return dtype, Box.whole(sizes), tensors.expected_size(dtype, sizes) if dtype.array is not None else None


def form_of(head: bytes) -> tuple[DType, Box, int | None]:
    """Return dtype, shape as a box, and size in bytes if that is fixed, of entries that begin with `head`.

    Raises:
        CorruptionError: there can be no such tensor.
    """
    message = parse_entry(head)
    return usual_form(message.dtype, message.shape.SerializeToString())
