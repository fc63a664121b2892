"""Errors are ckptd's and TensorFlow's at once, and say what to do."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

import ckptd.tensorflow
from ckptd.errors import ConflictError, CorruptionError, InvalidRequestError, NotFoundError
from tests.unit.tensorflow.beside import imports, savers

v1 = tf.compat.v1


@imports
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
    "a directory without a checkpoint": (ValueError, NotFoundError, lambda of, at: of.load_checkpoint(f"{at}/empty")),
    "a directory without a state file": (ValueError, NotFoundError, lambda of, at: of.load_variable(str(at), "v")),
    "a directory that is not there": (tf.errors.OpError, NotFoundError, lambda of, at: of.list_variables(f"{at}/no")),
    "a damaged index": (tf.errors.OpError, CorruptionError, lambda of, at: of.load_checkpoint(f"{at}/damaged")),
}


@pytest.mark.parametrize(("theirs", "ours", "call"), PLAIN.values(), ids=PLAIN.keys())
def test_plain_functions_raise_what_programs_catch_around_tensorflows(tmp_path, theirs, ours, call):
    ckptd.save_checkpoint(tmp_path / "m", {"v": 1.0})
    (tmp_path / "damaged.index").write_bytes(b"\0" * 100)
    (tmp_path / "empty").mkdir()
    with pytest.raises(theirs):
        call(tf.train, tmp_path)
    with pytest.raises(theirs) as told:
        call(ckptd.tensorflow, tmp_path)
    assert isinstance(told.value, ours)


def test_one_prefix_is_no_list_of_them(tmp_path):
    with pytest.raises(InvalidRequestError, match="pass several prefixes"):
        ckptd.tensorflow.get_checkpoint_mtimes(str(tmp_path / "m"))


@pytest.mark.parametrize("in_the_way", ["index", "meta"])
def test_a_save_that_cannot_be_put_in_place_takes_back_its_data(tmp_path, session, in_the_way):
    """TensorFlow leaves it, and on a full disk it would keep the room that the next save needs."""
    (tmp_path / f"m-1.{in_the_way}").mkdir()
    with pytest.raises(ConflictError, match="a directory has this name"):
        ckptd.tensorflow.Saver().save(session, str(tmp_path / "m"), global_step=1)
    assert [path.name for path in tmp_path.iterdir()] == [f"m-1.{in_the_way}"]


@savers
def test_a_directory_in_the_place_of_a_file_is_a_failed_precondition(tmp_path, session, saver_of):
    (tmp_path / "m-1.index").mkdir()
    with pytest.raises(tf.errors.FailedPreconditionError):
        saver_of().save(session, str(tmp_path / "m"), global_step=1)
