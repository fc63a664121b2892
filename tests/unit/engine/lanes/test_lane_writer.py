"""A lane: bytes in any chunking, repeated at will, land where the plan says, with the checksum of every segment."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptd.engine.lanes.lane_writer import LaneWriter
from ckptd.engine.lanes.plan import plan
from ckptd.engine.manifest import Manifest, Part
from ckptd.errors import CorruptionError, InvalidRequestError, SessionAbortedError
from ckptd.format.crc32c import crc32c
from ckptd.format.slices import Box
from ckptd.storage.memory import MemoryStore

SIZES = (5, 16, 1, 40)


class Sender:
    """Rank 0's tensors: its lane's bytes, and the lane's writer over a fresh object."""

    def __init__(self) -> None:
        mine = Manifest.of([Part(f"t{n}", 4, (size,), Box((0,), (size,)), size) for n, size in enumerate(SIZES)])
        # Another rank's part of a joined tensor lies between ours, so that our segments are not all neighbours.
        halves = [Part("h", 17, (4,), Box((2 * rank,), (2,)), 4) for rank in (0, 1)]
        manifests = [
            Manifest.of([*(mine_part(mine, n) for n in range(len(SIZES))), halves[1]]),
            Manifest.of([halves[0]]),
        ]
        self.layout = plan(manifests, 1)
        self.rows = self.layout.lane_segments[0, 0]
        self.data = np.random.default_rng(1).bytes(int(self.layout.segment_size[self.rows].sum()))
        self.ended = 0
        self.failures = []
        self.store = MemoryStore()
        self.writer = self.store.create("shard", self.layout.shard_sizes[0])
        self.lane = LaneWriter(
            self.layout, 0, 0, self.writer, now=lambda: 0.0, on_end=self.end_seen, on_failure=self.failures.append
        )

    def end_seen(self) -> None:
        self.ended += 1

    def send(self, begin: int, end: int) -> int:
        data = memoryview(self.data)[begin:end]
        return self.lane.write(begin, data, crc32c(data))

    def crcs(self) -> bytes:
        ends = np.cumsum(self.layout.segment_size[self.rows]).tolist()
        return b"".join(
            crc32c(self.data[begin:end]).to_bytes(4, "little") for begin, end in zip([0, *ends[:-1]], ends, strict=True)
        )

    def stored_as_planned(self) -> bool:
        self.writer.finish()
        shard, at = self.store.get("shard"), 0
        for row in self.rows:
            offset, size = int(self.layout.segment_offset[row]), int(self.layout.segment_size[row])
            if shard[offset : offset + size] != self.data[at : at + size]:
                return False
            at += size
        return True


def mine_part(manifest: Manifest, row: int) -> Part:
    return Part(manifest.names[row], 4, manifest.full_shapes[row], manifest.box(row), int(manifest.sizes[row]))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, sum(SIZES) + 4), max_size=12), st.data())
def test_chunks_cut_anywhere_and_repeated_land_once_where_the_plan_says(cuts, data):
    sender = Sender()
    edges = sorted({0, len(sender.data), *(min(cut, len(sender.data)) for cut in cuts)})
    for begin, end in itertools.pairwise(edges):
        assert sender.send(begin, end) == end
        again = data.draw(st.integers(0, begin))
        assert sender.send(again, end) == end
    assert sender.lane.end(0, sender.crcs(), last=True)
    assert sender.ended == 1
    assert sender.stored_as_planned()


def test_a_chunk_that_overlaps_what_arrived_adds_only_what_is_new():
    sender = Sender()
    sender.send(0, 10)
    assert sender.send(4, 30) == 30
    assert sender.send(30, len(sender.data)) == len(sender.data)
    assert sender.lane.end(0, sender.crcs(), last=True)
    assert sender.stored_as_planned()


