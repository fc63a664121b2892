"""`Checkpointer`s of one process share its place in a run, in direct mode and beside a daemon alike."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref

import numpy as np
import pytest

import ckptd
from ckptd.engine.saves.save import Save
from ckptd.errors import ConflictError, InvalidRequestError
from tests import seams
from tests.fakes.waiting import eventually
from tests.starts import prepared
from tests.unit.client.served import BOUND_S, Daemon


def tree(value):
    return {"w": np.full(4, value)}


@pytest.fixture(params=["direct", "daemon", "arena"])
def address(request, tmp_path):
    if request.param == "direct":
        yield str(tmp_path / "root")
    elif request.param == "daemon":
        yield request.getfixturevalue("daemon").address
    else:
        daemon = Daemon(tmp_path / "root", f"unix://{tmp_path / 's'}", arena_bytes=1 << 26)
        yield daemon.address
        daemon.stop()


@pytest.fixture
def held(monkeypatch):
    """Saves reach their outcome and wait there until this is set."""
    go_on = threading.Event()
    for seam in (seams.OUTCOME_IN_PROCESS, seams.OUTCOME_AT_DAEMON):
        real = seam.value

        def late(self, save, deadline, real=real):
            assert go_on.wait(BOUND_S)
            return real(self, save, deadline)

        seam.put(monkeypatch, late)
    yield go_on
    go_on.set()


def hold_of(transport):
    return transport.connection.hold


def open_run(address, **options):
    return ckptd.Checkpointer(address, "r", timeout_s=BOUND_S, **options)


def test_two_save_into_one_run_and_each_sees_all(address):
    with open_run(address) as first, open_run(address) as second:
        pending = [first.save(1, tree(1)), second.save(2, tree(2)), first.save(3, tree(3)), second.save(4, tree(4))]
        assert [one.result(BOUND_S).step for one in pending] == [1, 2, 3, 4]
        assert sorted(each.step for each in first.checkpoints()) == [1, 2, 3, 4]
        assert [first.restore(step)["w"][0] for step in (1, 2, 3, 4)] == [1, 2, 3, 4]
        assert first.checkpoints() == second.checkpoints()
        assert hold_of(first.transport).common is hold_of(second.transport).common


@pytest.mark.parametrize("goes_first", ["first", "second"])
def test_the_other_one_goes_on_after_one_has_closed(address, goes_first):
    first, second = open_run(address), open_run(address)
    first.save(1, tree(1)).result(BOUND_S)
    second.save(2, tree(2)).result(BOUND_S)
    (first if goes_first == "first" else second).close()
    other = second if goes_first == "first" else first
    assert other.save(3, tree(3)).result(BOUND_S).step == 3
    assert other.restore()["w"][0] == 3
    other.close()


def test_the_run_is_left_with_the_last_one(address, another_process, monkeypatch):
    seams.DIRECT_LOCK_WAIT_S.put(monkeypatch, 0.1)
    seams.FIRST_CONFLICT_WAIT_S.put(monkeypatch, 0.2)
    first, second = open_run(address), open_run(address)
    for step, one in enumerate((first, second)):
        one.save(step, tree(step)).result(BOUND_S)
    first.close()
    another_process()
    with open_run(address) as other, pytest.raises(ConflictError):
        other.save(5, tree(5)).result(BOUND_S)
    second.close()
    another_process()
    with open_run(address) as other:
        assert other.save(6, tree(6)).result(BOUND_S).step == 6


def test_one_restores_what_another_has_begun(address, held):
    with open_run(address) as first, open_run(address, max_to_keep=3) as reading:
        pending = first.save(7, tree(7))
        assert not pending.done()
        threading.Timer(0.05, held.set).start()
        assert reading.restore()["w"][0] == 7


def test_other_options_are_refused_and_both_are_named(address):
    with open_run(address, max_to_keep=3) as first:
        first.save(1, tree(1)).result(BOUND_S)
        with open_run(address, max_to_keep=7) as second:
            with pytest.raises(InvalidRequestError, match=r"max_to_keep: give both the same.*expected 3.*7"):
                second.save(2, tree(2))
            assert second.restore()["w"][0] == 1  # reading needs no options
            first.close()
            assert second.save(2, tree(2)).result(BOUND_S).step == 2


def test_the_name_belongs_to_each_checkpoint(address):
    with open_run(address) as first, open_run(address, name="best") as second:
        first.save(1, tree(1)).result(BOUND_S)
        assert os.path.basename(second.save(1, tree(2)).result(BOUND_S).prefix) == "best-1"
        assert first.restore(1)["w"][0] == 1
        assert second.restore(1)["w"][0] == 2


def test_one_that_was_collected_lets_go_of_its_options(address):
    first = open_run(address, max_to_keep=3)
    first.save(1, tree(1)).result(BOUND_S)
    del first
    gc.collect()
    with open_run(address, max_to_keep=7) as second:
        assert second.save(2, tree(2)).result(BOUND_S).step == 2


def test_one_in_a_cycle_lets_go_when_it_stands_in_the_way(address):
    first = open_run(address, max_to_keep=3)
    first.itself = first
    first.save(1, tree(1)).result(BOUND_S)
    gc.disable()
    try:
        del first
        with open_run(address, max_to_keep=7) as second:
            assert second.save(2, tree(2)).result(BOUND_S).step == 2
    finally:
        gc.enable()


def test_one_that_was_collected_leaves_the_run_once_its_save_has_ended(address, held, another_process):
    first = open_run(address)
    pending = first.save(1, tree(1))
    transport, gone = first.transport, weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None
    entry = hold_of(transport).entry
    assert not entry.is_closed
    held.set()
    assert pending.result(BOUND_S).step == 1
    eventually(lambda: entry.is_closed)
    another_process()
    with open_run(address) as other:
        assert other.save(2, tree(2)).result(BOUND_S).step == 2


def test_what_a_collected_one_gave_away_goes_on(address):
    with open_run(address) as first:
        first.save(1, tree(1)).result(BOUND_S)
    reader = open_run(address).reader(1)
    watch = open_run(address).watch(timeout_s=BOUND_S)
    gc.collect()
    assert reader.get_tensor("w")[0] == 1
    assert next(watch).step == 1
    with open_run(address) as again:
        again.save(2, tree(2)).result(BOUND_S)
    assert next(watch).step == 2
    assert reader.get_tensor("w")[0] == 1
    watch.close()


def test_the_same_step_at_once_is_refused_to_the_second_and_the_first_is_whole(address, monkeypatch):
    commits, go_on, commit = threading.Event(), threading.Event(), Save.commit

    def late(self):
        commits.set()
        assert go_on.wait(BOUND_S)
        commit(self)

    seams.COMMIT_SAVE.put(monkeypatch, late)
    with open_run(address) as first, open_run(address) as second:
        one = first.save(1, tree(1))
        assert commits.wait(BOUND_S)
        other = second.save(1, tree(2), overwrite=True)
        assert isinstance(other.exception(BOUND_S), ConflictError)
        go_on.set()
        assert one.result(BOUND_S).step == 1
        assert second.restore(1)["w"][0] == 1
        assert second.save(1, tree(3), overwrite=True).result(BOUND_S).step == 1
        assert first.restore(1)["w"][0] == 3


def test_a_link_to_the_root_means_the_same_root(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "root")
    with open_run(str(tmp_path / "root")) as first, open_run(str(tmp_path / "link")) as second:
        assert first.save(1, tree(1)).result(BOUND_S).prefix == str(tmp_path / "root/r/model.ckpt-1")
        assert second.save(2, tree(2)).result(BOUND_S).prefix == str(tmp_path / "link/r/model.ckpt-2")
        assert [each.prefix for each in second.checkpoints()] == [
            str(tmp_path / f"link/r/model.ckpt-{step}") for step in (1, 2)
        ]


def test_one_that_only_deletes_or_pins_takes_no_side_about_options(tmp_path):
    address = str(tmp_path / "root")
    with open_run(address, max_to_keep=3) as first, open_run(address) as other:
        for step in (1, 2):
            first.save(step, tree(step)).result(BOUND_S)
        other.pin(1)
        other.unpin(1)
        other.delete(1)
        assert [each.step for each in first.checkpoints()] == [2]


FORKING = """
import gc, os, sys
import numpy as np
import ckptd

