"""What goes wrong around the manager: damage, pins of others, managers that are dropped, policies without anything."""

from __future__ import annotations

import datetime
import gc
import os
import weakref

import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

import ckptd
from ckptd.errors import CkptdError, ConflictError, CorruptionError, InvalidRequestError
from ckptd.jax import CheckpointManager


def tree(step):
    return {"w": jnp.full(100, float(step)), "step": step}


@pytest.fixture
def damaged(tmp_path):
    """A run of three steps, the newest of them damaged."""
    with CheckpointManager(tmp_path / "run") as manager:
        for step in (1, 2, 3):
            manager.save(step, tree(step))
    (shard,) = (tmp_path / "run").glob("model.ckpt-3.data-*")
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    return tmp_path / "run"


def test_where_the_newest_is_damaged_the_one_before_is_restored_and_said(damaged, caplog):
    with CheckpointManager(damaged) as manager:
        assert manager.latest_step() == 3
        assert not manager.should_save(3)
        assert manager.restore()["step"] == 2
        assert "step 3 is damaged, and step 2 is restored instead" in caplog.text
        assert manager.latest_step() == 2
        assert manager.save(3, tree(33))
        assert manager.restore()["w"][0] == 33


def test_a_step_that_is_asked_for_and_damaged_is_an_error_and_is_saved_again(damaged):
    with CheckpointManager(damaged) as manager:
        assert not manager.should_save(3)
        with pytest.raises(CorruptionError, match="checksum"):
            manager.restore(3)
        assert manager.restore(2)["step"] == 2
        assert manager.save(3, tree(33))
        assert manager.restore(3)["w"][0] == 33


@pytest.mark.parametrize("lost", ["model.ckpt-3.data-00000-of-00001", "model.ckpt-3.index"])
@pytest.mark.parametrize("cut", [False, True], ids=["gone", "cut short"])
def test_a_step_that_lost_a_file_is_saved_again_by_the_job_that_went_back(tmp_path, lost, cut):
    with CheckpointManager(tmp_path / "run", max_to_keep=3) as manager:
        for step in (1, 2, 3):
            manager.save(step, tree(step))
    if cut:
        os.truncate(tmp_path / "run" / lost, 20)
    else:
        (tmp_path / "run" / lost).unlink()
    with CheckpointManager(tmp_path / "run", max_to_keep=3) as manager:
        assert manager.restore()["step"] == 2
        for step in (3, 4):
            assert manager.save(step, tree(10 * step))
        assert manager.all_steps() == [2, 3, 4]
    with CheckpointManager(tmp_path / "run") as manager:
        assert manager.restore(3)["w"][0] == 30
    assert ckptd.verify(tmp_path / "run").ok


def test_a_rollback_over_the_pin_of_others_deletes_nothing(tmp_path):
    often = datetime.timedelta(microseconds=1)
    with CheckpointManager(tmp_path / "run", keep_time_interval=often) as manager:
        for step in (1, 2, 3):
            manager.save(step, tree(step))
    with CheckpointManager(tmp_path / "run") as manager:
        for step in (4, 5):
            manager.save(step, tree(step))
        with pytest.raises(ConflictError, match=r"\[2, 3\].*Nothing is deleted; checkpointer.unpin"):
            manager.roll_back(1)
        assert manager.all_steps() == [1, 2, 3, 4, 5]
        for step in (2, 3):
            manager.checkpointer.unpin(step)
        assert manager.roll_back(1) == [2, 3, 4, 5]
        assert manager.save(2, tree(22))


def test_a_manager_that_is_dropped_is_gone_at_once_though_its_save_goes_on(tmp_path):
    gc.disable()  # nothing may depend on when cycles are collected
    try:
        manager = CheckpointManager(tmp_path / "run", save_interval_steps=1)
        manager.save(1, tree(1))
        gone = weakref.ref(manager)
        del manager
        assert gone() is None
    finally:
        gc.enable()
    with CheckpointManager(tmp_path / "run") as manager:
        assert manager.restore()["step"] == 1


def test_a_policy_is_called_only_where_there_are_checkpoints(tmp_path):
    class Latest:
        def should_preserve(self, checkpoints, *, context):
            newest = checkpoints[-1].step
            return [one.step == newest for one in checkpoints]

    with CheckpointManager(tmp_path / "run", preservation_policy=Latest()) as manager:
        for step in (1, 2, 3):
            assert manager.save(step, tree(step))
        assert manager.all_steps() == [3]


def test_a_job_that_begins_anew_beside_orbaxs_checkpoints_is_told_so(tmp_path, caplog):
    with ocp.CheckpointManager(tmp_path / "run") as stock:
        stock.save(7, args=ocp.args.StandardSave({"w": jnp.ones(4)}))
    with CheckpointManager(tmp_path / "run") as manager:
        for _ in range(2):
            assert manager.latest_step() is None
        told = [each.getMessage() for each in caplog.records if "checkpoints of Orbax (7)" in each.getMessage()]
        assert len(told) == 1
        assert manager.save(8, tree(8))
    with CheckpointManager(tmp_path / "run") as manager:
        assert manager.latest_step() == 8


def test_a_directory_whose_name_is_too_long_is_refused_by_name(tmp_path):
    with pytest.raises(InvalidRequestError, match="the name is too long for this file system"):
        CheckpointManager(tmp_path / ("a" * 300))


def test_a_step_whose_save_has_failed_is_saved_when_it_is_tried_again(tmp_path):
    with CheckpointManager(tmp_path / "run") as manager:
        in_the_way = tmp_path / "run" / "model.ckpt-1.index"
        in_the_way.mkdir(parents=True)
        manager.save(1, tree(1))
        with pytest.raises(CkptdError):
            manager.wait_until_finished()
        in_the_way.rmdir()
        assert manager.should_save(1)
        assert manager.save(1, tree(11))
        assert not manager.should_save(1)
        assert manager.restore()["step"] == 11
