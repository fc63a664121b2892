"""Objects that TensorFlow and Keras 2 have written, restored through ckptd; and what ckptd writes, in their names."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.trackable.autotrackable import AutoTrackable

import ckptd
from ckptd.format import object_graph
from ckptd.tensorflow import CheckpointManager, load_weights, restore, save_weights
from tests.conformance import bundle_files

FIXTURES = bundle_files.FIXTURES / "tf"
OBJECTS = FIXTURES / "object_based"
KERAS_WEIGHTS = FIXTURES / "keras_weights" / "weights"
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def objects_like(reader, optimizer=None):
    """Return objects of the fixture's structure, all zero, and the variables by their key."""
    model, found = AutoTrackable(), {}

    def variable(key):
        found[key + VALUE] = tf.Variable(np.zeros_like(reader[key + VALUE]))
        return found[key + VALUE]

    model.w = variable("model/w")
    model.parts = [variable("model/parts/0"), variable("model/parts/1")]
    model.table = {"a/b": variable("model/table/a.Sb"), "c.d": variable("model/table/c..d")}
    return tf.train.Checkpoint(model=model, step=variable("step")), found


@pytest.mark.parametrize("name", ["adam/ckpt-1", "adam/written", "legacy_adam/ckpt-1", "legacy_adam/written"])
def test_objects_that_tensorflow_wrote_are_restored_and_saved_under_the_same_keys(name, tmp_path):
    reader = ckptd.load_checkpoint(OBJECTS / name)
    checkpoint, found = objects_like(reader)
    restore(checkpoint, OBJECTS / name).expect_partial()
    for key, variable in found.items():
        assert np.array_equal(variable.numpy(), reader[key]), key
    manager = CheckpointManager(checkpoint, tmp_path / "run", 1)
    ours = ckptd.load_checkpoint(manager.save(checkpoint_number=7))
    assert set(ours) == {*found, "save_counter" + VALUE, object_graph.OBJECT_GRAPH_NAME}
    for key in found:
        assert ours[key].dtype == reader[key].dtype
        assert np.array_equal(ours[key], reader[key]), key


def test_slots_of_an_optimizer_stay_with_their_variables(tmp_path):
    """Stock objects with slot variables, saved by us, restored by stock TensorFlow into variables made later."""

    class Momentum(tf.compat.v1.train.MomentumOptimizer):
        pass

    def step(v, optimizer):
        optimizer.apply_gradients([(tf.ones_like(v), v)])

    v, optimizer = tf.Variable([1.0, 2.0]), Momentum(0.5, 0.9)
    step(v, optimizer)
    path = CheckpointManager(tf.train.Checkpoint(v=v, optimizer=optimizer), tmp_path / "run", 1).save()
    assert "v/.OPTIMIZER_SLOT/optimizer/momentum" + VALUE in ckptd.load_checkpoint(path)
    other_v, other = tf.Variable([0.0, 0.0]), Momentum(0.5, 0.9)
    for read in (tf.train.Checkpoint.restore, restore):
        status = read(tf.train.Checkpoint(v=other_v, optimizer=other), path)
        step(other_v, other)  # makes the slot, which has a value waiting
        status.assert_existing_objects_matched()
    step(v, optimizer)
    assert np.array_equal(v.numpy(), other_v.numpy())


def keras_model():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    )
    model.compile("adam", "mse")
    return model


def test_weights_that_keras_2_wrote_load_into_keras_3_and_are_written_as_it_did(tmp_path):
    reader = ckptd.load_checkpoint(KERAS_WEIGHTS)
    model = keras_model()
    load_weights(model, KERAS_WEIGHTS)
    assert np.array_equal(model.layers[0].kernel.numpy(), reader["layer_with_weights-0/kernel" + VALUE])
    assert np.array_equal(model.layers[1].moving_mean.numpy(), reader["layer_with_weights-1/moving_mean" + VALUE])
    assert model.optimizer.iterations.numpy() == reader["optimizer/_iterations" + VALUE] == 1
    save_weights(model, tmp_path / "weights")
    ours = ckptd.load_checkpoint(tmp_path / "weights")
    assert ours.get_variable_to_shape_map() == reader.get_variable_to_shape_map()
    for key in set(ours) - {object_graph.OBJECT_GRAPH_NAME}:
        assert ours[key].dtype == reader[key].dtype
        assert np.array_equal(ours[key], reader[key]), key
    assert (tmp_path / "checkpoint").read_bytes() == (KERAS_WEIGHTS.parent / "checkpoint").read_bytes()
    # The way from the root to each weight is there as Keras 2 looks for it.
    ways = [_ways(one) for one in (ours, reader)]
    assert {way for way in ways[1] if way.startswith("layer")} <= ways[0]


def _ways(reader):
    """Return every path of names from the root to a variable, at most three long."""
    graph = object_graph.decode(reader[object_graph.OBJECT_GRAPH_NAME])
    ways, last = set(), [("", 0)]
    for _ in range(3):
        last = [(f"{way}/{child.local_name}", child.node_id) for way, at in last for child in graph.nodes[at].children]
        ways |= {way[1:] for way, at in last if graph.nodes[at].attributes}
    return ways


def test_stock_objects_of_the_shape_of_keras_2_read_our_weights(tmp_path):
    model = keras_model()
    save_weights(model, tmp_path / "weights")
    root, layer = AutoTrackable(), AutoTrackable()
    layer.kernel, layer.bias = tf.Variable(tf.zeros((4, 3))), tf.Variable(tf.zeros(3))
    setattr(root, "layer_with_weights-0", layer)
    tf.train.Checkpoint(root).read(str(tmp_path / "weights")).expect_partial().assert_existing_objects_matched()
    assert np.array_equal(layer.kernel.numpy(), model.layers[0].kernel.numpy())


def test_a_keras_3_model_in_a_checkpoint_goes_on_as_with_stock_tensorflow(tmp_path):
    x, y = np.ones((8, 4), np.float32), np.ones((8, 2), np.float32)
    model = keras_model()
    model.fit(x, y, verbose=0)
    path = CheckpointManager(tf.train.Checkpoint(model=model), tmp_path / "run", 1).save()
    other = keras_model()
    other.fit(x, y, verbose=0)
    tf.train.Checkpoint(model=other).restore(path).assert_existing_objects_matched()
    for one, two in zip(
        model.weights + model.optimizer.variables, other.weights + other.optimizer.variables, strict=True
    ):
        assert np.array_equal(one.numpy(), two.numpy()), one.path


def test_a_checkpoint_of_many_shards_and_slices_is_restored(tmp_path):
    prefix = FIXTURES / "object_max_shard" / "ckpt-1"
    reader = ckptd.load_checkpoint(prefix)
    variables = {name: tf.Variable(np.zeros_like(reader[name + VALUE])) for name in ("a", "b", "c")}
    restore(tf.train.Checkpoint(**variables), prefix).expect_partial()
    for name, variable in variables.items():
        assert np.array_equal(variable.numpy(), reader[name + VALUE])
