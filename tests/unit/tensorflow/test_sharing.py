"""Savers of one process share a run below an address, as they share a directory without one."""

from __future__ import annotations

import contextlib
import gc

import pytest

tf = pytest.importorskip("tensorflow")

import ckptd.tensorflow  # noqa: E402
from ckptd.tensorflow.refusals import RefusedError  # noqa: E402
from tests.fakes.waiting import eventually  # noqa: E402

v1 = tf.compat.v1


def saved(address, value, step, **options):
    """Save from a graph of its own; return the Saver."""
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable("w", initializer=value)
        session.run(v1.global_variables_initializer())
        saver = ckptd.tensorflow.Saver(address=address, timeout_s=60, **options)
        saver.save(session, "run/model.ckpt", global_step=step)
    return saver


def test_a_second_saver_saves_beside_the_first_and_after_one_that_was_dropped(tmp_path):
    address = str(tmp_path)
    first = saved(address, 1.0, 1)
    second = saved(address, 2.0, 2)
    assert first.last_checkpoints == second.last_checkpoints == ["run/model.ckpt-1", "run/model.ckpt-2"]
    del first, second
    made = []

    def may_begin():
        """Threads that carried the saves out may still end, and hold what was dropped until then."""
        gc.collect()
        with contextlib.suppress(RefusedError):
            made.append(saved(address, 3.0, 3, max_to_keep=1))
        return bool(made)

    eventually(may_begin)
    [third] = made
    assert third.last_checkpoints == ["run/model.ckpt-3"]
    assert ckptd.load_variable(f"{address}/run", "w") == 3.0
    third.close()


def test_a_manager_in_the_directory_of_another_is_told_to_go_beside_it(tmp_path):
    checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0))
    for manager_of in (tf.train.CheckpointManager, ckptd.tensorflow.CheckpointManager):
        directory = tmp_path / manager_of.__module__
        outer, inner = (manager_of(checkpoint, str(directory / at), 3) for at in ("run", "run/best"))
        outer.save()
        if manager_of is tf.train.CheckpointManager:
            inner.save()
            continue
        with pytest.raises(ValueError, match="run/best cannot be a run: it is inside the run .*choose a name beside"):
            inner.save()
        beside = manager_of(checkpoint, str(directory / "run-best"), 3)
        beside.save()
        outer.save()
        assert [len(one.checkpoints) for one in (outer, beside)] == [2, 1]
