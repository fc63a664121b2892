"""Arrays from `staging`: what is changed after `save` has returned is never in a checkpoint, on every transport."""

from __future__ import annotations

import numpy as np
import pytest

import ckptd
from ckptd.errors import CorruptionError

TIMEOUT_S = 60.0
SIZE = 12 << 20
SAVES = 4


@pytest.fixture(params=["shared memory", "stream", "direct"])
def ckpt(request, tmp_path, monkeypatch):
    if request.param == "stream":
        monkeypatch.setenv("CKPTD_TRANSPORT", "stream")
    is_direct = request.param == "direct"
    address = str(tmp_path / "root") if is_direct else request.getfixturevalue("daemon").address
    with ckptd.Checkpointer(address, "r", rank=0, world_size=1, timeout_s=TIMEOUT_S) as ckpt:
        yield ckpt


def staged(ckpt, value):
    array = ckpt.staging("w", (SIZE,), np.uint8)
    array[:] = value
    return array


def check_saved(ckpt, pending, expected):
    """The save was aborted, or its file has what was there when `save` returned. Returns whether it was saved."""
    error = pending.exception(TIMEOUT_S)
    if error is not None:
        assert isinstance(error, CorruptionError), error
        assert "changed during the save" in str(error)
        assert pending.step not in [one.step for one in ckpt.checkpoints()]
        return False
    np.testing.assert_array_equal(ckptd.load_checkpoint(pending.checkpoint.prefix).get_tensor("w"), expected)
    return True


def test_what_is_changed_too_late_is_not_saved(ckpt):
    for step, late in enumerate([slice(None), slice(SIZE // 2, None), slice(-1, None), slice(SIZE // 2, None)]):
        array = staged(ckpt, 1)
        pending = ckpt.save(step, {"w": array})
        array[late] = 2
        check_saved(ckpt, pending, np.ones(SIZE, np.uint8))


def test_what_is_changed_and_changed_back_is_not_saved_either(ckpt):
    for step in range(SAVES):
        array = staged(ckpt, 1)
        pending = ckpt.save(step, {"w": array})
        while not pending.done():
            array[::4096] = 2
            array[::4096] = 1
        check_saved(ckpt, pending, np.ones(SIZE, np.uint8))


def test_what_is_left_alone_is_saved(ckpt):
    for step in range(SAVES):
        array = staged(ckpt, step)
        pending = ckpt.save(step, {"w": array, "words": ["a", "bc"], "step": step})
        assert check_saved(ckpt, pending, np.full(SIZE, step, np.uint8))
        assert ckpt.restore(step)["words"].tolist() == [b"a", b"bc"]


def test_who_promises_to_leave_it_alone_need_not_wait_for_the_sums(ckpt):
    for step in range(SAVES):
        pending = ckpt.save(step, {"w": staged(ckpt, step)}, immutable=True)
        assert check_saved(ckpt, pending, np.full(SIZE, step, np.uint8))


def test_an_array_of_an_earlier_save_changes_no_later_one(ckpt):
    """It lies in memory that is used again, for saves that copy as well."""
    old = []
    for step in range(2):
        old.append(staged(ckpt, 1))
        ckpt.save(step, {"w": old[step]}).result(TIMEOUT_S)
    source = np.full(SIZE, 7, np.uint8)
    for step in range(2, 2 + SAVES):
        pending = ckpt.save(step, {"w": source})
        for array in old:
            array[SIZE // 2 :] = 2
        check_saved(ckpt, pending, source)


def test_what_is_changed_after_the_save_has_ended_is_not_restored(ckpt):
    array = staged(ckpt, 1)
    ckpt.save(1, {"w": array}).result(TIMEOUT_S)
    array[:] = 2
    assert (ckpt.restore(1)["w"] == 1).all()
    assert (ckpt.restore(1, slices={"w": ([100], [1000])})["w"] == 1).all()
    assert (ckpt.reader(1).get_slice("w", [100], [1000]) == 1).all()
