"""A directory of checkpoints that came from elsewhere: what its state file means is found, and the log says how."""

import logging
import os
import shutil

import numpy as np
import pytest

import ckptd
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.settings import Settings
from ckptd.errors import CorruptionError
from ckptd.storage.local.local_store import LocalStore


@pytest.fixture
def run(tmp_path):
    with ckptd.Checkpointer(tmp_path, "runs/a") as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, {"w": np.full(3, step)})
    return tmp_path / "runs" / "a"


def state_of(*paths):
    listed = "".join(f'all_model_checkpoint_paths: "{path}"\n' for path in paths)
    return f'model_checkpoint_path: "{paths[-1]}"\n{listed}'


MOVED = {
    "another machine's": state_of(*(f"/home/someone/a/model.ckpt-{step}" for step in (1, 2, 3))),
    "Windows'": state_of(*(rf"D:\\proj\\a\\model.ckpt-{step}" for step in (1, 2, 3))),
    "a bucket's": state_of(*(f"s3://old/a/model.ckpt-{step}" for step in (1, 2, 3))),
    "a directory's above": state_of(*(f"../b/model.ckpt-{step}" for step in (1, 2, 3))),
}


@pytest.mark.parametrize("state", MOVED.values(), ids=MOVED)
def test_a_moved_directory_goes_on_where_it_was(run, state, caplog):
    (run / "checkpoint").write_text(state)
    assert ckptd.latest_checkpoint(run) == f"{run}/model.ckpt-3"
    assert "found by its name, beside the state file" in caplog.text
    with ckptd.Checkpointer(run.parent.parent, "runs/a", max_to_keep=3) as checkpointer:
        assert checkpointer.latest().step == 3
        assert checkpointer.restore()["w"].tolist() == [3, 3, 3]
        checkpointer.save(4, {"w": np.zeros(3)}).result()
    assert ckptd.get_checkpoint_state(run).all_model_checkpoint_paths == tuple(
        f"{run}/model.ckpt-{step}" for step in (2, 3, 4)
    )
    assert 'model_checkpoint_path: "model.ckpt-4"' in (run / "checkpoint").read_text()
    assert not (run / "model.ckpt-1.index").exists()  # retention knows the old ones for what they are


@pytest.mark.parametrize("is_daemon", [False, True], ids=["reader", "owner"])
@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (("model.ckpt-1", "model.ckpt-2", "model.ckpt-9"), 2),  # the newest that is listed and there
        (("model.ckpt-9",), 3),  # the newest that is there
        (("/nowhere/model.ckpt-9",), 3),
    ],
)
def test_what_is_named_and_not_there_is_passed_by_with_a_word(run, named, expected, is_daemon, caplog):
    caplog.set_level(logging.INFO)
    (run / "checkpoint").write_text(state_of(*named))
    if is_daemon:
        coordinator = Coordinator(LocalStore(run.parent.parent), settings=Settings())
        coordinator.open()
        latest = coordinator.latest("runs/a")
        coordinator.close()
    else:
        with ckptd.Checkpointer(run.parent.parent, "runs/a") as checkpointer:
            latest = checkpointer.latest()
    assert latest.step == expected
    assert "model.ckpt-9" in caplog.text or "none that it lists is whole here" in caplog.text
    assert (run / "checkpoint").read_text() == state_of(*named)  # looking changes nothing


def test_a_latest_that_is_not_whole_is_passed_by(run, caplog):
    (run / "model.ckpt-3.data-00000-of-00001").unlink()
    with ckptd.Checkpointer(run.parent.parent, "runs/a") as checkpointer:
        assert checkpointer.latest().step == 2
        checkpointer.save(4, {"w": np.zeros(3)}).result()
    assert "shard" in caplog.text
    assert (run / "model.ckpt-3.index").exists()  # doubtful files stay


def test_a_run_is_the_same_by_whatever_path_it_is_reached(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with ckptd.Checkpointer(tmp_path / "link", "runs/a", save_relative_paths=False) as checkpointer:
        checkpointer.save(7, {"w": np.ones(3)})
    shutil.move(tmp_path / "real/runs/a/checkpoint", tmp_path / "real/runs/checkpoint")
    with ckptd.Checkpointer(tmp_path / "real", "runs") as checkpointer:  # now it names another directory of the store
        assert checkpointer.latest().step == 7
    shutil.move(tmp_path / "real/runs/checkpoint", tmp_path / "real/runs/a/checkpoint")
    with ckptd.Checkpointer(tmp_path / "real", "runs/a") as checkpointer:
        assert checkpointer.latest().step == 7


def test_without_anything_of_that_name_the_plain_function_says_none_as_tensorflow_does_and_a_word(run, caplog):
    (run / "checkpoint").write_text(state_of("model.ckpt-9"))
    assert ckptd.latest_checkpoint(run) is None
    assert "ckptd repair" in caplog.text
    assert "model.ckpt-3" in caplog.text


def test_a_person_can_still_begin_anew_by_removing_the_state_file_and_who_lost_it_is_told(run, caplog):
    (run / "checkpoint").unlink()
    with ckptd.Checkpointer(run.parent.parent, "runs/a") as checkpointer:
        assert checkpointer.latest() is None
    assert "this state file is missing" in caplog.text
    assert f"The newest whole checkpoint is {run}/model.ckpt-3; `ckptd repair {run}`" in caplog.text


@pytest.mark.parametrize("put", [os.mkdir, os.mkfifo], ids=["directory", "pipe"])
def test_what_lies_in_the_state_files_place_is_damage_for_every_reader_and_no_beginning(run, put):
    (run / "checkpoint").unlink()
    put(run / "checkpoint")
    with ckptd.Checkpointer(run.parent.parent, "runs/a") as checkpointer:
        for look in (checkpointer.latest, checkpointer.restore):
            with pytest.raises(CorruptionError, match="no file that can be read"):
                look()
    for function in (ckptd.latest_checkpoint, ckptd.get_checkpoint_state, ckptd.load_checkpoint):
        with pytest.raises(CorruptionError, match="no file that can be read"):
            function(run)
