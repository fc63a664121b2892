"""What programs rely on beside the main road, the same with TensorFlow's classes and with ours."""

from __future__ import annotations

import os
import time

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

import ckptd.tensorflow
from ckptd.errors import CorruptionError, InvalidRequestError, NotFoundError
from tests.unit.client.served import Daemon

v1 = tf.compat.v1
MANAGERS = {"stock": tf.train.CheckpointManager, "ours": ckptd.tensorflow.CheckpointManager}
SAVERS = {"stock": v1.train.Saver, "ours": ckptd.tensorflow.Saver}
IMPORTS = {"stock": v1.train.import_meta_graph, "ours": ckptd.tensorflow.import_meta_graph}

managers = pytest.mark.parametrize("manager_of", MANAGERS.values(), ids=MANAGERS.keys())
savers = pytest.mark.parametrize("saver_of", SAVERS.values(), ids=SAVERS.keys())


@pytest.fixture
def daemon(tmp_path):
    running = Daemon(tmp_path / "root")
    yield running
    running.stop()


def indices(directory):
    return sorted(path.name for path in directory.glob("*.index"))


@managers
def test_what_is_too_many_is_gone_when_a_managers_save_returns(tmp_path, manager_of):
    manager = manager_of(tf.train.Checkpoint(v=tf.Variable(1.0)), str(tmp_path / "run"), max_to_keep=2)
    for number in range(1, 9):
        manager.save()
        assert len(indices(tmp_path / "run")) == min(number, 2)


def test_what_is_too_many_is_gone_when_a_save_beside_a_daemon_returns(tmp_path, daemon):
    run = tmp_path / "root/runs/a"
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable("w", initializer=1.0)
        session.run(v1.global_variables_initializer())
        saver = ckptd.tensorflow.Saver(max_to_keep=2, address=daemon.address)
        for step in range(1, 9):
            saver.save(session, "runs/a/model.ckpt", global_step=step)
            assert len(indices(run)) == min(step, 2)
        saver.close()


@managers
def test_the_hours_of_a_manager_count_from_when_it_was_made(tmp_path, manager_of):
    """The first save comes later than the interval after that: it is kept for good."""
    made = manager_of(
        tf.train.Checkpoint(v=tf.Variable(1.0)),
        str(tmp_path / "run"),
        max_to_keep=1,
        keep_checkpoint_every_n_hours=0.2 / 3600,
    )
    passed = time.monotonic() + 0.3
    while time.monotonic() < passed:
        pass
    for _ in range(3):
        made.save()
    assert indices(tmp_path / "run") == ["ckpt-1.index", "ckpt-3.index"]


def test_the_hours_count_so_beside_a_daemon_too(tmp_path, daemon):
    made = ckptd.tensorflow.CheckpointManager(
        tf.train.Checkpoint(v=tf.Variable(1.0)),
        "runs/m",
        max_to_keep=1,
        keep_checkpoint_every_n_hours=0.2 / 3600,
        address=daemon.address,
    )
    passed = time.monotonic() + 0.3
    while time.monotonic() < passed:
        pass
    for _ in range(3):
        made.save()
    made.close()
    assert indices(tmp_path / "root/runs/m") == ["ckpt-1.index", "ckpt-3.index"]


@pytest.mark.parametrize("import_of", IMPORTS.values(), ids=IMPORTS.keys())
def test_a_meta_file_that_is_missing_or_no_graph_is_an_os_error(tmp_path, import_of):
    (tmp_path / "wrong.meta").write_bytes(b"no graph at all")
    for name in ("absent.meta", "wrong.meta"):
        with tf.Graph().as_default(), pytest.raises(OSError, match=name):
            import_of(str(tmp_path / name))


def test_it_is_our_error_too(tmp_path):
    (tmp_path / "wrong.meta").write_bytes(b"no graph at all")
    for name, kind in (("absent.meta", NotFoundError), ("wrong.meta", CorruptionError)):
        with tf.Graph().as_default(), pytest.raises(kind):
            ckptd.tensorflow.import_meta_graph(str(tmp_path / name))


def variable_and(session_use):
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable("w", initializer=1.0)
        session.run(v1.global_variables_initializer())
        return session_use(session)


