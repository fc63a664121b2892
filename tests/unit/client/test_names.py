"""Several names in one run: a step belongs to its name, for everything that takes a step or looks for the latest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ckptd
from ckptd import Checkpointer
from ckptd.errors import InvalidRequestError, NotFoundError
from tests import seams
from tests.fakes.waiting import eventually
from tests.unit.client.served import Daemon

BOUND_S = 60.0


@pytest.fixture(params=["direct", "daemon"])
def address(request, tmp_path):
    root = tmp_path / "root"
    daemon = Daemon(root, lease_s=1.0) if request.param == "daemon" else None
    yield daemon.address if daemon else str(root)
    if daemon:
        daemon.stop()


def opened(address, **options):
    return Checkpointer(address, run="r", **{"timeout_s": BOUND_S, **options})


def value(number):
    return {"w": np.full(300_000, float(number))}


def bases(checkpoints):
    return [checkpoint.prefix.rpartition("/")[2] for checkpoint in checkpoints]


@pytest.fixture
def both(address):
    """Steps 6 and 7 of "best", whose values are above 100, and of the usual name; the last one is of "best"."""
    with opened(address) as ckpt:
        ckpt.save(6, value(106), name="best").result(BOUND_S)
        ckpt.save(6, value(6)).result(BOUND_S)
        ckpt.save(7, value(7)).result(BOUND_S)
        ckpt.save(7, value(107), name="best").result(BOUND_S)
        yield ckpt


def test_a_step_is_saved_under_two_names_at_once(address):
    with opened(address) as ckpt:
        pending = [ckpt.save(5, value(5)), ckpt.save(5, value(105), name="best")]
        assert bases(one.result(BOUND_S) for one in pending) == ["model.ckpt-5", "best-5"]
        assert (ckpt.restore(5)["w"][0], ckpt.restore(5, name="best")["w"][0]) == (5, 105)


def test_whatever_takes_a_step_means_its_own_name(both):
    assert [both.restore(step)["w"][0] for step in (6, 7, None)] == [6, 7, 7]
    assert [both.restore(step, name="best")["w"][0] for step in (6, 7, None)] == [106, 107, 107]
    assert both.reader(6).get_tensor("w")[0] == 6
    assert both.pin(6).prefix.endswith("/model.ckpt-6")
    assert [one.pinned for one in both.checkpoints(name="*")] == [False, True, False, False]
    assert both.unpin(6).prefix.endswith("/model.ckpt-6")
    both.delete(6, name="best")
    assert bases(both.checkpoints(name="*")) == ["model.ckpt-6", "model.ckpt-7", "best-7"]
    with pytest.raises(NotFoundError):
        both.delete(6, name="best")
    with pytest.raises(NotFoundError):
        both.pin(6, name="best")
    both.delete(6)
    assert both.undelete(6, name="best").prefix.endswith("/best-6")
    assert both.undelete(6).prefix.endswith("/model.ckpt-6")


def test_latest_and_the_list_are_of_the_own_name(both):
    assert bases([both.latest(), both.latest(name="best"), both.latest(name="*")]) == [
        "model.ckpt-7",
        "best-7",
        "best-7",
    ]
    assert bases(both.checkpoints()) == ["model.ckpt-6", "model.ckpt-7"]
    assert bases(both.checkpoints(name="best")) == ["best-6", "best-7"]
    assert bases(both.checkpoints(name="*")) == ["best-6", "model.ckpt-6", "model.ckpt-7", "best-7"]
    assert both.latest(name="other") is None
    with pytest.raises(NotFoundError, match="of name 'other'; it has some of best, model.ckpt: pass name="):
        both.restore(name="other")
    with pytest.raises(InvalidRequestError):
        both.latest(name="a/b")


def test_a_list_that_names_no_more_than_the_very_latest_hides_no_other_name(address):
    with opened(address, max_to_keep=None) as ckpt:
        ckpt.save(1, value(1)).result(BOUND_S)
        ckpt.save(1, value(101), name="best").result(BOUND_S)
        assert ckpt.latest().prefix.endswith("/model.ckpt-1")
    with opened(address, max_to_keep=None) as reading:
        assert reading.latest().prefix.endswith("/model.ckpt-1")
        assert next(reading.watch(BOUND_S)).prefix.endswith("/model.ckpt-1")
        assert next(reading.watch(BOUND_S, name="best")).prefix.endswith("/best-1")


def test_who_says_no_name_reads_what_there_is(address):
    with opened(address, name="m") as ckpt:
        ckpt.save(1, value(1)).result(BOUND_S)
        ckpt.save(2, value(2)).result(BOUND_S)
    with opened(address) as reading:
        assert bases([reading.latest(), *reading.checkpoints()]) == ["m-2", "m-1", "m-2"]
        assert (reading.restore()["w"][0], reading.restore(1)["w"][0]) == (2, 1)
        assert next(reading.watch(BOUND_S)).prefix.endswith("/m-2")
        assert reading.pin(1).prefix.endswith("/m-1")
    with opened(address, name="other") as other:
        assert (other.latest(), other.checkpoints()) == (None, [])
        other.save(1, value(3)).result(BOUND_S)
    with opened(address) as reading:
        with pytest.raises(InvalidRequestError, match="several names: m, other"):
            reading.restore(1)
        with pytest.raises(InvalidRequestError, match="several names: m, other"):
            reading.unpin(1)


def test_a_watcher_hears_of_its_own_name_only(both, address):
    heard = [both.watch(name="best"), both.watch(), both.watch(name="*")]
    assert bases(map(next, heard)) == ["best-7", "model.ckpt-7", "best-7"]
    both.save(8, value(8)).result(BOUND_S)
    assert bases([next(heard[1]), next(heard[2])]) == ["model.ckpt-8", "model.ckpt-8"]
    both.save(9, value(109), name="best").result(BOUND_S)
    assert next(heard[0]).prefix.endswith("/best-9")


def test_the_oldest_come_first_whatever_is_pinned(address):
    with opened(address, max_to_keep=2) as ckpt:
        for step in range(1, 4):
            ckpt.save(step, value(step)).result(BOUND_S)
        ckpt.pin(3)
        for step in range(4, 9):
            ckpt.save(step, value(step)).result(BOUND_S)
            # Also before retention has come to what the new one made too many.
            steps = [one.step for one in ckpt.checkpoints()]
            assert steps == sorted(steps)
            assert len(steps) <= 3
        eventually(lambda: [one.step for one in ckpt.checkpoints()] == [3, 7, 8])


@pytest.mark.parametrize(
    ("run", "name"),
    [("my run", "a:b"), ("runs/12:30 [1]", "model (1)"), ("run:1", "a[0-9]"), ("(a) {b}", "m copy"), ("[x]", "m, v=1")],
)
def test_colons_spaces_and_brackets_are_as_any_other_character(address, run, name):
    with Checkpointer(address, run=run, name=name, max_to_keep=2, timeout_s=BOUND_S) as ckpt:
        for step in (1, 2, 3):
            ckpt.save(step, {"w": np.full(3, step)}, meta_graph=b"graph").result(BOUND_S)
        ckpt.settle()
        assert bases(ckpt.checkpoints()) == [f"{name}-2", f"{name}-3"]
        assert bases([ckpt.pin(2), ckpt.unpin(2)]) == [f"{name}-2"] * 2
        ckpt.delete(2)
        assert bases([ckpt.undelete(2)]) == [f"{name}-2"]
        assert ckpt.meta_graph(2) == b"graph"
        with ckpt.watch(BOUND_S) as watch:
            assert bases([next(iter(watch))]) == [f"{name}-3"]
        where = ckpt.latest().prefix.rpartition("/")[0]
    with Checkpointer(address, run=run, name=name, max_to_keep=2, timeout_s=BOUND_S) as again:
        assert again.restore()["w"][0] == 3
    assert ckptd.latest_checkpoint(where) == f"{where}/{name}-3"
    assert ckptd.load_checkpoint(where)["w"][0] == 3
    assert ckptd.verify(f"{where}/{name}-3").ok
    assert [each.name for each in Path(where).glob("*.index")].count(f"{name}-1.index") == 0


def test_an_older_daemon_refuses_such_a_name_in_words(daemon, monkeypatch):
    with Checkpointer(daemon.address, run="my run", timeout_s=BOUND_S) as ckpt:
        seams.CHECK_RUN_NAME.put(monkeypatch, _as_older_versions)
        with pytest.raises(InvalidRequestError, match="'my run' may hold letters, digits and"):
            ckpt.save(1, value(1)).result(BOUND_S)
        monkeypatch.undo()
        assert ckpt.save(1, value(1)).result(BOUND_S).step == 1  # it was replaced by one of this version


def _as_older_versions(run):
    if " " in run:
        raise InvalidRequestError(f"run name {run!r} may hold letters, digits and . _ + = @ , -")
    return run
