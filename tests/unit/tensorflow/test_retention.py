"""What is too many is gone when a save returns; hours, lists and clocks as with TensorFlow."""

from __future__ import annotations

import os
import time
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import pytest
import tensorflow as tf

import ckptd.tensorflow
from ckptd.errors import ConflictError
from tests.unit.tensorflow.beside import indices, managers

v1 = tf.compat.v1


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
        keep_checkpoint_every_n_hours=0.9,
    )
    with mock.patch.object(time, "time", return_value=time.time() + 3600.0):
        for _ in range(3):
            made.save()
    assert indices(tmp_path / "run") == ["ckpt-1.index", "ckpt-3.index"]


def test_the_hours_count_so_beside_a_daemon_too(tmp_path, daemon):
    made = ckptd.tensorflow.CheckpointManager(
        tf.train.Checkpoint(v=tf.Variable(1.0)),
        "runs/m",
        max_to_keep=1,
        keep_checkpoint_every_n_hours=0.9,
        address=daemon.address,
    )
    with mock.patch.object(time, "time", return_value=time.time() + 3600.0):
        for _ in range(3):
            made.save()
    made.close()
    assert indices(tmp_path / "root/runs/m") == ["ckpt-1.index", "ckpt-3.index"]


def names(paths):
    return [os.path.basename(path) for path in paths]


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


def test_two_managers_of_different_names_do_not_delete_each_others_checkpoints(tmp_path):
    """With TensorFlow each knows its own list; here one list is the directory's."""
    checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0))
    last = ckptd.tensorflow.CheckpointManager(checkpoint, str(tmp_path / "run"), max_to_keep=1)
    best = ckptd.tensorflow.CheckpointManager(checkpoint, tmp_path / "run", max_to_keep=1, checkpoint_name="best")
    last.save()
    with pytest.raises(ConflictError, match="give each a directory of its own"):
        best.save()
    assert indices(tmp_path / "run") == ["ckpt-1.index"]
    assert int(checkpoint.save_counter) == 1
    last.close()
    best.save()
    assert indices(tmp_path / "run") == ["best-2.index"]


def test_a_saver_that_would_keep_nothing_is_refused(session):
    """TensorFlow deletes every checkpoint right after it was saved."""
    with pytest.raises(ValueError, match="below zero keeps no checkpoint at all"):
        ckptd.tensorflow.Saver(max_to_keep=-1)
