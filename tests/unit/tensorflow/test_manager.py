"""`CheckpointManager` beside TensorFlow's own: the same files, lists and numbers, each reading what the other wrote."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

import ckptd
from ckptd.client.direct.engines import ENGINES
from ckptd.client.paths.run_place import RunPlace
from ckptd.tensorflow import CheckpointManager, restore
from ckptd.tensorflow.object_graph import arrays_of_checkpoint
from tests.unit.client.served import Daemon

ASYNC = tf.train.CheckpointOptions(experimental_enable_async_checkpoint=True)


@pytest.fixture
def served(tmp_path):
    daemon = Daemon(tmp_path / "served")
    yield daemon
    daemon.stop()


@pytest.fixture(autouse=True)
def no_address(monkeypatch):
    for name in ("CKPTD_ADDRESS", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def of_many_kinds():
    """Return objects with one variable of every kind that a file can hold."""
    variables = {
        "f": tf.Variable(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "half": tf.Variable(tf.cast([1.5, -2.0], tf.float16)),
        "brain": tf.Variable(tf.cast([1.5, -2.0], tf.bfloat16)),
        "eighth": tf.Variable(tf.cast([1.5, -2.0], tf.dtypes.experimental.float8_e4m3fn)),
        "double": tf.Variable(np.float64(7.5)),
        "complex": tf.Variable(np.array([1 + 2j], np.complex64)),
        "flag": tf.Variable([True, False]),
        "count": tf.Variable(5, dtype=tf.int64),
        "words": tf.Variable(["a", "bc", ""]),
        "word": tf.Variable("alone"),
        "empty": tf.Variable(np.zeros((0, 3), np.float32)),
        "empty_brain": tf.Variable(tf.cast(np.zeros((0, 3)), tf.bfloat16)),
    }
    return tf.train.Checkpoint(**variables, nested=tf.Module()), variables


def cleared(variable):
    return (
        tf.constant(np.zeros(variable.shape, variable.dtype.as_numpy_dtype))
        if variable.dtype != tf.string
        else tf.fill(variable.shape, "")
    )


def test_stock_tensorflow_restores_what_we_save_and_we_restore_what_it_saved(tmp_path):
    checkpoint, variables = of_many_kinds()
    values = {name: variable.numpy() for name, variable in variables.items()}
    ours = CheckpointManager(checkpoint, tmp_path / "ours", max_to_keep=3)
    theirs = tf.train.CheckpointManager(checkpoint, str(tmp_path / "theirs"), max_to_keep=3)
    written = ours.save(), theirs.save()
    assert written[0] == str(tmp_path / "ours" / "ckpt-1")
    for read in (
        lambda: checkpoint.restore(written[0]),
        lambda: ours.restore(written[1]),
        lambda: restore(checkpoint, written[1]),
        ours.restore,
    ):
        for variable in variables.values():
            variable.assign(cleared(variable))
        read().assert_consumed()
        for name, variable in variables.items():
            assert np.array_equal(variable.numpy(), values[name]), name
    # The keys and types are theirs, too.
    a, b = (ckptd.load_checkpoint(path) for path in written)
    assert a.get_variable_to_dtype_map() == b.get_variable_to_dtype_map()
    assert a.get_variable_to_dtype_map()["brain/.ATTRIBUTES/VARIABLE_VALUE"] == ml_dtypes.bfloat16
    assert ckptd.verify(written[0]).ok


def test_both_managers_number_list_and_delete_alike(tmp_path):
    found = []
    for make, name in ((CheckpointManager, "ours"), (tf.train.CheckpointManager, "theirs")):
        directory = tmp_path / name
        manager = make(tf.train.Checkpoint(v=tf.Variable(1.0)), str(directory), 2, checkpoint_name="m")
        assert (manager.latest_checkpoint, manager.checkpoints) == (None, [])
        paths = [manager.save(), manager.save(), manager.save(checkpoint_number=tf.Variable(9)), manager.save()]
        names = [os.path.relpath(path, directory) for path in paths]
        state = ckptd.get_checkpoint_state(directory)
        assert manager.latest_checkpoint == paths[-1]
        listed = [os.path.relpath(path, directory) for path in manager.checkpoints]
        if make is CheckpointManager:
            manager.close()  # what is too many is deleted after the save was acknowledged
        files = sorted(each for each in os.listdir(directory) if not each.startswith("."))
        found.append((names, listed, files, len(state.all_model_checkpoint_timestamps)))
    assert found[0] == found[1]
    assert found[0][0] == ["m-1", "m-2", "m-9", "m-4"]
    # Either takes over from the other.
    ours = CheckpointManager(tf.train.Checkpoint(), tmp_path / "theirs", 2, checkpoint_name="m")
    theirs = tf.train.CheckpointManager(tf.train.Checkpoint(), str(tmp_path / "ours"), 2, checkpoint_name="m")
    assert [os.path.basename(path) for path in ours.checkpoints] == ["m-9", "m-4"]
    assert [os.path.basename(path) for path in theirs.checkpoints] == ["m-9", "m-4"]


def test_relative_directories_stay_as_they_were_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manager = CheckpointManager(tf.train.Checkpoint(v=tf.Variable(1.0)), "./run", max_to_keep=None)
    assert manager.save() == manager.latest_checkpoint == "./run/ckpt-1"
    assert manager.checkpoints == ["./run/ckpt-1"]
    assert manager.directory == "./run"


def test_a_variable_created_later_gets_its_value_from_a_store_that_has_no_files(tmp_path):
    manager = CheckpointManager(
        tf.train.Checkpoint(a=tf.Variable(1.0), b=tf.Variable([2.0, 3.0])), "memory://later/run", 3
    )
    assert manager.save() == "memory://later/run/ckpt-1"
    del manager
    gc.collect()
    new = tf.train.Checkpoint(a=tf.Variable(0.0))
    manager = CheckpointManager(new, "memory://later/run", 3)
    status = manager.restore()
    assert new.a.numpy() == 1.0
    with pytest.raises(AssertionError):
        status.assert_consumed()
    prefix = status._checkpoint.save_path_string
    assert os.path.exists(prefix + ".index")
    new.b = tf.Variable([0.0, 0.0])
    assert new.b.numpy().tolist() == [2.0, 3.0]
    status.assert_consumed()
    del status, new, manager
    gc.collect()
    assert not os.path.exists(os.path.dirname(prefix))
    # A prefix alone is enough.
    fresh = tf.train.Checkpoint(a=tf.Variable(0.0))
    restore(fresh, "memory://later/run/ckpt-1").expect_partial()
    assert fresh.a.numpy() == 1.0


def test_saves_wait_for_their_interval_and_a_fresh_start_calls_init_fn(tmp_path):
    step, calls = tf.Variable(0, dtype=tf.int64), []
    checkpoint = tf.train.Checkpoint(step=step)
    arguments = {"step_counter": step, "checkpoint_interval": 5, "init_fn": lambda: calls.append("init")}
    manager = CheckpointManager(checkpoint, tmp_path / "run", 3, **arguments)
    assert manager.restore_or_initialize() is None
    assert calls == ["init"]
    saved = []
    for _ in range(12):
        step.assign_add(1)
        saved.append(manager.save() is not None)
    assert [at + 1 for at, one in enumerate(saved) if one] == [1, 6, 11]
    assert manager.save(check_interval=False) is not None  # step 12 was not saved
    assert manager.save(check_interval=False) is None
    manager.close()
    again = CheckpointManager(checkpoint, tmp_path / "run", 3, **arguments)
    step.assign(0)
    assert again.restore_or_initialize() == str(tmp_path / "run" / "ckpt-4")
    assert step.numpy() == 12
    assert again.save() is None  # the step that was restored counts as saved
    assert calls == ["init"]


def test_an_asynchronous_save_holds_what_the_variables_were(tmp_path):
    v, called, told = tf.Variable(np.ones(1 << 20, np.float32)), [], threading.Event()
    options = tf.train.CheckpointOptions(
        experimental_enable_async_checkpoint=True,
        experimental_write_callbacks=[called.append, told.set],
    )
    manager = CheckpointManager(tf.train.Checkpoint(v=v), tmp_path / "run", 3)
    manager.prepare()
    path = manager.save(options=options)
    v.assign_add(tf.ones_like(v))
    manager.sync()
    assert told.wait(60)
    assert called == [path]
    assert (ckptd.load_variable(path, "v/.ATTRIBUTES/VARIABLE_VALUE") == 1).all()
    assert manager.save(wait=False).endswith("ckpt-2")
    assert manager.restore_or_initialize().endswith("ckpt-2")  # waits for what is under way


def test_what_an_asynchronous_save_met_is_raised_by_the_next_call(tmp_path):
    first = CheckpointManager(tf.train.Checkpoint(v=tf.Variable(1.0)), tmp_path / "run", 3)
    first.save()
    second = CheckpointManager(tf.train.Checkpoint(v=tf.Variable(1.0)), tmp_path / "run", 3)
    ENGINES.forget()  # as in another process
    second.save(options=ASYNC)
    with pytest.raises(ckptd.ConflictError, match="another Checkpointer of this process"):
        second.sync()
    first.close()
    assert second.save().endswith("ckpt-2")


def test_a_dropped_manager_leaves_the_directory_to_the_next(tmp_path):
    for _ in range(2):
        manager = CheckpointManager(tf.train.Checkpoint(v=tf.Variable(1.0)), tmp_path / "run", 3)
        manager.save()
        del manager
        gc.collect()
    assert ckptd.latest_checkpoint(tmp_path / "run").endswith("ckpt-1")


def test_an_array_handed_over_is_a_view_that_training_does_not_change():
    v = tf.Variable(np.zeros(1 << 16, np.float32))
    array = arrays_of_checkpoint(tf.train.Checkpoint(v=v))["v/.ATTRIBUTES/VARIABLE_VALUE"]
    assert not array.flags.owndata
    assert np.shares_memory(array, np.asarray(memoryview(v.read_value())))
    v.assign_add(tf.ones_like(v))
    assert not array.any()


def test_the_state_of_an_iterator_goes_both_ways(tmp_path, served):
    it = iter(tf.data.Dataset.range(100).shuffle(10, seed=1))
    checkpoint = tf.train.Checkpoint(it=it)
    for place in ({"directory": tmp_path / "run"}, {"directory": "run", "address": served.address}):
        next(it)
        manager = CheckpointManager(checkpoint, max_to_keep=2, **place)
        path = manager.save()
        assert ckptd.verify(path).ok
        expected = [int(next(it)) for _ in range(5)]
        checkpoint.restore(path).assert_consumed()
        assert [int(next(it)) for _ in range(5)] == expected
        manager.restore().assert_consumed()
        assert [int(next(it)) for _ in range(5)] == expected
        manager.close()


def test_ranks_save_one_checkpoint_through_a_daemon(served, monkeypatch):
    monkeypatch.setenv("CKPTD_ADDRESS", served.address)

    def rank(number):
        v = tf.Variable(np.arange(1000, dtype=np.float32))
        with CheckpointManager(
            tf.train.Checkpoint(v=v), "./runs/digits", 2, rank=number, world_size=2, timeout_s=60
        ) as manager:
            assert manager.restore_or_initialize() is None
            first = manager.save()
            v.assign(v * 2)
            second = manager.save(wait=False)
            manager.sync()
            v.assign(v * 0)
            assert manager.restore_or_initialize() == second
            assert manager.checkpoints == [first, second]
            return v.numpy(), second

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(rank, range(2)))
    assert results[0][1] == results[1][1] == str(served.root / "runs" / "digits" / "ckpt-2")
    for values, _ in results:
        assert np.array_equal(values, 2 * np.arange(1000))
    done = ckptd.Checkpointer(served.address, "runs/digits", name="ckpt").latest()
    assert 4000 <= done.size_bytes < 4500  # once, not twice


def test_mistakes_are_told_in_tensorflows_words_and_classes(tmp_path):
    checkpoint = tf.train.Checkpoint(v=tf.Variable([1.0, 2.0]))
    with pytest.raises(ValueError, match="Expected a positive integer or `None` for `max_to_keep`, got 0"):
        CheckpointManager(checkpoint, tmp_path, 0)
    with pytest.raises(ValueError, match="`step_counter` should be passed"):
        CheckpointManager(checkpoint, tmp_path, 1, checkpoint_interval=3)
    with pytest.raises(ckptd.InvalidRequestError, match="pass a tf.train.Checkpoint, not a list"):
        CheckpointManager([], tmp_path / "run", 1)
    manager = CheckpointManager(checkpoint, tmp_path / "run", 1)
    with pytest.raises(ckptd.InvalidRequestError, match="eagerly"):
        tf.function(manager.save, autograph=False)()
    path = manager.save()
    other = tf.train.Checkpoint(v=tf.Variable([1.0, 2.0, 3.0], name="other"))
    with pytest.raises(ValueError, match=r"shape \(2,\).*variable with shape \(3,\) and name other"):
        restore(other, path)
    with pytest.raises(tf.errors.NotFoundError):
        restore(other, "memory://nothing/run/ckpt-1")
    with pytest.raises(tf.errors.NotFoundError):
        manager.restore(tmp_path / "nothing-1")


@pytest.mark.parametrize(
    ("directory", "address", "place"),
    [
        ("/a/b/run", "", ("/a/b", "run")),
        ("/a/b/run/", "", ("/a/b", "run")),
        ("/run", "", ("/", "run")),
        ("s3://bucket/a/run", "", ("s3://bucket/a", "run")),
        ("s3://bucket/run", "", ("s3://bucket", "run")),
        ("./a/run", "127.0.0.1:7070", ("127.0.0.1:7070", "a/run")),
        ("/a/run", "grpc://h:1", ("grpc://h:1", "a/run")),
        ("a/run", "s3://bucket", ("s3://bucket", "a/run")),
        ("/", "", None),
        ("s3://bucket", "", None),
        ("s3://bucket/run", "grpc://h:1", None),
    ],
)
def test_a_directory_means_a_run_at_an_address(directory, address, place):
    if place is None:
        with pytest.raises(ckptd.InvalidRequestError):
            RunPlace.of(directory, address)
        return
    found = RunPlace.of(directory, address)
    assert (found.address, found.run) == place
