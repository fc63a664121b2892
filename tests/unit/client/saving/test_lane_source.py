"""A lane's chunks are its segments' bytes in order; every checksum agrees with them, wherever sending starts."""

from __future__ import annotations

import numpy as np
import pytest

from ckptd.client.capture.buffers import RoomPool
from ckptd.client.capture.snapshot import Snapshot
from ckptd.client.saving.lane_source import CRCS_PER_PART, LaneSource
from ckptd.engine.layout import Lane
from ckptd.format import crc32c

ARRAYS = {
    "a": np.arange(100, dtype=np.uint8),
    "s": ["xyz", "", "w" * 20],
    "e": np.zeros(0),
    "b": np.arange(7, dtype=np.float64),
}
SEGMENTS = [(0, 10, 50), (1, 0, 3), (1, 7, 23), (2, 0, 0), (3, 0, 56), (0, 0, 10), (2, 0, 0)]


@pytest.fixture
def snapshot():
    return Snapshot.take(ARRAYS, RoomPool())


def lane(segments):
    columns = np.array(segments, np.int64).reshape(-1, 3)
    return Lane(0, "m.data", (), int(columns[:, 2].sum()), columns[:, 0], columns[:, 1], columns[:, 2])


def segment_bytes(snapshot, segment):
    item, offset, size = segment
    begin = int(snapshot.offsets[item]) + offset
    return bytes(snapshot.memory[begin : begin + size])


@pytest.mark.parametrize("chunk_bytes", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("start", [0, 1, 49, 50, 76, 141, 142])
def test_chunks_carry_the_lane_from_any_position(snapshot, chunk_bytes, start):
    source = LaneSource(lane(SEGMENTS), snapshot, chunk_bytes)
    whole = b"".join(segment_bytes(snapshot, segment) for segment in SEGMENTS)
    assert source.size_bytes == len(whole) == 142
    at = start
    for chunk in source.chunks(start):
        data = bytes(chunk.joined())
        assert chunk.position == at
        assert data == whole[at : at + chunk_bytes]
        assert chunk.crc32c == crc32c.crc32c(data)
        at += len(data)
    assert at == 142
    assert crcs_of(source) == [crc32c.crc32c(segment_bytes(snapshot, segment)) for segment in SEGMENTS]


def crcs_of(source):
    return [crc for _, packed, _ in source.segment_crcs() for crc in np.frombuffer(packed, "<u4").tolist()]


def test_checksums_survive_a_break_in_the_middle_of_a_segment(snapshot):
    source = LaneSource(lane(SEGMENTS), snapshot, 16)
    expected = [crc32c.crc32c(segment_bytes(snapshot, segment)) for segment in SEGMENTS]
    for stop_after, go_on_at in ((2, 32), (1, 5), (3, 100), (0, 142)):
        chunks = source.chunks(go_on_at)
        for _ in range(stop_after):
            next(chunks)
    assert crcs_of(source) == expected


def test_a_lane_without_segments_still_ends(snapshot):
    source = LaneSource(lane([]), snapshot, 16)
    assert list(source.chunks()) == []
    assert list(source.segment_crcs()) == [(0, b"", True)]


def test_many_checksums_are_cut_into_messages(snapshot):
    count = CRCS_PER_PART + 3
    source = LaneSource(lane([(0, 0, 1)] * count), snapshot, 1 << 20)
    parts = list(source.segment_crcs())
    assert [(first, len(packed) // 4, last) for first, packed, last in parts] == [
        (0, CRCS_PER_PART, False),
        (CRCS_PER_PART, 3, True),
    ]


def test_a_chunk_of_one_segment_is_not_copied(snapshot):
    source = LaneSource(lane([(0, 0, 100)]), snapshot, 32)
    chunk = next(source.chunks())
    assert chunk.joined() is chunk.views[0]
