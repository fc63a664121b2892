"""Arguments are TensorFlow's, and are followed or refused by name."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import tensorflow as tf

import ckptd.tensorflow
from ckptd.errors import InvalidRequestError
from tests.unit.tensorflow.beside import hooks, managers, modules, savers

v1 = tf.compat.v1


@pytest.mark.parametrize(
    ("stock", "ours"),
    [
        (v1.train.Saver.__init__, ckptd.tensorflow.Saver.__init__),
        (v1.train.Saver.save, ckptd.tensorflow.Saver.save),
        (v1.train.Saver.restore, ckptd.tensorflow.Saver.restore),
        (v1.train.CheckpointSaverHook.__init__, ckptd.tensorflow.CheckpointSaverHook.__init__),
        (tf.train.CheckpointManager.__init__, ckptd.tensorflow.CheckpointManager.__init__),
        (tf.train.CheckpointManager.save, ckptd.tensorflow.CheckpointManager.save),
        (v1.train.import_meta_graph, ckptd.tensorflow.import_meta_graph),
        (keras.callbacks.ModelCheckpoint.__init__, ckptd.tensorflow.ModelCheckpoint.__init__),
        (keras.saving.load_model, ckptd.tensorflow.load_model),
        (keras.saving.save_weights, ckptd.tensorflow.save_weights),
        (keras.saving.load_weights, ckptd.tensorflow.load_weights),
    ],
    ids=lambda one: f"{one.__module__.partition('.')[0]}.{one.__qualname__}",
)
def test_what_may_be_given_by_position_is_the_same_and_has_the_same_defaults(stock, ours):
    code, theirs = ours.__code__, stock.__code__ if hasattr(stock, "__code__") else stock.__wrapped__.__code__
    code = getattr(ours, "__wrapped__", ours).__code__
    names = theirs.co_varnames[: theirs.co_argcount]
    assert code.co_varnames[: code.co_argcount] == names
    assert getattr(ours, "__wrapped__", ours).__defaults__ == getattr(stock, "__wrapped__", stock).__defaults__


@savers
def test_the_debug_info_of_an_empty_saver_is_written(tmp_path, saver_of):
    with tf.Graph().as_default(), v1.Session() as session:
        tf.constant(3.0)
        saver = saver_of(allow_empty=True)
        assert saver.save(session, str(tmp_path / "m"), save_debug_info=True) is None
    assert sorted(os.listdir(tmp_path)) == ["m.debug", "m.meta"]


def test_below_an_address_the_list_is_not_set_and_the_debug_info_not_written(tmp_path, session):
    saver = ckptd.tensorflow.Saver(address=str(tmp_path))
    for call in (
        lambda: saver.set_last_checkpoints(["runs/a/m-1"]),
        lambda: saver.set_last_checkpoints_with_time([("runs/a/m-1", 1.0)]),
    ):
        with pytest.raises(InvalidRequestError, match="the list of checkpoints is kept there"):
            call()
    with pytest.raises(InvalidRequestError, match="save_debug_info"):
        saver.save(session, "runs/a/m", save_debug_info=True)
    saver.recover_last_checkpoints(["runs/a/m-1"])  # a session calls it when it restores
    saver.close()


def test_several_ranks_without_an_address_are_refused(session):
    for options in ({"rank": 1, "world_size": 2}, {"world_size": 2}):
        with pytest.raises(ValueError, match="several ranks save one checkpoint through a daemon only"):
            ckptd.tensorflow.Saver(**options)


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


@managers
def test_the_device_of_this_host_is_taken_and_a_call_at_the_end_is_made(tmp_path, manager_of):
    ended = []
    options = tf.train.CheckpointOptions(
        experimental_io_device="/job:localhost", experimental_write_callbacks=[ended.append]
    )
    manager = manager_of(tf.train.Checkpoint(v=tf.Variable(1.0)), str(tmp_path / "run"), max_to_keep=1)
    path = manager.save(options=options)
    assert ended == [path]


def test_options_that_would_be_ignored_are_refused_by_name_and_nothing_is_counted(tmp_path):
    checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0))
    manager = ckptd.tensorflow.CheckpointManager(checkpoint, str(tmp_path / "run"), max_to_keep=1)
    for options, named in (
        (tf.train.CheckpointOptions(experimental_io_device="/job:ps/task:1"), "experimental_io_device"),
        (
            tf.train.CheckpointOptions(
                experimental_sharding_callback=tf.train.experimental.MaxShardSizePolicy(max_shard_size=1024)
            ),
            "experimental_sharding_callback",
        ),
        ({"experimental_io_device": "/job:localhost"}, "CheckpointOptions"),
    ):
        with pytest.raises(ValueError, match=named) as told:
            manager.save(options=options)
        assert isinstance(told.value, InvalidRequestError)
    assert int(checkpoint.save_counter) == 0
    assert not list(tmp_path.glob("run/*.index"))


@hooks
def test_a_hook_saves_with_the_saver_that_it_was_given(tmp_path, hook_of):
    with tf.Graph().as_default():
        step = v1.train.get_or_create_global_step()
        train = v1.assign_add(step, 1)
        hook = hook_of(str(tmp_path), save_steps=1, saver=v1.train.Saver(max_to_keep=2), save_graph_def=False)
        with v1.train.MonitoredSession(hooks=[hook]) as running:
            for _ in range(4):
                running.run(train)
    assert sorted(path.name for path in tmp_path.glob("*.index")) == ["model.ckpt-3.index", "model.ckpt-4.index"]
    assert not list(tmp_path.glob("*.meta"))


def test_a_hook_refuses_what_its_saver_does_not_do(tmp_path):
    for options, named in (
        ({"max_to_keep": 3}, "max_to_keep"),
        ({"keep_checkpoint_every_n_hours": 1.0}, "keep_checkpoint_every_n_hours"),
        ({"address": str(tmp_path)}, "address"),
    ):
        with tf.Graph().as_default():
            v1.train.get_or_create_global_step()
            saver = ckptd.tensorflow.Saver(max_to_keep=2)
            hook = ckptd.tensorflow.CheckpointSaverHook(str(tmp_path), save_steps=1, saver=saver, **options)
            with pytest.raises(ValueError, match=f"^{named} is for a Saver that the hook makes") as told:
                hook.begin()
            assert isinstance(told.value, InvalidRequestError)
    with tf.Graph().as_default():  # what says the same is no contradiction
        v1.train.get_or_create_global_step()
        ckptd.tensorflow.CheckpointSaverHook(
            str(tmp_path), save_steps=1, saver=v1.train.Saver(max_to_keep=2), max_to_keep=2
        ).begin()


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


def test_they_are_the_same_functions_otherwise(tmp_path):
    ckptd.save_checkpoint(tmp_path / "m", {"v": 1.0})
    ckptd.tensorflow.update_checkpoint_state(str(tmp_path), str(tmp_path / "m"))
    assert ckptd.tensorflow.latest_checkpoint(tmp_path) == ckptd.latest_checkpoint(tmp_path)
    assert ckptd.tensorflow.list_variables(tmp_path / "m") == [("v", [])]
    assert ckptd.tensorflow.load_checkpoint(tmp_path / "m").get_tensor("v") == 1.0
    assert next(ckptd.tensorflow.checkpoints_iterator(tmp_path)) == str(tmp_path / "m")