def test_checksums_may_come_in_several_messages_and_again():
    sender = Sender()
    sender.send(0, len(sender.data))
    crcs = sender.crcs()
    assert not sender.lane.end(0, crcs[:8], last=False)
    assert sender.lane.end(2, crcs[8:], last=True)
    assert sender.lane.end(0, crcs, last=True)
    assert sender.ended == 1


def test_damage_on_the_way_is_noticed_and_the_chunk_may_be_sent_again():
    sender = Sender()
    with pytest.raises(CorruptionError, match="damaged on the way at byte 0"):
        sender.lane.write(0, memoryview(b"x" * 5), crc32c(b"y" * 5))
    assert sender.lane.received == 0
    assert sender.send(0, 5) == 5


def test_a_tensor_that_changed_after_capture_is_named():
    sender = Sender()
    sender.send(0, len(sender.data))
    crcs = bytearray(sender.crcs())
    crcs[5] ^= 1
    with pytest.raises(CorruptionError, match="tensor 't1' of rank 0 is not what was captured"):
        sender.lane.end(0, bytes(crcs), last=True)
    assert sender.ended == 0
    assert [type(error) for error in sender.failures] == [CorruptionError]


def test_gaps_ends_and_counts_are_checked():
    sender = Sender()
    with pytest.raises(InvalidRequestError, match="out of turn"):
        sender.send(1, 5)
    with pytest.raises(InvalidRequestError, match="too early"):
        sender.lane.end(0, sender.crcs(), last=True)
    sender.send(0, len(sender.data))
    data = memoryview(b"z")
    with pytest.raises(InvalidRequestError, match="out of turn"):
        sender.lane.write(len(sender.data), data, crc32c(data))
    for wrong in (sender.crcs()[:-4], sender.crcs() + b"1234"):
        with pytest.raises(InvalidRequestError, match="wrong number of checksums"):
            sender.lane.end(0, wrong, last=True)


def test_a_closed_lane_takes_nothing_and_says_why():
    sender = Sender()
    sender.lane.close(SessionAbortedError("rank 3 is gone"))
    with pytest.raises(SessionAbortedError, match="rank 3 is gone"):
        sender.send(0, 5)


class BorrowingWriter:
    """A store's writer that would send bytes from where they lie."""

    def __init__(self, key, size_bytes):
        self.key, self.size_bytes = key, size_bytes
        self.data = bytearray(size_bytes)
        self.borrowed = []

    def write(self, offset, data):
        self.data[offset : offset + len(data)] = data

    def borrow(self, offset, data, crc):
        self.borrowed.append((offset, data, crc))

    def finish(self):
        raise NotImplementedError

    def abort(self):
        raise NotImplementedError


@pytest.mark.parametrize("may_borrow", [True, False])
def test_memory_that_is_used_again_at_once_is_copied_by_writers_that_borrow(may_borrow):
    layout = plan([Manifest.of([Part("t", 4, (40,), Box((0,), (40,)), 40)])], 1)
    writer = BorrowingWriter("shard", layout.shard_sizes[0])
    lane = LaneWriter(layout, 0, 0, writer, now=lambda: 0.0, on_end=lambda: None, on_failure=lambda _: None)
    data = bytearray(range(40))
    is_to_be_summed = lane.take(0, memoryview(data), may_borrow=may_borrow)
    assert is_to_be_summed is not may_borrow
    assert bool(writer.borrowed) is may_borrow
    if is_to_be_summed:
        lane.sum(0, memoryview(data))
        assert writer.data[:40] == bytes(range(40))
    lane.finish(np.array([crc32c(data)], np.uint32))


def test_a_sender_that_the_daemon_holds_back_is_not_late():
    sender = Sender()
    times = iter([5.0, 9.0])
    lane = LaneWriter(
        sender.layout, 0, 0, sender.writer, now=lambda: next(times), on_end=sender.end_seen, on_failure=print
    )
    assert lane.progressed_at == 5.0
    lane.excuse()
    assert lane.progressed_at == 9.0