@savers
def test_a_path_below_a_file_is_a_value_error(tmp_path, saver_of):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"Parent directory of .* doesn't exist, can't save"):
        variable_and(lambda session: saver_of().save(session, str(tmp_path / "file/model.ckpt")))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_sharded_saver_refuses_the_state_files_name_before_it_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("checkpoint", str(tmp_path / "checkpoint")):
        with pytest.raises(InvalidRequestError, match="conflicts with path used for checkpoint state"):
            variable_and(lambda session, path=path: ckptd.tensorflow.Saver(sharded=True).save(session, path))
        assert list(tmp_path.iterdir()) == []
    # Without a state file nothing stands in its way.
    variable_and(lambda session: ckptd.tensorflow.Saver(sharded=True).save(session, "checkpoint", write_state=False))
    assert (tmp_path / "checkpoint.index").exists()


def test_the_graph_of_an_empty_saver_is_saved_beside_a_daemon_as_beside_the_path(tmp_path, daemon):
    with tf.Graph().as_default(), v1.Session() as session:
        tf.constant(3.0, name="three")
        for options, path in (
            ({}, str(tmp_path / "here/empty.ckpt")),
            ({"address": daemon.address}, "runs/e/empty.ckpt"),
        ):
            (tmp_path / "here").mkdir(exist_ok=True)
            saver = ckptd.tensorflow.Saver(allow_empty=True, **options)
            assert saver.save(session, path) is None
            saver.close()
            with tf.Graph().as_default() as graph:
                assert ckptd.tensorflow.import_meta_graph(f"{path}.meta", **options) is None
                graph.get_operation_by_name("three")
    assert not (tmp_path / "root/runs/e/checkpoint").exists()


def test_the_graph_of_a_checkpoint_without_a_step_is_its_own_and_not_the_latest_ones(daemon):
    def save(session):
        saver = ckptd.tensorflow.Saver(address=daemon.address)
        saver.save(session, "runs/g/model.ckpt")
        tf.constant(5.0, name="later")
        saver.save(session, "runs/g/model.ckpt", global_step=5)
        saver.close()

    variable_and(save)
    for path, has_later in (("runs/g/model.ckpt.meta", False), ("runs/g/model.ckpt-5.meta", True)):
        with tf.Graph().as_default() as graph:
            ckptd.tensorflow.import_meta_graph(path, address=daemon.address)
            assert any(each.name == "later" for each in graph.get_operations()) == has_later


def test_a_manager_in_a_graph_is_refused_in_words(tmp_path):
    with tf.Graph().as_default(), v1.Session() as session:
        step = v1.train.get_or_create_global_step()
        checkpoint = tf.train.Checkpoint(step=step)
        manager = ckptd.tensorflow.CheckpointManager(
            checkpoint, str(tmp_path / "run"), max_to_keep=2, step_counter=step, checkpoint_interval=1
        )
        session.run(v1.global_variables_initializer())
        for call in (manager.save, manager.restore_or_initialize):
            with pytest.raises(InvalidRequestError, match="use the Saver"):
                call()


PLAIN = {
    "no such checkpoint": (tf.errors.NotFoundError, NotFoundError, lambda of, at: of.load_checkpoint(f"{at}/absent")),
    "no such variable": (tf.errors.NotFoundError, NotFoundError, lambda of, at: of.load_variable(f"{at}/m", "x")),
    "no such tensor": (
        tf.errors.NotFoundError,
        NotFoundError,
        lambda of, at: of.load_checkpoint(f"{at}/m").get_tensor("x"),
    ),
    "a damaged index": (tf.errors.OpError, CorruptionError, lambda of, at: of.load_checkpoint(f"{at}/damaged")),
}


@pytest.mark.parametrize(("theirs", "ours", "call"), PLAIN.values(), ids=PLAIN.keys())
def test_plain_functions_raise_what_programs_catch_around_tensorflows(tmp_path, theirs, ours, call):
    ckptd.save_checkpoint(tmp_path / "m", {"v": 1.0})
    (tmp_path / "damaged.index").write_bytes(b"\0" * 100)
    with pytest.raises(theirs):
        call(tf.train, tmp_path)
    with pytest.raises(theirs) as told:
        call(ckptd.tensorflow, tmp_path)
    assert isinstance(told.value, ours)


def test_they_are_the_same_functions_otherwise(tmp_path):
    ckptd.save_checkpoint(tmp_path / "m", {"v": 1.0})
    ckptd.tensorflow.update_checkpoint_state(str(tmp_path), str(tmp_path / "m"))
    assert ckptd.tensorflow.latest_checkpoint(tmp_path) == ckptd.latest_checkpoint(tmp_path)
    assert ckptd.tensorflow.list_variables(tmp_path / "m") == [("v", [])]
    assert ckptd.tensorflow.load_checkpoint(tmp_path / "m").get_tensor("v") == 1.0
    assert next(ckptd.tensorflow.checkpoints_iterator(tmp_path)) == str(tmp_path / "m")
