"""Real TensorFlow reads what `Checkpointer` and `save_checkpoint` write, and finds what they publish."""

from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import pytest

import ckptd
from ckptd import Checkpointer, Slice
from ckptd.format import dtypes
from tests.conformance.bundle_files import sample
from tests.unit.client.served import Daemon

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

BOUND_S = 60.0
STORABLE = [one for one in dtypes.ALL if one.array is not None and not one.is_variant and "q" not in one.name]
ARRAYS = {
    **{f"{dtype.name}/{shape}": sample(dtype, shape) for dtype in STORABLE for shape in ((), (3, 5), (0, 2))},
    "step": 1200,
    "words": ["a", "", "c" * 300],
    "qint8": sample(dtypes.by_name("qint8"), (4,)).view([("qint8", "i1")]),
}


def assert_tensorflow_reads(prefix, arrays):
    reader = tf.train.load_checkpoint(prefix)
    assert sorted(reader.get_variable_to_shape_map()) == sorted(arrays)
    for name, array in arrays.items():
        read = np.asarray(reader.get_tensor(name))
        expected = np.asarray(array)
        if expected.dtype.kind in "UO":
            as_bytes = [one if isinstance(one, bytes) else one.encode() for one in expected.ravel().tolist()]
            assert read.astype(object).ravel().tolist() == as_bytes, name
        else:
            assert read.shape == expected.shape, name
            assert read.tobytes() == expected.tobytes(), name


@pytest.mark.parametrize("num_shards", [1, 4])
def test_tensorflow_reads_what_save_checkpoint_wrote(tmp_path, num_shards):
    done = ckptd.save_checkpoint(str(tmp_path / "m-1"), ARRAYS, num_shards=num_shards)
    assert_tensorflow_reads(done.prefix, ARRAYS)


def test_both_readers_tell_the_same_of_what_we_wrote(tmp_path):
    prefix = ckptd.save_checkpoint(str(tmp_path / "m-1"), ARRAYS, num_shards=2).prefix
    ours, theirs = ckptd.load_checkpoint(prefix), tf.train.load_checkpoint(prefix)
    assert ours.debug_string() == theirs.debug_string()
    assert ours.get_variable_to_shape_map() == theirs.get_variable_to_shape_map()
    for name in ours:
        mine, other = ours.get_tensor(name), theirs.get_tensor(name)
        assert np.shape(mine) == np.shape(other), name
        assert type(mine) is type(other), name


def test_tensorflow_follows_a_run_in_direct_mode(tmp_path):
    with Checkpointer(str(tmp_path), "runs/mnist", max_to_keep=2) as ckpt:
        for step in (1, 2, 3):
            done = ckpt.save(step, {**ARRAYS, "step": step}).result(BOUND_S)
            directory = str(tmp_path / "runs/mnist")
            assert tf.train.latest_checkpoint(directory) == done.prefix == ckptd.latest_checkpoint(directory)
            assert_tensorflow_reads(directory, {**ARRAYS, "step": step})
        state = tf.train.get_checkpoint_state(directory)
        mine = ckptd.get_checkpoint_state(directory)
        assert list(state.all_model_checkpoint_paths) == list(mine.all_model_checkpoint_paths)


JOINED_BY_US = [dtype.name for dtype in STORABLE if not dtype.joinable]
JOINED_BY_TENSORFLOW = [dtype.name for dtype in STORABLE if dtype.joinable]


def test_tensorflow_reads_whole_tensors_that_four_ranks_hold_rows_of(tmp_path):
    full = {f"rows/{name}": sample(dtypes.by_name(name), (10, 3)) for name in [*JOINED_BY_US, *JOINED_BY_TENSORFLOW]}
    columns = {f"columns/{name}": sample(dtypes.by_name(name), (4, 8)) for name in JOINED_BY_TENSORFLOW}
    bias = np.arange(5, dtype=ml_dtypes.bfloat16)
    cuts = [0, 2, 5, 9, 10]
    daemon = Daemon(tmp_path / "root")
    try:
        ranks = [Checkpointer(daemon.address, "r", rank=rank, world_size=4, timeout_s=BOUND_S) for rank in range(4)]
        pending = []
        for rank, ckpt in enumerate(ranks):
            low, high = cuts[rank], cuts[rank + 1]
            state = {name: Slice(array[low:high], array.shape, (low, 0)) for name, array in full.items()}
            for name, array in columns.items():
                state[name] = Slice(array[:, 2 * rank : 2 * rank + 2], array.shape, (0, 2 * rank))
            pending.append(ckpt.save(5, {**state, "bias": bias}))
        done = {one.result(BOUND_S) for one in pending}.pop()
        for ckpt in ranks:
            ckpt.close()
    finally:
        daemon.stop()
    assert done.num_shards > 1
    assert_tensorflow_reads(done.prefix, {**full, **columns, "bias": bias})
    assert ckptd.verify(done.prefix).ok


def test_we_restore_what_tensorflow_saved_and_our_saver_reads_ours(tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {
            "w": tf.compat.v1.get_variable("w", initializer=tf.constant([[1.0, 2.0], [3.0, 4.0]]), use_resource=False),
            "n": tf.compat.v1.get_variable("n", initializer=tf.constant(7, tf.int64), use_resource=False),
        }
        saver = tf.compat.v1.train.Saver(variables)
        session.run(tf.compat.v1.global_variables_initializer())
        saver.save(session, str(tmp_path / "theirs"), global_step=1)
        with Checkpointer(str(tmp_path.parent), tmp_path.name) as ckpt:
            restored = ckpt.restore()
            assert restored["w"].tolist() == [[1, 2], [3, 4]]
            assert restored["n"] == 7
        ours = ckptd.save_checkpoint(str(tmp_path / "ours-2"), {"w": np.full((2, 2), 5.0, np.float32), "n": 9}).prefix
        saver.restore(session, ours)
        assert session.run(variables["w"]).tolist() == [[5, 5], [5, 5]]
        assert session.run(variables["n"]) == 9
