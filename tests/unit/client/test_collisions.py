"""Nothing writes over another's files: not a save, whatever its parts are called, nor a run, wherever it lies."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ckptd
from ckptd import Checkpointer
from ckptd.errors import ConflictError, InvalidRequestError
from tests.unit.client.served import Daemon

BOUND_S = 60.0
W = {"w": np.arange(12.0)}


@pytest.fixture(params=["direct", "daemon", "bucket"])
def address(request, tmp_path):
    if request.param == "bucket":
        yield f"memory://collisions-{tmp_path.name}"
        return
    root = tmp_path / "root"
    daemon = Daemon(root, lease_s=1.0) if request.param == "daemon" else None
    yield daemon.address if daemon else str(root)
    if daemon:
        daemon.stop()


def opened(address, run="r", **options):
    return Checkpointer(address, run, **{"timeout_s": BOUND_S, **options})


def save(ckpt, step, **options):
    return ckpt.save(step, W, **options).result(BOUND_S)


@pytest.mark.parametrize("suffix", ["index", "ckpt-5.index", "data-00000-of-00001", "ckpt-5.data-00000-of-00001"])
def test_a_graph_description_is_never_named_like_an_index_or_a_data_file(address, suffix):
    with opened(address) as ckpt:
        save(ckpt, 5)
        ckpt.pin(5)
        with pytest.raises(InvalidRequestError, match="graph description cannot end in"):
            ckpt.save(None, W, name="model", meta_graph=b"graph", meta_graph_suffix=suffix, overwrite=True)
        assert (ckpt.restore(5)["w"] == W["w"]).all()


@pytest.mark.parametrize("name", ["model.ckpt-1.index", "model.ckpt-1.data-00000-of-00001"])
def test_a_state_file_is_never_named_like_an_index_or_a_data_file(address, name):
    with pytest.raises(InvalidRequestError, match="a state file cannot be called"):
        opened(address, latest_filename=name)


def test_a_graph_description_is_never_written_over_that_of_another_checkpoint(address):
    with opened(address) as ckpt:
        save(ckpt, None, name="a.b", meta_graph=b"of a.b")
        save(ckpt, None, name="a")
        with pytest.raises(ConflictError, match=r"a\.b\.meta: this key is taken"):
            save(ckpt, None, name="a", meta_graph=b"of a", meta_graph_suffix="b.meta", overwrite=True)
        assert ckpt.reader("a.b").get_tensor("w")[1] == 1
        assert ckpt.latest(name="*").step is None


def test_a_checkpoint_never_gets_the_name_of_the_state_file(address):
    with opened(address, latest_filename="m-1.meta", name="m") as ckpt:
        save(ckpt, 2)
        with pytest.raises(ConflictError, match=r"m-1\.meta: this key is taken"):
            save(ckpt, 1, meta_graph=b"graph")
        assert ckpt.latest().step == 2


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_of_the_users_own_is_never_written_over(tmp_path, overwrite):
    notes = tmp_path / "r" / "model.ckpt-1.notes"
    with opened(str(tmp_path)) as ckpt:
        save(ckpt, 1)
        notes.write_text("keep me")
        with pytest.raises(ConflictError):
            save(ckpt, 1, meta_graph=b"graph", meta_graph_suffix="notes", overwrite=overwrite)
        assert notes.read_text() == "keep me"
        save(ckpt, 1, meta_graph=b"graph", overwrite=True)
        save(ckpt, 1, meta_graph=b"another", overwrite=True)
        assert ckpt.meta_graph(1) == b"another"
        assert (notes.read_text(), ckpt.restore(1)["w"][1]) == ("keep me", 1)


NESTED = ["checkpoint", "model.ckpt-7.index", "sub", "deeper/than/that"]


@pytest.mark.parametrize("inner", NESTED)
def test_a_run_inside_another_is_refused_in_both_orders(address, inner):
    with opened(address, f"one/job/{inner}") as ckpt:
        save(ckpt, 1)
    with (
        opened(address, "one/job") as outer,
        pytest.raises(InvalidRequestError, match="is inside it"),
    ):
        save(outer, 7)
    with opened(address, "two/job") as ckpt:
        save(ckpt, 1)
    nested = opened(address, f"two/job/{inner}")
    with nested, pytest.raises(InvalidRequestError, match="is inside the run"):
        save(nested, 1)
    with opened(address, "two/job") as ckpt:
        save(ckpt, 7)
        assert [one.step for one in ckpt.checkpoints()] == [1, 7]


def test_of_two_runs_that_begin_at_once_one_inside_of_the_other_one_is_refused(tmp_path):
    daemon = Daemon(tmp_path / "root", lease_s=1.0)
    checkpointers = [opened(daemon.address, "job" + "/in" * depth) for depth in range(6)]
    try:
        with ThreadPoolExecutor(len(checkpointers)) as pool:
            saves = [pool.submit(save, ckpt, 1) for ckpt in checkpointers]
            outcomes = [each.exception(BOUND_S) for each in saves]
        assert outcomes.count(None) == 1
        assert {type(outcome) for outcome in outcomes if outcome is not None} == {InvalidRequestError}
    finally:
        for ckpt in checkpointers:
            with contextlib.suppress(InvalidRequestError):
                ckpt.close()
        daemon.stop()


def test_a_run_inside_another_is_refused_from_another_root_too(tmp_path):
    with opened(str(tmp_path), "job") as ckpt:
        save(ckpt, 1)
    with opened(str(tmp_path / "job"), "checkpoint") as nested, pytest.raises(InvalidRequestError, match="is inside"):
        save(nested, 1)
    assert not (tmp_path / "job" / "checkpoint").is_dir()
    with opened(str(tmp_path / "other"), "inner") as ckpt:
        save(ckpt, 1)
    with opened(str(tmp_path), "other") as outer, pytest.raises(InvalidRequestError, match="is inside it"):
        save(outer, 1)


def test_a_run_inside_one_that_is_open_is_refused_by_the_place_and_not_as_taken(tmp_path):
    with opened(str(tmp_path), "job") as ckpt, opened(str(tmp_path / "job"), "best") as nested:
        save(ckpt, 1)
        with pytest.raises(InvalidRequestError, match="it is inside the run .*/job, .*choose a name beside"):
            save(nested, 1)
        assert not (tmp_path / "job" / "best").exists()
        save(ckpt, 2)


def test_runs_that_lie_inside_each_other_already_go_on(tmp_path):
    for run in ("job", "elsewhere"):
        with opened(str(tmp_path), run) as ckpt:
            save(ckpt, 1)
    (tmp_path / "elsewhere").rename(tmp_path / "job" / "sub")  # as earlier releases could leave them
    for run in ("job", "job/sub"):
        with opened(str(tmp_path), run) as ckpt:
            save(ckpt, 2)
            assert [one.step for one in ckpt.checkpoints()] == [1, 2]


def test_a_copy_never_writes_over_a_file_that_is_no_checkpoints(tmp_path):
    with opened(str(tmp_path)) as ckpt:
        save(ckpt, 1, meta_graph=b"graph")
    (tmp_path / "copy.meta").write_text("keep me")
    from ckptd.engine.offline.copying import copy_checkpoint
    from ckptd.storage.locations import open_store

    store = open_store(str(tmp_path))
    with pytest.raises(ConflictError):
        copy_checkpoint(store, "r/model.ckpt-1", store, "copy", overwrite=True)
    assert (tmp_path / "copy.meta").read_text() == "keep me"
    assert not ckptd.checkpoint_exists(tmp_path / "copy")
