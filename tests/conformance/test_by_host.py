"""Shards that end where hosts end: three hosts fill theirs apart, and TensorFlow reads what comes of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ckptd.engine.hosts.messages import AgentLife, Receipt
from ckptd.engine.lanes.elsewhere import RemoteShard
from ckptd.engine.lanes.filled_shard import FilledShard
from ckptd.engine.lanes.host_share import crossing_bytes, part_of
from ckptd.engine.lanes.merge import merge
from ckptd.engine.lanes.plan import plan
from ckptd.engine.layout import Layout
from ckptd.format.names import index_key, shard_key
from ckptd.storage.base import Store
from ckptd.storage.locations import open_store
from tests.conformance.bundle_files import BundleReader
from tests.fakes.ranks import six_on_three_hosts

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

PREFIX = "model.ckpt-7"


def shard_of(store: Store, layout: Layout, shard: int) -> FilledShard:
    """Begin a shard; in a real save its lanes tell the save that they have ended, and these tell nothing."""
    writer = store.create(shard_key(PREFIX, shard, layout.num_shards), layout.shard_sizes[shard])
    filled = FilledShard(layout, shard, writer, now=lambda: 0.0, on_end=lambda *_: None, on_failure=lambda _: None)
    filled.begin()
    return filled


def told_by(host: str, layout: Layout, shard: int, filled: FilledShard, store: Store) -> RemoteShard:
    """Return the shard as the coordinator knows it, which only has the receipt."""
    stat = store.stat(filled.key)
    remote = RemoteShard(layout, shard, filled.key, "s1", durability=store.durability, now=lambda: 0.0)
    sums = filled.crcs.astype("<u4").tobytes()
    life = AgentLife(host, f"{host}-1")
    assert remote.take(Receipt("s1", life, shard, stat.key, stat.size_bytes, stat.version, store.durability, sums))
    return remote


def test_shards_of_three_hosts_make_the_checkpoint_that_one_process_writes_and_tensorflow_reads_it(
    tmp_path: Path,
) -> None:
    ranks, hosts = six_on_three_hosts()
    layout = plan(ranks.manifests, 1, 4096, hosts=hosts)
    here, apart = (open_store(str(tmp_path / name)) for name in ("here", "apart"))
    indices = []
    for store in (here, apart):
        crcs = np.zeros(len(layout.segment_size), np.uint32)
        for shard, host in enumerate(layout.shard_hosts):
            of_host = part_of(layout, host)
            seen = layout if store is here else of_host.layout
            filled = shard_of(store, seen, shard)
            ranks.fill(seen, filled.lanes.values())
            assert filled.finish()
            told = filled if store is here else told_by(host, layout, shard, filled, apart)
            crcs[told.rows] = told.crcs
        indices.append(merge(layout, crcs))
        store.put(index_key(PREFIX), indices[-1])
    assert indices[0] == indices[1]
    assert layout.shard_hosts == ("a", "b", "c")
    for shard in range(3):
        key = shard_key(PREFIX, shard, 3)
        assert apart.get(key) == here.get(key)
    assert 0 < crossing_bytes(layout, hosts) < layout.size_bytes

    theirs, ours = tf.train.load_checkpoint(str(tmp_path / "apart" / PREFIX)), BundleReader(tmp_path / "apart" / PREFIX)
    assert sorted(theirs.get_variable_to_shape_map()) == sorted(ranks.arrays)
    for name, array in ranks.arrays.items():
        assert np.array_equal(theirs.get_tensor(name), array), name
        assert np.array_equal(ours.read(name), array), name
