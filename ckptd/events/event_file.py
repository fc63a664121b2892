"""Event files, as TensorBoard reads them: a sequence of records.

Layout of a record, all numbers little-endian::

    [length: uint64][masked crc32c of the length: uint32][data][masked crc32c of the data: uint32]

The first record has the version, each other one a step's values. Source: TensorFlow ``tensorflow/core/lib/io/
record_writer.cc``, ``tensorflow/core/util/events_writer.cc``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import BinaryIO

from ckptd.format import crc32c, event_pb2

VERSION = "brain.Event:2"


def record(data: bytes) -> bytes:
    """Return a record with this data."""
    length = struct.pack("<Q", len(data))
    return b"".join([length, _masked(length), data, _masked(data)])


def first_record(at: float) -> bytes:
    """Return the record that a file begins with; `at` is in seconds since the epoch."""
    return record(event_pb2.Event(wall_time=at, file_version=VERSION).SerializeToString())


def scalars(at: float, step: int, values: Mapping[str, float]) -> bytes:
    """Return a record with a step's values by their tags."""
    summary = event_pb2.Summary(
        value=[event_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    )
    return record(event_pb2.Event(wall_time=at, step=step, summary=summary).SerializeToString())


def append(file: BinaryIO, data: bytes) -> None:
    """Write a record where others may read it at once."""
    file.write(data)
    file.flush()


def _masked(data: bytes) -> bytes:
    return struct.pack("<I", crc32c.mask(crc32c.crc32c(data)))
