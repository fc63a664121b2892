"""Paths: what may be in a name, where a directory may be, and what is refused before anything is written."""

from __future__ import annotations

import os

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

import ckptd.tensorflow
from ckptd.errors import CkptdError, InvalidRequestError
from tests.unit.tensorflow.beside import managers, savers, small_model

v1 = tf.compat.v1


NAMES = ["a:b", "m odel", "m{x}", "x:y/m.ckpt", "m[1]", "m*?"]


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


@pytest.mark.parametrize(
    ("directory", "name"), [("run", "a b"), ("run", "a[0]"), ("run", "a:b"), ("my run", "ckpt"), ("run [1]", "ckpt")]
)
def test_a_manager_refuses_odd_names_before_it_writes_and_says_what_they_may_hold(tmp_path, directory, name):
    with pytest.raises(ValueError, match="may hold letters, digits and"):
        ckptd.tensorflow.CheckpointManager(
            tf.train.Checkpoint(v=tf.Variable(3.0)), str(tmp_path / directory), max_to_keep=1, checkpoint_name=name
        )
    assert list(tmp_path.iterdir()) == []


@savers
def test_a_path_below_a_file_is_a_value_error(tmp_path, session, saver_of):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"Parent directory of .* doesn't exist, can't save"):
        saver_of().save(session, str(tmp_path / "file/model.ckpt"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_sharded_saver_refuses_the_state_files_name_before_it_writes(tmp_path, session, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("checkpoint", str(tmp_path / "checkpoint")):
        with pytest.raises(InvalidRequestError, match="conflicts with path used for checkpoint state"):
            ckptd.tensorflow.Saver(sharded=True).save(session, path)
        assert list(tmp_path.iterdir()) == []
    # Without a state file nothing stands in its way.
    ckptd.tensorflow.Saver(sharded=True).save(session, "checkpoint", write_state=False)
    assert (tmp_path / "checkpoint.index").exists()


@savers
def test_a_path_that_no_state_file_can_name_is_refused_before_anything_is_written(tmp_path, session, saver_of):
    with pytest.raises((tf.errors.OpError, CkptdError)):
        saver_of().save(session, f"{tmp_path}/a\udc80b")
    assert list(tmp_path.iterdir()) == []


@managers
@pytest.mark.parametrize("directory", ["file", "file/below/run"])
def test_a_managers_directory_that_is_a_file_is_refused(tmp_path, manager_of, directory):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(tf.errors.OpError, match="file is (a file|not a directory)|Not a directory"):
        manager_of(tf.train.Checkpoint(v=tf.Variable(1.0)), str(tmp_path / directory), max_to_keep=1).save()
    assert (tmp_path / "file").read_text() == "mine"
