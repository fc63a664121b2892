"""A host's shard: begun as the coordinator says, and made durable. Blocking work on the store."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ckptd.engine.clock import Clock
from ckptd.engine.hosts.messages import AgentLife, Go, Receipt
from ckptd.engine.lanes.filled_shard import FilledShard
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError
from ckptd.format.crc32c import crc32c
from ckptd.storage.base import Store
from ckptd.storage.capabilities import PacedStore
from ckptd.storage.pace import Pace

MOST_SLICES = 1 << 19
"""Of one host in one save: their checksums travel in one message, beside those of another save."""


def remove_begun(store: Store, go: Go) -> None:
    """Remove what a former life of this agent, which had not sealed it, left of a shard."""
    directory, _, _ = go.key.rpartition("/")
    store.sweep_unfinished(directory, given_up=[go.key], only=[go.key])


def fill(
    store: Store,
    go: Go,
    clock: Clock,
    pace: Pace,
    *,
    on_end: Callable[[], None],
    on_failure: Callable[[CkptdError], None],
) -> FilledShard:
    """Begin the shard that a host was told to write, at the pace that it was told."""
    if go.share is None or go.shard is None:
        raise InvalidRequestError("the coordinator did not say which bytes go where", key=go.key)
    if len(go.share.segment_size) > MOST_SLICES:
        raise InvalidRequestError(
            "one host cannot write so many slices of one save: save fewer, larger tensors, or from more hosts",
            key=go.key,
            expected=f"at most {MOST_SLICES}",
            actual=len(go.share.segment_size),
        )
    pace.follow(go.limits, go.shard / max(1, go.num_shards))
    if isinstance(store, PacedStore):
        writer = store.create_paced(go.key, go.size_bytes, pace)
    else:
        writer = store.create(go.key, go.size_bytes)
    shard = FilledShard(
        go.share,
        go.shard,
        writer,
        now=clock.boot_s,
        on_end=lambda rank, number: on_end(),
        on_failure=on_failure,
    )
    shard.begin()
    return shard


def sums_there(store: Store, go: Go, life: AgentLife, shard: FilledShard) -> tuple[Receipt, Receipt | None] | None:
    """Make a shard durable; return our receipt, and that of what is there, which is ours unless the key was taken.

    None if it was closed meanwhile.
    """
    sums = np.asarray(shard.crcs, "<u4").tobytes()
    own = Receipt(go.save, life, go.shard or 0, go.key, go.size_bytes, "", store.durability, sums)
    try:
        if not shard.finish():
            return None
    except ConflictError:
        return own, _found(store, go, own)
    receipt = Receipt(
        own.save, life, own.shard, own.key, own.size_bytes, store.stat(go.key).version, own.durability, sums
    )
    return receipt, receipt


def _found(store: Store, go: Go, own: Receipt) -> Receipt | None:
    """Read what is at the key already: a former life of this agent may have sealed it."""
    layout = go.share
    assert layout is not None, "it was filled"
    try:
        stat = store.stat(go.key)
        sums = []
        for offset, size in zip(layout.segment_offset.tolist(), layout.segment_size.tolist(), strict=True):
            data = bytearray(size)
            store.read_into(go.key, offset, memoryview(data))
            sums.append(crc32c(data))
    except CkptdError:
        return None
    found = np.array(sums, "<u4").tobytes()
    return Receipt(own.save, own.by, own.shard, own.key, stat.size_bytes, stat.version, own.durability, found)
