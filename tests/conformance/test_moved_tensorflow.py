"""TensorFlow reads what was copied and imported, and merges bundles to the very files that we merge them to."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from ckptd.engine.offline.copying import copy_checkpoint
from ckptd.format.bundle_merge import merge_bundles
from ckptd.interchange.importing import import_checkpoint
from ckptd.interchange.npz import NpzSource
from ckptd.storage.local.local_store import LocalStore
from tests.conformance.bundle_files import FIXTURES, BundleWriter, halves
from tests.conformance.test_merge import assert_equal_files, carry_out, opened


@pytest.mark.parametrize("count", [1, 2, 5])
def test_tensorflow_reads_a_resharded_copy_as_it_reads_the_original(tmp_path: Path, count: int) -> None:
    for folder, key in (("sharded_saver", "model.ckpt-50"), ("object_max_shard", "ckpt-1"), ("dtypes", "ckpt")):
        original = FIXTURES / "tf" / folder
        copy_checkpoint(LocalStore(str(original)), key, LocalStore(str(tmp_path)), f"{folder}-1", num_shards=count)
        theirs, ours = (tf.train.load_checkpoint(str(path)) for path in (original / key, tmp_path / f"{folder}-1"))
        assert ours.get_variable_to_shape_map() == theirs.get_variable_to_shape_map()
        for name in theirs.get_variable_to_shape_map():
            expected, found = (np.asarray(reader.get_tensor(name)) for reader in (theirs, ours))
            if expected.dtype == object:  # whose bytes are pointers
                assert found.tolist() == expected.tolist()
            else:
                assert found.tobytes() == expected.tobytes()


def test_tensorflow_reads_an_import(tmp_path: Path) -> None:
    arrays = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.array([True]), "n/step": np.array(3)}
    np.savez(tmp_path / "m.npz", **arrays)
    store = LocalStore(str(tmp_path))
    import_checkpoint(NpzSource(store, "m.npz"), store, "m-3", num_shards=2)
    reader = tf.train.load_checkpoint(str(tmp_path / "m-3"))
    for name, array in arrays.items():
        assert np.array_equal(reader.get_tensor(name), array)


@pytest.mark.parametrize("seed", range(8))
def test_bundles_merge_to_the_files_that_tensorflow_merges_them_to(tmp_path: Path, seed: int) -> None:
    """Bundles of any shards, slices of one tensor in several of them, in any order."""
    rng = random.Random(seed)
    shared = np.arange(24, dtype=np.float32).reshape(4, 6)
    boxes = halves(shared.shape)
    prefixes = []
    for number in range(rng.randint(2, 5)):
        num_shards = rng.randint(1, 3)
        writer = BundleWriter(tmp_path / f"in-{number}", num_shards)
        for shard in range(num_shards):
            writer.add(f"{rng.choice('abc')}/{number}/{shard}", np.array([number, shard]), shard=shard)
        if boxes and rng.random() < 0.8:
            box = boxes.pop()
            part = shared[box.within(type(box).whole(shared.shape))]
            writer.add("emb", np.ascontiguousarray(part), shard=rng.randrange(num_shards), spec=f"4 6 {box}")
        prefixes.append(writer.finish())
    rng.shuffle(prefixes)
    carry_out(merge_bundles([opened(prefix) for prefix in prefixes], str(tmp_path / "ours")), tmp_path / "ours")
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[str(prefix) for prefix in prefixes],
        destination_prefix=str(tmp_path / "theirs" / "ours"),
        delete_old_dirs=False,
    )
    assert_equal_files(tmp_path / "ours", tmp_path / "theirs" / "ours")