arrays = {"w": np.ones(4)}
first = ckptd.Checkpointer(sys.argv[1], "r")
first.save(1, arrays).result(60)
child = os.fork()
if not child:
    code = 1
    try:
        del first
        gc.collect()  # it is the parent's, and lets go of nothing
        with ckptd.Checkpointer(sys.argv[1], "r") as mine:
            if isinstance(mine.save(2, arrays).exception(30), ckptd.ConflictError):
                code = 0
    finally:
        os._exit(code)
assert os.waitpid(child, 0)[1] == 0
assert first.save(3, arrays).result(60).step == 3
first.close()
with ckptd.Checkpointer(sys.argv[1], "r") as again:
    assert again.latest().step == 3
"""


def test_a_forked_child_shares_nothing_with_its_parent(tmp_path):
    prepared.run([sys.executable, "-c", FORKING, str(tmp_path / "root")], check=True, timeout=BOUND_S * 2)


def test_one_that_names_the_daemon_otherwise_is_told_so(tmp_path, monkeypatch):
    seams.FIRST_CONFLICT_WAIT_S.put(monkeypatch, 0.1)
    seams.IS_REFUSED_AGAIN.put(monkeypatch, lambda text: True)  # others ask for the first line of this
    daemon = Daemon(tmp_path / "root", f"unix://{tmp_path / 's'}")
    (tmp_path / "other").symlink_to(tmp_path / "s")
    with open_run(daemon.address) as first, open_run(f"unix://{tmp_path / 'other'}") as second:
        first.save(1, tree(1)).result(BOUND_S)
        with pytest.raises(ConflictError, match="another Checkpointer of this process, .* give both the same"):
            second.save(2, tree(2)).result(BOUND_S)
        assert second.restore()["w"][0] == 1
    daemon.stop()
