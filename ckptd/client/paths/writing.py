"""Save a single checkpoint from one process, without a run: no state file, no retention."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptd.client.capture.buffers import RoomPool
from ckptd.client.capture.snapshot import Snapshot
from ckptd.client.paths.latest import Path, as_text, checkpoint_exists
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.lanes.feeding import first_sums, runs_of, sum_rows
from ckptd.engine.lanes.merge import merge
from ckptd.engine.lanes.plan import plan
from ckptd.engine.layout import Layout
from ckptd.errors import ConflictError, InvalidRequestError
from ckptd.format.names import index_key, shard_key, step_of
from ckptd.storage.base import ObjectWriter, Store
from ckptd.storage.locations import split_prefix

_CHUNK_BYTES = 4 << 20


def save_checkpoint(prefix: Path, arrays: Mapping[str, Any], num_shards: int = 1) -> Checkpoint:
    """Write `arrays` as the checkpoint `prefix`, a path or a store URL; durable and complete on return.

    Nothing but the checkpoint is written: no state file names it, and no retention removes it. Takes what
    `Checkpointer.save` takes, and a copy of it in memory.

    Raises:
        ConflictError: when the checkpoint, or one of its files, is there already. Nothing is changed.
        InvalidRequestError: naming the tensor that can't be saved, or when slices leave gaps.
    """
    if num_shards < 1:
        raise InvalidRequestError("a checkpoint has one shard at least", actual=num_shards)
    began_at = time.monotonic()
    store, key = split_prefix(as_text(prefix))
    if checkpoint_exists(prefix):
        raise ConflictError("there is a checkpoint already", key=store.location(key))
    snapshot = Snapshot.take(arrays, RoomPool())
    layout = plan([snapshot.manifest], num_shards)
    _write(store, key, layout, snapshot)
    return Checkpoint(
        prefix=store.location(key),
        step=step_of(key),
        size_bytes=layout.size_bytes,
        num_shards=layout.num_shards,
        saved_at=time.time(),
        duration_s=time.monotonic() - began_at,
        durability=store.durability,
    )


def _write(store: Store, key: str, layout: Layout, snapshot: Snapshot) -> None:
    """Write shards, then the index that makes them a checkpoint; leave nothing behind when that fails."""
    crcs = write_shards(store, key, layout, snapshot)
    try:
        # Crash here: shards that no index names, which nothing reads.
        store.put(index_key(key), merge(layout, crcs))
    except BaseException:
        store.delete([shard_key(key, shard, layout.num_shards) for shard in range(layout.num_shards)])
        raise


def write_shards(store: Store, key: str, layout: Layout, snapshot: Snapshot) -> NDArray[np.uint32]:
    """Write every shard, durable on return; return the checksum of every segment. Leaves nothing when that fails."""
    keys = [shard_key(key, shard, layout.num_shards) for shard in range(layout.num_shards)]
    writers: list[ObjectWriter] = []
    finished: list[str] = []
    try:
        for shard, size in enumerate(layout.shard_sizes):
            writers.append(store.create(keys[shard], size))
        crcs = _fill(layout, snapshot, writers)
        for writer in writers:
            writer.finish()
            finished.append(writer.key)
    except BaseException:
        for writer in writers[len(finished) :]:
            writer.abort()
        store.delete(finished)
        raise
    return crcs


def _fill(layout: Layout, snapshot: Snapshot, writers: Sequence[ObjectWriter]) -> NDArray[np.uint32]:
    """Write every shard's bytes, straight from the snapshot; return the checksum of every segment."""
    for literal in layout.literals:
        writers[literal.shard].write(literal.offset, literal.data)
    crcs = np.zeros(len(layout.segment_size), np.uint32)
    begins, sums = first_sums(snapshot.manifest), snapshot.sum()
    for (_, shard), segments in layout.lane_segments.items():
        for run in runs_of(layout, segments, snapshot.offsets):
            for at, size in run.blocks():
                begin = run.memory_offset + at
                writers[shard].write(run.shard_offset + at, snapshot.memory[begin : begin + size])
        crcs[segments] = sums[sum_rows(layout, segments, begins)]
    return crcs
