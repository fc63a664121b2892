"""An assignment ⇄ the messages in which it travels: the assignment, then each lane, cut below a megabyte."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ckptd.engine.layout import Assignment, Lane, LaneTransport
from ckptd.errors import InvalidRequestError
from ckptd.wire import convert
from ckptd.wire.v1 import save_pb2

ROWS_PER_PART = 30_000  # three numbers a row, ten bytes each at most: below 1 MiB with everything else
STREAMS_PER_LANE = 1

TRANSPORTS = {LaneTransport.STREAM: save_pb2.LANE_TRANSPORT_STREAM, LaneTransport.ARENA: save_pb2.LANE_TRANSPORT_ARENA}
"""How lanes travel, as messages say it."""


def assignment_to_wire(
    assignment: Assignment, stream_port: int = 0, differences: Iterable[save_pb2.Difference] = ()
) -> Iterator[save_pb2.DeclareReply]:
    """Yield the replies that tell a rank its assignment, in order.

    `stream_port`: of a stream process that takes its lanes as well; 0 for none.
    """
    yield save_pb2.DeclareReply(
        differences=differences,
        assignment=save_pb2.Assignment(
            save=convert.save_to_wire(assignment.save),
            key=assignment.key,
            num_shards=assignment.num_shards,
            num_lanes=len(assignment.lanes),
            stream_port=stream_port,
        ),
    )
    for lane in assignment.lanes:
        for start in range(0, max(len(lane.items), 1), ROWS_PER_PART):
            rows = slice(start, start + ROWS_PER_PART)
            yield save_pb2.DeclareReply(
                lane=save_pb2.LanePart(
                    shard=lane.shard,
                    key=lane.key,
                    writers=lane.writers,
                    transport=TRANSPORTS[lane.transport],
                    size_bytes=lane.size_bytes,
                    request_budget=STREAMS_PER_LANE,
                    items=lane.items[rows].tolist(),
                    item_offsets=lane.item_offsets[rows].tolist(),
                    sizes=lane.sizes[rows].tolist(),
                    last=rows.stop >= len(lane.items),
                )
            )


def assignment_from_wire(replies: Iterable[save_pb2.DeclareReply]) -> Assignment:
    """Put an assignment together again; `InvalidRequestError` when the replies end early or contradict each other."""
    replies = iter(replies)
    first = next(replies, None)
    if first is None or first.WhichOneof("kind") != "assignment":
        raise InvalidRequestError("a declaration was answered without an assignment")
    lanes: list[Lane] = []
    parts: list[save_pb2.LanePart] = []
    for reply in replies:
        if reply.WhichOneof("kind") != "lane":
            raise InvalidRequestError("an assignment was followed by something else than its lanes")
        parts.append(reply.lane)
        if reply.lane.last:
            lanes.append(_lane(parts, first.assignment.stream_port))
            parts = []
    if parts or len(lanes) != first.assignment.num_lanes:
        raise InvalidRequestError("an assignment came without all of its lanes", expected=first.assignment.num_lanes)
    return Assignment(
        save=convert.save_from_wire(first.assignment.save),
        key=first.assignment.key,
        num_shards=first.assignment.num_shards,
        lanes=tuple(lanes),
    )


def _lane(parts: list[save_pb2.LanePart], stream_port: int) -> Lane:
    first = parts[0]
    if any((part.shard, part.key, part.size_bytes) != (first.shard, first.key, first.size_bytes) for part in parts):
        raise InvalidRequestError("parts of two lanes are mixed up")
    transport = next(
        (ours for ours, theirs in TRANSPORTS.items() if theirs == (first.transport or save_pb2.LANE_TRANSPORT_STREAM)),
        None,
    )
    if transport is None or any(part.transport != first.transport for part in parts):
        raise InvalidRequestError("the daemon requests a transport that is unknown here", actual=first.transport)
    items, item_offsets, sizes = (
        np.array([number for part in parts for number in getattr(part, column)], np.int64)
        for column in ("items", "item_offsets", "sizes")
    )
    if not len(items) == len(item_offsets) == len(sizes) or int(sizes.sum()) != first.size_bytes:
        raise InvalidRequestError("a lane's segments do not add up to its size", expected=first.size_bytes)
    return Lane(
        first.shard,
        first.key,
        tuple(first.writers),
        first.size_bytes,
        items,
        item_offsets,
        sizes,
        transport,
        stream_port,
    )
