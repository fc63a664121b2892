"""Where everything of one save lies: the result of planning, as values.

A layout depends only on the ranks' manifests, so saves of one layout share it. It knows two things:

- **entries**, what the index will list: a whole tensor, or one slice of it;
- **segments**, what moves: runs of bytes of one rank's part that land at one place of one shard. A numeric part is
  one segment. A part of strings is two, its lengths and its payload; the daemon writes the checksum between them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.identity import SaveRef
from ckptd.engine.replicas import Replicas

Column = NDArray[np.int64]
Rows = NDArray[np.integer[Any]]
"""Numbers of rows, ranks or shards: of 32 bits where these are enough, as layouts have millions of them."""


def narrow(numbers: Rows) -> Rows:
    """Return numbers of rows in as few bits as they need."""
    fits = not len(numbers) or int(numbers.max()) <= np.iinfo(np.int32).max
    return numbers.astype(np.int32) if fits else numbers


@dataclass(frozen=True, slots=True)
class Literal:
    """Bytes that the daemon writes itself: the checksum between the lengths and the payload of strings."""

    shard: int
    offset: int
    data: bytes


@dataclass(frozen=True, eq=False, slots=True)
class SliceSet:
    """The stored slices of one tensor in ascending order: boxes as [slices, rank], and their entries."""

    starts: Column
    shapes: Column
    entries: Column


@dataclass(frozen=True, eq=False)
class Layout:
    """Columns of entries and of segments, both sorted by (shard, offset).

    Attributes:
        names, dtypes, full_shapes: the tensors of all ranks together.
        shard_sizes: bytes per shard.
        entry_tensor, entry_shard, entry_offset, entry_size: per entry; sizes and offsets in bytes.
        entry_lengths_crc: per entry of strings, the running checksum over all lengths; of variants, their own; else 0.
        slices: per sliced tensor its slices; a tensor that is not here has a single entry.
        segment_entry, segment_rank, segment_item, segment_item_offset, segment_size, segment_offset: per segment:
            which entry, which rank sends it, from which row of the sender's manifest, from which byte of that part's
            stored form, how many bytes, and to which byte of the shard.
        segment_is_lengths: the segment holds lengths of strings.
        literals: what the daemon writes by itself.
        replicas: what several ranks hold.
        shard_hosts: where several hosts write: per shard, the host that fills it. The shards after them, which are
            empty, and all shards where this is empty, are filled by the process that plans.
    """

    names: tuple[str, ...]
    dtypes: tuple[int, ...]
    full_shapes: tuple[tuple[int, ...], ...]
    shard_sizes: tuple[int, ...]
    entry_tensor: Rows
    entry_shard: Rows
    entry_offset: Column
    entry_size: Column
    entry_lengths_crc: NDArray[np.uint32]
    slices: Mapping[int, SliceSet]
    segment_entry: Rows
    segment_rank: Rows
    segment_item: Rows
    segment_item_offset: Column
    segment_size: Column
    segment_offset: Column
    segment_is_lengths: NDArray[np.bool_]
    literals: tuple[Literal, ...]
    replicas: Replicas
    shard_hosts: tuple[str, ...] = ()

    @property
    def num_shards(self) -> int:
        """How many data shards there are."""
        return len(self.shard_sizes)

    @property
    def size_bytes(self) -> int:
        """Bytes of all shards together."""
        return sum(self.shard_sizes)

    def host_of(self, shard: int) -> str:
        """Return the host that fills a shard; "" for the process that plans, which also fills what no rank sends to."""
        return self.shard_hosts[shard] if shard in self.senders_of and self.shard_hosts else ""

    def shard_of(self, host: str) -> int | None:
        """Return the shard that a host fills, None when it writes nothing."""
        return self._shards_by_host.get(host)

    @cached_property
    def _shards_by_host(self) -> dict[str, int]:
        return {host: shard for shard, host in reversed(list(enumerate(self.shard_hosts)))}

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over all that says where bytes go and what the index lists: the same layout, the same 32 bytes.

        It holds across processes and releases. Empty shards at the end do not count: they are of an attempt.
        """
        used = int(self.entry_shard.max()) + 1
        digest = hashlib.sha256(b"ckptd layout 1\0")
        lengths = len(self.names), len(self.entry_shard), len(self.segment_entry), len(self.literals), used
        digest.update(struct.pack("<5q", *lengths))
        for name, dtype, shape in zip(self.names, self.dtypes, self.full_shapes, strict=True):
            encoded = name.encode("utf-8", "surrogateescape")
            digest.update(struct.pack(f"<qqq{len(shape)}q", len(encoded), dtype, len(shape), *shape) + encoded)
        for host in self.shard_hosts[:used]:
            encoded = host.encode("utf-8", "surrogateescape")
            digest.update(struct.pack("<q", len(encoded)) + encoded)
        for literal in self.literals:
            digest.update(struct.pack("<qqq", literal.shard, literal.offset, len(literal.data)) + literal.data)
        slices = [self.slices[tensor] for tensor in sorted(self.slices)]
        columns: tuple[NDArray[Any], ...] = (
            np.array(self.shard_sizes[:used], np.int64),
            *(self.entry_tensor, self.entry_shard, self.entry_offset, self.entry_size, self.entry_lengths_crc),
            *(self.segment_entry, self.segment_rank, self.segment_item, self.segment_item_offset),
            *(self.segment_size, self.segment_offset, self.segment_is_lengths),
            np.array(sorted(self.slices), np.int64),
            *(column for each in slices for column in (each.starts, each.shapes, each.entries)),
        )
        for column in columns:
            digest.update(struct.pack("<q", column.size))
            digest.update(np.ascontiguousarray(column, "<i8").tobytes())
        return digest.digest()

    @cached_property
    def segment_shard(self) -> Rows:
        """Per segment, its shard."""
        return self.entry_shard[self.segment_entry]

    @cached_property
    def lane_segments(self) -> Mapping[tuple[int, int], Rows]:
        """Per (rank, shard) that has any: rows of its segments, in the order of sending."""
        if not len(self.segment_rank):
            return {}
        order = narrow(np.lexsort((self.segment_offset, self.segment_shard, self.segment_rank)))
        ranks, shards = self.segment_rank[order], self.segment_shard[order]
        begins = np.flatnonzero((np.diff(ranks, prepend=-1) != 0) | (np.diff(shards, prepend=-1) != 0))
        groups = np.split(order, begins[1:])
        return {(int(ranks[at]), int(shards[at])): group for at, group in zip(begins, groups, strict=True)}

    @cached_property
    def owed_of(self) -> Mapping[int, Mapping[int, int]]:
        """Per shard that ranks have bytes for: how many each of them has, by rank, ascending."""
        sizes: dict[int, dict[int, int]] = {}
        for (rank, shard), rows in self.lane_segments.items():
            sizes.setdefault(shard, {})[rank] = int(self.segment_size[rows].sum())
        return sizes

    @cached_property
    def shards_of(self) -> Mapping[int, Sequence[int]]:
        """Per rank that has any: the shards of its lanes."""
        shards: dict[int, list[int]] = {}
        for rank, shard in self.lane_segments:
            shards.setdefault(rank, []).append(shard)
        return shards

    def rows_of(self, shard: int) -> slice:
        """Return the segments of a shard: they are one range, as all are sorted by shard."""
        begin, end = np.searchsorted(self.segment_shard, [shard, shard + 1]).tolist()
        return slice(begin, end)

    @cached_property
    def senders_of(self) -> Mapping[int, Sequence[int]]:
        """Per shard that ranks have bytes for: these ranks, ascending."""
        ranks: dict[int, list[int]] = {}
        for rank, shard in self.lane_segments:
            ranks.setdefault(shard, []).append(rank)
        return ranks


class LaneTransport(Enum):
    """How the bytes of a lane come to the engine."""

    STREAM = "stream"  # the rank sends them
    ARENA = "arena"  # they are captured in memory that both see


@dataclass(frozen=True, eq=False)
class Lane:
    """What one rank has to send to one shard: segments in the order in which they are sent.

    Attributes:
        shard: where the bytes go.
        key: the shard's object.
        writers: addresses of processes that take it; empty means the one that answered.
        size_bytes: of all segments.
        items: per segment, the row of the rank's manifest.
        item_offsets: per segment, its first byte within that part's stored form.
        sizes: per segment, bytes.
        transport: how they travel.
        stream_port: of a process beside the daemon that takes the lane as well, on the daemon's host; 0 for none.
    """

    shard: int
    key: str
    writers: tuple[str, ...]
    size_bytes: int
    items: Rows
    item_offsets: Column
    sizes: Column
    transport: LaneTransport = LaneTransport.STREAM
    stream_port: int = 0


@dataclass(frozen=True, eq=False)
class Assignment:
    """The answer to a rank's declaration: where its save goes, and which lanes it has to send."""

    save: SaveRef
    key: str
    num_shards: int
    lanes: tuple[Lane, ...]
