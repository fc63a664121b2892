"""Arguments are followed or refused by name, and paths may hold what stock classes take: stock beside ours."""

from __future__ import annotations

import os

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import tensorflow as tf

import ckptd.tensorflow
from ckptd.errors import CkptdError, InvalidRequestError

v1 = tf.compat.v1
SAVERS = {"stock": v1.train.Saver, "ours": ckptd.tensorflow.Saver}
MANAGERS = {"stock": tf.train.CheckpointManager, "ours": ckptd.tensorflow.CheckpointManager}
HOOKS = {"stock": v1.train.CheckpointSaverHook, "ours": ckptd.tensorflow.CheckpointSaverHook}
savers = pytest.mark.parametrize("saver_of", SAVERS.values(), ids=SAVERS.keys())
managers = pytest.mark.parametrize("manager_of", MANAGERS.values(), ids=MANAGERS.keys())
hooks = pytest.mark.parametrize("hook_of", HOOKS.values(), ids=HOOKS.keys())
NAMES = ["a:b", "m odel", "m{x}", "x:y/m.ckpt", "m[1]", "m*?"]


@pytest.fixture(autouse=True)
def no_address(monkeypatch):
    monkeypatch.delenv("CKPTD_ADDRESS", raising=False)


@pytest.fixture
def session():
    with tf.Graph().as_default(), v1.Session() as running:
        v1.get_variable("w", initializer=1.0)
        running.run(v1.global_variables_initializer())
        yield running


def small_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model


# Signatures


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


# Saver


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


# CheckpointManager


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


# The hook


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


# Keras


def test_keras_arguments_are_taken_or_refused_by_name(tmp_path):
    model, path = small_model(), str(tmp_path / "m")
    ckptd.tensorflow.save_weights(model, path)
    for named, call in (
        ("max_shard_size", lambda: ckptd.tensorflow.save_weights(model, path, max_shard_size=1)),
        ("skip_mismatch", lambda: ckptd.tensorflow.load_weights(model, path, skip_mismatch=True)),
        ("by_name", lambda: ckptd.tensorflow.load_weights(model, path, by_name=True)),
        ("custom_object", lambda: ckptd.tensorflow.load_model(path, custom_object={})),
        ("period", lambda: ckptd.tensorflow.ModelCheckpoint(path, period=2)),
        ("world_size", lambda: ckptd.tensorflow.ModelCheckpoint(path, world_size=2)),
        ("by_name", lambda: ckptd.tensorflow.load_weights(model, "runs/a/m", by_name=True, address=str(tmp_path))),
    ):
        with pytest.raises(ValueError, match=named) as told:
            call()
        assert isinstance(told.value, InvalidRequestError)
    ckptd.tensorflow.load_weights(model, path, timeout_s=60, token=None, rank=0, world_size=1)


def models_of(side, tmp_path, model):
    """Save a model by the callback of one side; return what loads it."""
    x = np.ones((4, 2), np.float32)
    if side == "stock":
        callback = keras.callbacks.ModelCheckpoint(str(tmp_path / "m.keras"))
        load, path = keras.saving.load_model, str(tmp_path / "m.keras")
    else:
        callback = ckptd.tensorflow.ModelCheckpoint(str(tmp_path / "m"))
        load, path = ckptd.tensorflow.load_model, str(tmp_path / "m")
    model.fit(x, x[:, :1], verbose=0, callbacks=[callback])
    return lambda **options: load(path, **options)


@pytest.mark.parametrize("side", ["stock", "ours"])
def test_a_model_is_loaded_without_its_optimizer_if_asked(tmp_path, side):
    model = small_model()
    load = models_of(side, tmp_path, model)
    assert int(load().optimizer.iterations) == 1
    bare = load(compile=False)
    assert not bare.compiled
    assert np.array_equal(bare.get_weights()[0], model.get_weights()[0])


@pytest.mark.parametrize("side", ["stock", "ours"])
def test_code_of_a_checkpoint_is_run_only_if_that_is_allowed(tmp_path, side):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: 2 * x), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    load = models_of(side, tmp_path, model)
    with pytest.raises(ValueError, match="safe_mode"):
        load()
    x = np.ones((1, 2), np.float32)
    assert np.array_equal(load(safe_mode=False).predict(x, verbose=0), model.predict(x, verbose=0))


# Paths


@savers
@pytest.mark.parametrize("name", NAMES)
def test_any_character_of_a_path_is_saved_found_restored_and_imported(tmp_path, monkeypatch, session, saver_of, name):
    is_ours = saver_of is ckptd.tensorflow.Saver
    monkeypatch.chdir(tmp_path)
    for path in (name, str(tmp_path / "below" / name)):
        (tmp_path / "below").mkdir(exist_ok=True)
        saver = saver_of()
        prefix = saver.save(session, path, global_step=3)
        latest = (ckptd.tensorflow if is_ours else tf.train).latest_checkpoint(os.path.dirname(path) or ".")
        if "[" in name and not is_ours:  # a pattern for stock, that does not match what it wrote
            assert latest is None
            with pytest.raises(ValueError, match="not a valid checkpoint"):
                saver.restore(session, prefix)
            continue
        assert os.path.basename(latest) == os.path.basename(prefix)
        saver.restore(session, latest)
        with tf.Graph().as_default():
            imports = ckptd.tensorflow.import_meta_graph if is_ours else v1.train.import_meta_graph
            assert imports(f"{prefix}.meta") is not None


@pytest.mark.parametrize("name", NAMES)
def test_any_character_of_a_path_is_restored_into_objects_later_ones_too_and_into_keras(tmp_path, name):
    path = str(tmp_path / name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    written = tf.train.Checkpoint(v=tf.Variable(5.0), later=tf.Variable(7.0)).write(path)
    checkpoint = tf.train.Checkpoint(v=tf.Variable(0.0))
    ckptd.tensorflow.restore(checkpoint, written)
    assert checkpoint.v.numpy() == 5.0
    checkpoint.later = tf.Variable(0.0)
    assert checkpoint.later.numpy() == 7.0

    model, other = small_model(), small_model()
    ckptd.tensorflow.save_weights(model, f"{path}.weights")
    ckptd.tensorflow.load_weights(other, ckptd.tensorflow.latest_checkpoint(os.path.dirname(path)))
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))


def test_below_an_address_such_names_are_refused_and_nothing_is_written(tmp_path, session):
    for path in ("runs/a:b", "runs/m odel", "runs/m[1]", "a:b/m"):
        saver = ckptd.tensorflow.Saver(address=str(tmp_path))
        with pytest.raises(ValueError, match="may hold letters, digits and") as told:
            saver.save(session, path)
        assert isinstance(told.value, CkptdError)
    assert not list(tmp_path.rglob("*.index"))
