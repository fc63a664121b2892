"""Writing a checkpoint over another one of the same prefix, so that at every moment one of the two is whole.

A Saver's files have fixed names, and two files cannot be replaced in one step. So when data of the final name is in
use, the new checkpoint is first put in place under another shard count, by replacing the index. The old data is then
unused, and the same is done again under the final name. A crash leaves the old checkpoint or the new one, perhaps
with files beside it that no index refers to; the next save of the prefix removes them, and so does removing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from ckptd.client.capture.snapshot import Snapshot
from ckptd.client.paths.state_functions import meta_graph_key, shard_keys_in_place
from ckptd.client.paths.writing import write_shards
from ckptd.engine.catalog.commit import Files, commit
from ckptd.engine.catalog.deleting import index_in_place
from ckptd.engine.lanes.merge import merge
from ckptd.engine.lanes.plan import plan
from ckptd.engine.layout import Layout
from ckptd.errors import CkptdError, ConflictError, NotPermittedError, StorageFullError
from ckptd.format.names import check_meta_suffix, index_key, shard_key
from ckptd.storage.base import Store
from ckptd.storage.holds import unread


def write_over(
    store: Store,
    key: str,
    snapshot: Snapshot,
    meta_graph: bytes | None = None,
    meta_graph_suffix: str = "meta",
    *,
    num_shards: int = 1,
) -> None:
    """Write a checkpoint of so many shards whether or not there is one already; durable and complete on return.

    Writing over one takes the bytes twice. Only the caller writes this prefix.
    """
    check_meta_suffix(meta_graph_suffix)
    layout = plan([snapshot.manifest], num_shards)
    index = index_in_place(store, index_key(key))
    meta_key = meta_graph_key(key, meta_graph_suffix)
    if (index is not None and index.num_shards in (num_shards, None)) or _is_read(store, key, layout):
        passing = replace(layout, shard_sizes=(*layout.shard_sizes, 0))
        while (index is not None and index.num_shards == passing.num_shards) or _is_read(store, key, passing):
            passing = replace(passing, shard_sizes=(*passing.shard_sizes, 0))
        _write(store, key, passing, snapshot, meta_key, meta_graph)
        if _is_read(store, key, layout):
            return  # the old data has the names that the new one should have: the next save moves it
    _write(store, key, layout, snapshot, meta_key, meta_graph)


def _take_back(store: Store, key: str, shards: Sequence[str], beside: Sequence[str]) -> None:
    """Delete the data of a save that could not be committed, which would take space on a full disk."""
    try:
        index = index_in_place(store, index_key(key))
    except ConflictError:  # a directory has its name
        index = None
    if index is None or index.num_shards not in (len(shards), None):  # otherwise it may be in place after all
        store.delete(shards)
    if index is None:
        store.delete(beside)


def _is_read(store: Store, key: str, layout: Layout) -> bool:
    """Say whether any reader has data open that is in place under this layout's names."""
    with unread(store, [shard_key(key, 0, layout.num_shards)]) as is_unread:
        return not is_unread


def _write(store: Store, key: str, layout: Layout, snapshot: Snapshot, meta_key: str, meta_graph: bytes | None) -> None:
    """Put the checkpoint in place under this layout's shard count, which the index in place does not refer to.

    What is being read of the old one stays.
    """
    ours = [shard_key(key, shard, layout.num_shards) for shard in range(layout.num_shards)]
    in_place = shard_keys_in_place(store, key)
    left_over = [each for each in ours if each in in_place]
    if left_over:
        # Crash here: the checkpoint in place, and files that no index refers to.
        store.delete(left_over)
    crcs = write_shards(store, key, layout, snapshot)
    # Crash here: the checkpoint in place, and the whole data of the new one, that no index refers to.
    try:
        commit(store, Files(index_key(key), merge(layout, crcs), meta_key, meta_graph, overwrite=True))
    except (ConflictError, NotPermittedError, StorageFullError):  # after other errors it may still get into place
        with suppress(CkptdError):
            _take_back(store, key, ours, [] if in_place or meta_graph is None else [meta_key])
        raise
    superseded = [each for each in in_place if each not in ours]
    if superseded:
        with unread(store, superseded) as is_unread:
            if is_unread:
                # Crash here: the new checkpoint, and the data of the old one, that no index refers to.
                store.delete(superseded)
