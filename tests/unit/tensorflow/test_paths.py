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


@pytest.mark.parametrize("path", ["runs/a:b", "runs/m odel", "runs/m[1]", "a:b [2]/m (1)"])
def test_below_an_address_such_names_are_saved_and_restored(tmp_path, session, path):
    saver = ckptd.tensorflow.Saver(address=str(tmp_path))
    saver.save(session, path, 3)
    assert (tmp_path / f"{path}-3.index").exists()
    saver.restore(session, f"{path}-3")
    saver.close()


@pytest.mark.parametrize("path", ["runs/a*b", "runs/m?", "runs/a\tb", "runs/a:", "runs/ a", "a\\b/m"])
def test_below_an_address_other_names_are_refused_and_nothing_is_written(tmp_path, session, path):
    saver = ckptd.tensorflow.Saver(address=str(tmp_path))
    with pytest.raises(ValueError, match="may hold letters, digits, spaces and") as told:
        saver.save(session, path)
    assert isinstance(told.value, CkptdError)
    assert not list(tmp_path.rglob("*.index"))


ODD = [("run", "a b"), ("run", "a:b"), ("my run", "ckpt"), ("a {1}(2)", "m: 1")]
IN_SQUARE_BRACKETS = [("run", "a[0]"), ("run [1]", "ckpt")]


def saved_twice_and_continued(manager_of, directory, name):
    """Return what the manager of a second start restores, the first step of which was 1 and the last 2."""
    made = {"max_to_keep": 1, "checkpoint_name": name}
    manager = manager_of(tf.train.Checkpoint(v=tf.Variable(3.0)), str(directory), **made)
    for _ in range(2):
        manager.save()
    checkpoint = tf.train.Checkpoint(v=tf.Variable(0.0))
    manager = manager_of(checkpoint, str(directory), **made)
    manager.restore_or_initialize()
    return os.path.basename(manager.latest_checkpoint or ""), checkpoint.v.numpy()


@pytest.mark.parametrize(("directory", "name"), ODD)
def test_a_manager_takes_the_odd_names_that_stock_takes(tmp_path, directory, name):
    found = {}
    for kind, manager_of in {
        "stock": tf.train.CheckpointManager,
        "ours": ckptd.tensorflow.CheckpointManager,
    }.items():
        found[kind] = saved_twice_and_continued(manager_of, tmp_path / kind / directory, name)
    assert found["ours"] == found["stock"] == (f"{name}-2", 3.0)
    ours = tmp_path / "ours" / directory
    assert tf.train.latest_checkpoint(str(ours)) == str(ours / f"{name}-2")
    assert tf.train.load_checkpoint(str(ours)).get_tensor("v/.ATTRIBUTES/VARIABLE_VALUE") == 3.0


@pytest.mark.parametrize(("directory", "name"), IN_SQUARE_BRACKETS)
def test_a_manager_finds_again_what_tensorflow_takes_for_a_pattern(tmp_path, directory, name):
    where = tmp_path / directory
    assert saved_twice_and_continued(ckptd.tensorflow.CheckpointManager, where, name) == (f"{name}-2", 3.0)
    assert ckptd.tensorflow.latest_checkpoint(where) == str(where / f"{name}-2")
    assert tf.train.latest_checkpoint(str(where)) is None


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
