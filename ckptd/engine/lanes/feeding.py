"""Captured memory → one lane of a shard, behind the rank that captures it.

Bytes go to the shard in blocks, each as soon as it is in place. A disk writes a block, and then it is summed: what the
rank changes meanwhile, it changes before the sum is taken, and the sum no longer is that of the capture. While one
block is summed, by a thread of the lane's own, the disk has the next. A bucket is sent a block from where it is, and
so it is summed before: the bucket itself refuses other bytes than those.

While ranks capture, nothing is summed and one lane at a time writes (see `standstill`). Captures that take only a
moment are left alone altogether, as following them would gain less than it takes from the copies. Training goes on
after that, and sums have time until the disk is done: the rank's own come first, and few cores sum at once.

What was staged is different. Training can reach it, and might change it by mistake at any moment, and back again. So
its rank has taken its sums before training went on, and here each block is copied to private memory first: what is
summed is what is written.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np

from ckptd import threads
from ckptd.engine.lanes.capture import LONG_BYTES, Capture, Stretch
from ckptd.engine.lanes.geometry import first_of_runs
from ckptd.engine.lanes.lane_writer import LaneWriter
from ckptd.engine.lanes.standstill import Standstill, wait_sealed, wait_summed
from ckptd.engine.layout import Column, Layout, Rows
from ckptd.engine.manifest import STRING, Manifest
from ckptd.errors import CkptdError
from ckptd.storage.local.around_cache import UNIT_BYTES, address_of, empty_at

if TYPE_CHECKING:
    from typing_extensions import Buffer

BLOCK_BYTES = 8 << 20
"""What is written at once; blocks begin at multiples of it in the shard."""

SHORT_BYTES = 384 << 20  # of all that a rank captures: copied in about 0.1 s, half as long again if a disk follows
_CORES_PER_SUM = 4  # of which one at most is taken from training
_summing = threading.BoundedSemaphore(max(1, (os.cpu_count() or 1) // _CORES_PER_SUM))
_POLL_S = 0.0005  # how long a writer that has caught up with the capture sleeps


@dataclass(frozen=True, slots=True)
class SegmentRun:
    """Segments that are side by side in the lane, in memory and in the shard alike. Offsets and size in bytes."""

    lane_offset: int
    memory_offset: int
    shard_offset: int
    size_bytes: int

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield begin, within the run, and size of what is written at once."""
        at = 0
        while at < self.size_bytes:
            size = min(BLOCK_BYTES - (self.shard_offset + at) % BLOCK_BYTES, self.size_bytes - at)
            yield at, size
            at += size


def runs_of(layout: Layout, segments: Rows, offsets: Column) -> list[SegmentRun]:
    """Return the runs that make up a lane; `offsets` is where each part of the sender is in its memory."""
    sizes, shard_offsets = layout.segment_size[segments], layout.segment_offset[segments]
    memory_offsets = offsets[layout.segment_item[segments]] + layout.segment_item_offset[segments]
    lane_offsets = np.cumsum(sizes) - sizes
    first = first_of_runs(sizes, memory_offsets, shard_offsets)
    return [
        SegmentRun(*numbers)
        for numbers in zip(
            lane_offsets[first].tolist(),
            memory_offsets[first].tolist(),
            shard_offsets[first].tolist(),
            np.add.reduceat(sizes, first).tolist(),
            strict=True,
        )
    ]


def stretches_of(runs: Sequence[SegmentRun], shard_key: str) -> list[Stretch]:
    """Describe runs as parts of a shard."""
    return [Stretch(shard_key, run.shard_offset, run.memory_offset, run.size_bytes) for run in runs]


def first_sums(manifest: Manifest) -> Column:
    """Return, per part, where its checksums begin among those of a capture; one more at the end."""
    is_string = np.array(manifest.dtypes, np.int64)[manifest.tensor] == STRING
    counts = 1 + is_string.astype(np.int64)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def sum_rows(layout: Layout, segments: Rows, begins: Column) -> Column:
    """Return, per segment, which checksum of the sender's capture is its own; `begins` is of `first_sums`."""
    # Of strings, what does not begin the part is what follows its lengths.
    return begins[layout.segment_item[segments]] + (layout.segment_item_offset[segments] > 0)


def feed(
    lane: LaneWriter, runs: Sequence[SegmentRun], capture: Capture, sum_rows: Column, standstill: Standstill
) -> None:
    """Write a lane from captured memory until it has ended; its failures reach the save through the lane.

    `sum_rows` says, per segment of the lane, which checksum of the capture is its own.
    """

    def check() -> None:
        capture.check()
        lane.check_open()

    # Nothing waits for the sums of a long capture before its last block is written.
    has_time = len(capture.memory) >= LONG_BYTES

    def sum_block(position: int, data: memoryview) -> None:
        standstill.wait(check)
        if has_time:
            wait_summed(capture, check)
        with _summing if has_time else nullcontext():
            lane.sum(position, data)

    try:
        memory = memoryview(cast("Buffer", capture.memory))
        summed: list[Future[None]] = []
        summing = threads.Pool(1, "ckptd-sum")
        if len(capture.memory) <= SHORT_BYTES or capture.is_staged:
            wait_sealed(capture, check)
            standstill.wait(check)
        if capture.is_staged:
            _feed_copies(lane, runs, memory, summing)
            runs = ()
        try:
            for run in runs:
                for at, size in run.blocks():
                    begin = run.memory_offset + at
                    data = memory[begin : begin + size]
                    while capture.available < begin + size:
                        check()
                        time.sleep(_POLL_S)
                    with standstill.turn():
                        is_taken = lane.take(run.lane_offset + at, data)
                    if is_taken:
                        summed.append(summing.call(partial(sum_block, run.lane_offset + at, data)))
        finally:
            summing.settle()
        for each in summed:
            each.result()
        wait_summed(capture, check)
        sums = capture.sums()
        assert sums is not None
        lane.finish(sums[sum_rows] if len(sums) else None)
    except CkptdError as error:
        lane.fail(error)
    except Exception as failure:  # this thread has no caller: the save must not wait for it
        bug = CkptdError(f"a bug in ckptd ended the writing of a lane: {failure!r}")
        bug.__cause__ = failure
        lane.fail(bug)


def _feed_copies(lane: LaneWriter, runs: Sequence[SegmentRun], memory: memoryview, summing: threads.Pool) -> None:
    """Write and sum copies of the blocks; while one is written the next is copied and summed."""
    copies = [empty_at(BLOCK_BYTES + UNIT_BYTES) for _ in range(2)]

    def prepare(number: int, position: int, data: memoryview) -> tuple[int, memoryview]:
        phase = address_of(data) % UNIT_BYTES  # so that a disk can be written from it as well as from the original
        copy = copies[number % 2][phase : phase + len(data)]
        np.copyto(copy, np.frombuffer(data, np.uint8))
        lane.sum(position, copy.data)
        return position, copy.data

    blocks = ((run.lane_offset + at, run.memory_offset + at, size) for run in runs for at, size in run.blocks())
    upcoming: Future[tuple[int, memoryview]] | None = None
    for number, (position, begin, size) in enumerate(blocks):
        prepared = None if upcoming is None else upcoming.result()
        upcoming = summing.call(partial(prepare, number, position, memory[begin : begin + size]))
        if prepared is not None:
            lane.take(*prepared, may_borrow=False)
    if upcoming is not None:
        lane.take(*upcoming.result(), may_borrow=False)
