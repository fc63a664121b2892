"""What TensorFlow's own tests of managers, Savers and callbacks ask for, with its classes and with ours."""

from __future__ import annotations

import os

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import tensorflow as tf

import ckptd.tensorflow

v1 = tf.compat.v1
MANAGERS = {"stock": tf.train.CheckpointManager, "ours": ckptd.tensorflow.CheckpointManager}
SAVERS = {"stock": v1.train.Saver, "ours": ckptd.tensorflow.Saver}
MODULES = {"stock": tf.train, "ours": ckptd.tensorflow}

managers = pytest.mark.parametrize("manager_of", MANAGERS.values(), ids=MANAGERS.keys())
savers = pytest.mark.parametrize("saver_of", SAVERS.values(), ids=SAVERS.keys())
modules = pytest.mark.parametrize("module", MODULES.values(), ids=MODULES.keys())


def names(paths):
    return [os.path.basename(path) for path in paths]


def indices(directory):
    return sorted(path.name for path in directory.glob("*.index"))


@managers
def test_a_manager_that_keeps_fewer_takes_over_the_list_and_shortens_it_with_its_first_save(tmp_path, manager_of):
    checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0))
    first = manager_of(checkpoint, str(tmp_path / "run"), max_to_keep=None)
    saved = [first.save() for _ in range(4)]
    assert first.checkpoints == saved
    del first
    second = manager_of(checkpoint, str(tmp_path / "run"), max_to_keep=3)
    assert second.checkpoints == saved
    assert second.latest_checkpoint == saved[-1]
    assert len(indices(tmp_path / "run")) == 4
    fifth = second.save()
    assert second.checkpoints == [*saved[2:], fifth]
    assert indices(tmp_path / "run") == ["ckpt-3.index", "ckpt-4.index", "ckpt-5.index"]


@managers
def test_a_manager_goes_on_after_checkpoints_that_nobody_managed_and_leaves_them(tmp_path, manager_of):
    unmanaged = tf.train.Checkpoint(v=tf.Variable(1.0))
    for _ in range(2):
        unmanaged.save(str(tmp_path / "run/other"))
    checkpoint = tf.train.Checkpoint(v=tf.Variable(2.0))
    manager = manager_of(checkpoint, str(tmp_path / "run"), max_to_keep=2)
    checkpoint.restore(manager.latest_checkpoint)
    assert checkpoint.save_counter.numpy() == 2
    for _ in range(3):
        manager.save()
    assert names(manager.checkpoints) == ["ckpt-4", "ckpt-5"]
    assert indices(tmp_path / "run") == ["ckpt-4.index", "ckpt-5.index", "other-1.index", "other-2.index"]


@managers
def test_a_manager_numbers_by_a_variable_and_under_its_own_name(tmp_path, manager_of):
    step = tf.Variable(0, dtype=tf.int64)
    manager = manager_of(
        tf.train.Checkpoint(step=step), str(tmp_path / "run"), max_to_keep=2, checkpoint_name="test.model"
    )
    for _ in range(4):
        path = manager.save(checkpoint_number=step)
        assert os.path.basename(path) == f"test.model-{int(step.numpy())}"
        step.assign_add(5)
    assert names(manager.checkpoints) == ["test.model-10", "test.model-15"]
    assert manager.checkpoint.save_counter.numpy() == 4


@managers
@pytest.mark.parametrize("wrong", [{"max_to_keep": 0}, {"max_to_keep": -1}, {"checkpoint_interval": 5}])
def test_wrong_arguments_of_a_manager_are_value_errors(tmp_path, manager_of, wrong):
    with pytest.raises(ValueError, match=r"max_to_keep|step_counter"):
        manager_of(tf.train.Checkpoint(), str(tmp_path / "run"), **{"max_to_keep": 1, **wrong})


@managers
def test_write_callbacks_get_the_prefix_or_nothing(tmp_path, manager_of):
    told = []
    options = tf.train.CheckpointOptions(experimental_write_callbacks=[told.append, lambda: told.append("ended")])
    checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0))
    path = manager_of(checkpoint, str(tmp_path / "run"), max_to_keep=1).save(options=options)
    assert told == [path, "ended"]


def saved_and_restored(saver, directory, name):
    """Save two steps, the first of which has to go, and restore the second."""
    with tf.Graph().as_default(), v1.Session() as session:
        v = v1.get_variable("v", initializer=3.0)
        session.run(v1.global_variables_initializer())
        made = saver(max_to_keep=1)
        for step in (1, 2):
            path = made.save(session, f"{directory}/{name}", global_step=step)
        session.run(v.assign(0.0))
        made.restore(session, path)
        assert session.run(v) == 3.0
    return path


