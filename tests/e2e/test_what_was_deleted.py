"""What was deleted or replaced does not come back: not from the daemon's memory, nor from what a reader was offered."""

from __future__ import annotations

import numpy as np
import pytest

import ckptd
from ckptd.errors import ConflictError, NotFoundError

TIMEOUT_S = 60.0
NAMES = [f"t{number:02d}" for number in range(12)]
BOX = ([7], [1000])


def arrays(value):
    """Return what every data-parallel rank has, the same on each."""
    return {name: np.full(1 << 14, value + number, np.float32) for number, name in enumerate(NAMES)}


class Job:
    """Two data-parallel ranks."""

    def __init__(self, daemon):
        self.ranks = [
            ckptd.Checkpointer(daemon.address, "r", rank=rank, world_size=2, timeout_s=TIMEOUT_S) for rank in range(2)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for rank in self.ranks:
            rank.close()

    def save(self, step, value, **options):
        for pending in [rank.save(step, arrays(value), **options) for rank in self.ranks]:
            pending.result(TIMEOUT_S)

    def delete(self, step):
        self.ranks[0].delete(step, for_good=True, even_latest=True)

    def check(self, step, value):
        for rank in self.ranks:
            whole = rank.restore(step)
            boxes = rank.restore(step, names=NAMES, slices=dict.fromkeys(NAMES, BOX))
            into = {name: np.zeros(1 << 14, np.float32) for name in NAMES}
            rank.restore(step, into=into)
            for name, array in arrays(value).items():
                np.testing.assert_array_equal(whole[name], array)
                np.testing.assert_array_equal(into[name], array)
                np.testing.assert_array_equal(boxes[name], array[7:1007])


def test_a_step_that_is_deleted_and_saved_again_has_the_new_values(daemon):
    with Job(daemon) as job:
        job.save(5, 1000)  # the first save lies in memory in another order than the next
        job.delete(5)
        job.save(5, 5000)
        job.check(5, 5000)
        job.save(6, 6000)
        job.delete(5)
        job.save(5, 7000)
        job.check(5, 7000)
        job.check(6, 6000)


def test_a_job_that_rolls_back_after_a_restart_has_the_new_values(daemon):
    with Job(daemon) as job:
        for step, value in ((4, 100), (5, 1000), (6, 2000)):
            job.save(step, value)
    with Job(daemon) as job:
        job.delete(6)
    with Job(daemon) as job:
        job.save(6, 6000)
    with Job(daemon) as job:
        job.check(6, 6000)


def test_a_step_that_is_overwritten_again_and_again_has_the_newest_values(daemon):
    with Job(daemon) as job:
        for value in range(1000, 6000, 1000):
            job.save(5, value, overwrite=value > 1000)
            job.check(5, value)


def test_a_reader_that_was_offered_memory_never_sees_what_took_the_checkpoints_place(daemon):
    with Job(daemon) as job:
        job.save(5, 1000)
        reader = job.ranks[0].reader(5)
        np.testing.assert_array_equal(reader.get_slice("t03", *BOX), np.full(1000, 1003, np.float32))
        with pytest.raises(ConflictError, match="read"):
            job.delete(5)
        reader.close()  # it still reads what is there, and holds nothing
        job.delete(5)
        job.save(5, 5000)
        with pytest.raises(NotFoundError, match="deleted or replaced"):
            reader.get_slice("t03", *BOX)
        np.testing.assert_array_equal(job.ranks[0].reader(5).get_slice("t03", *BOX), np.full(1000, 5003, np.float32))


def test_what_is_undeleted_is_what_was_saved(daemon):
    with Job(daemon) as job:
        job.save(4, 100)
        job.save(5, 1000)
        job.ranks[0].delete(4)
        with pytest.raises(NotFoundError):
            job.ranks[1].restore(4)
        job.ranks[0].undelete(4)
        job.check(4, 100)


def test_saving_a_step_again_gives_up_the_undo_of_one_that_is_still_being_read(tmp_path):
    with ckptd.Checkpointer(tmp_path, "a") as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, {"w": np.full(9, step)}).result(TIMEOUT_S)
        with ckptd.load_checkpoint(tmp_path / "a/model.ckpt-2") as reader:
            checkpointer.delete(2, even_latest=True)
            checkpointer.save(2, {"w": np.full(9, 22)}).result(TIMEOUT_S)
            with pytest.raises(NotFoundError, match="nothing that was deleted lately"):
                checkpointer.undelete(2)
            checkpointer.delete(2, even_latest=True, for_good=True)
            assert set(reader["w"]) == {2}
        with pytest.raises(NotFoundError, match="nothing that was deleted lately"):
            checkpointer.undelete(2)
        assert checkpointer.latest().step == 1