@savers
@pytest.mark.parametrize("name", ["a:b.ckpt", "a b.ckpt", "a{1}(2).ckpt", "a*b?.ckpt"])
def test_a_saver_takes_names_with_odd_characters(tmp_path, saver_of, name):
    path = saved_and_restored(saver_of, tmp_path, name)
    assert indices(tmp_path) == [f"{name}-2.index"]
    assert tf.train.latest_checkpoint(str(tmp_path)) == path


def test_brackets_are_no_pattern_where_tensorflow_takes_them_for_one(tmp_path):
    """TensorFlow's Saver does not find again what it has just saved."""
    (tmp_path / "stock").mkdir()
    with pytest.raises(ValueError, match="not a valid checkpoint"):
        saved_and_restored(SAVERS["stock"], tmp_path / "stock", "a[0].ckpt")
    assert indices(tmp_path / "stock") == ["a[0].ckpt-1.index", "a[0].ckpt-2.index"]
    path = saved_and_restored(SAVERS["ours"], tmp_path / "ours", "a[0].ckpt")
    assert indices(tmp_path / "ours") == ["a[0].ckpt-2.index"]
    assert ckptd.tensorflow.latest_checkpoint(tmp_path / "ours") == path
    assert tf.train.latest_checkpoint(str(tmp_path / "ours")) is None


@pytest.mark.parametrize(
    ("directory", "name"), [("run", "a b"), ("run", "a[0]"), ("run", "a:b"), ("my run", "ckpt"), ("run [1]", "ckpt")]
)
def test_a_manager_refuses_odd_names_before_it_writes_and_says_what_they_may_hold(tmp_path, directory, name):
    with pytest.raises(ValueError, match="may hold letters, digits and"):
        ckptd.tensorflow.CheckpointManager(
            tf.train.Checkpoint(v=tf.Variable(3.0)), str(tmp_path / directory), max_to_keep=1, checkpoint_name=name
        )
    assert list(tmp_path.iterdir()) == []


@modules
def test_plain_functions_take_tensorflows_names_of_arguments(tmp_path, module):
    path = tf.train.Checkpoint(v=tf.Variable(1.0)).save(str(tmp_path / "m"))
    assert module.latest_checkpoint(checkpoint_dir=str(tmp_path)) == path
    assert module.get_checkpoint_state(checkpoint_dir=str(tmp_path)).model_checkpoint_path == path
    assert next(module.checkpoints_iterator(checkpoint_dir=str(tmp_path))) == path
    names_and_shapes = dict(module.list_variables(ckpt_dir_or_file=path))
    assert names_and_shapes["v/.ATTRIBUTES/VARIABLE_VALUE"] == []
    assert module.load_variable(ckpt_dir_or_file=path, name="v/.ATTRIBUTES/VARIABLE_VALUE") == 1.0
    assert module.load_checkpoint(ckpt_dir_or_file=path).has_tensor("v/.ATTRIBUTES/VARIABLE_VALUE")


def made():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    "when",
    [
        {"save_freq": 3},
        {"save_freq": "epoch"},
        {"save_best_only": True, "monitor": "score", "mode": "max"},
        {"save_best_only": True, "monitor": "score", "mode": "min", "initial_value_threshold": 1.5},
    ],
    ids=str,
)
def test_the_keras_callback_saves_when_stock_does(tmp_path, when):
    """The value that is monitored goes 2, 1, 3, and there are two batches an epoch."""
    scores = iter([2.0, 1.0, 3.0] * 2)
    x = np.ones((4, 2), np.float32)
    saved = {}
    for kind, keep in (
        ("stock", keras.callbacks.ModelCheckpoint(str(tmp_path / "stock/{epoch:02d}.keras"), **when)),
        ("ours", ckptd.tensorflow.ModelCheckpoint(str(tmp_path / "ours/{epoch:02d}"), **when)),
    ):
        (tmp_path / kind).mkdir()

        class Score(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                logs["score"] = next(scores)

        made().fit(x, x[:, :1], batch_size=2, epochs=3, verbose=0, callbacks=[Score(), keep])
        suffix = ".keras" if kind == "stock" else ".index"
        saved[kind] = sorted(each.name.removesuffix(suffix) for each in (tmp_path / kind).glob(f"*{suffix}"))
    assert saved["ours"] == saved["stock"] != []
