"""Which checkpoints stay, how they are listed, and what lies beside them: in this process, and over a daemon."""

from __future__ import annotations

import contextlib
from functools import partial

import numpy as np
import pytest

from ckptd import Checkpointer
from ckptd.errors import ConflictError, InvalidRequestError, NotFoundError, StorageFullError, UnavailableError
from ckptd.format.state_file import CheckpointState
from tests import seams
from tests.fakes.waiting import eventually
from tests.unit.client.served import Daemon

BOUND_S = 60.0
W = {"w": np.arange(12.0)}


@pytest.fixture(params=["direct", "daemon"])
def place(request, tmp_path):
    """What opens the run, and the run's directory."""
    root = tmp_path / "root"
    daemon = Daemon(root, lease_s=1.0) if request.param == "daemon" else None
    address = daemon.address if daemon else str(root)
    yield partial(Checkpointer, address, run="r", name="m", timeout_s=BOUND_S), root / "r"
    if daemon:
        daemon.stop()


def save(ckpt, *steps, **options):
    for step in steps:
        ckpt.save(step, W, **options).result(BOUND_S)


def state(directory, name="checkpoint"):
    return CheckpointState.decode((directory / name).read_bytes())


def steps(ckpt):
    return [checkpoint.step for checkpoint in ckpt.checkpoints()]


def test_the_rule_is_that_of_a_saver_or_of_a_manager(place):
    opened, directory = place
    with opened(max_to_keep=3) as ckpt:
        save(ckpt, 1, 2, 3, 4)
    assert state(directory) == CheckpointState("m-4", ("m-2", "m-3", "m-4"))
    with opened(max_to_keep=1) as ckpt:
        save(ckpt, 5)
        assert state(directory).all_model_checkpoint_paths == ("m-3", "m-4", "m-5")
    with opened(max_to_keep=1, retention="manager", keep_checkpoint_every_n_hours=None) as ckpt:
        save(ckpt, 6, 7)
        eventually(lambda: steps(ckpt) == [3, 4, 5, 7])
        kept = state(directory)
        assert (kept.model_checkpoint_path, kept.all_model_checkpoint_paths) == ("m-7", ("m-7",))
        assert kept.all_model_checkpoint_timestamps == (ckpt.latest().saved_at,)
    with pytest.raises(InvalidRequestError, match="saver or manager"):
        opened(retention="newest")
    with pytest.raises(InvalidRequestError, match="hours"):
        opened(keep_checkpoint_every_n_hours=0.0)


def test_the_state_file_may_hold_full_paths_and_have_any_name(place):
    opened, directory = place
    with opened(save_relative_paths=False, latest_filename="latest_eval") as ckpt:
        save(ckpt, 1, 2)
        paths = (str(directory / "m-1"), str(directory / "m-2"))
        assert state(directory, "latest_eval") == CheckpointState(paths[1], paths)
        assert not (directory / "checkpoint").exists()
        assert ckpt.latest().step == 2


def test_a_meta_graph_is_kept_beside_its_checkpoint(place):
    opened, directory = place
    with opened(max_to_keep=2) as ckpt:
        save(ckpt, 1, meta_graph=b"graph 1")
        save(ckpt, 2, meta_graph=b"graph 2", meta_graph_suffix="mg")
        assert (directory / "m-2.mg").read_bytes() == b"graph 2"
        assert (ckpt.meta_graph(1), ckpt.meta_graph(), ckpt.meta_graph(suffix="mg")) == (b"graph 1", None, b"graph 2")
        save(ckpt, 3, 4)
        eventually(lambda: not [path for path in directory.iterdir() if path.name.startswith(("m-1", "m-2"))])
        with pytest.raises(NotFoundError):
            ckpt.meta_graph(1)
        with pytest.raises(InvalidRequestError):
            ckpt.save(5, W, meta_graph=b"", meta_graph_suffix="../x")
    with opened(write_meta_graph="first") as ckpt:
        save(ckpt, 5)
        save(ckpt, 6, 7, meta_graph=b"graph")
        assert (ckpt.meta_graph(6), ckpt.meta_graph(7)) == (b"graph", None)
    with pytest.raises(InvalidRequestError, match="first"):
        opened(write_meta_graph="never")


def test_a_save_that_no_state_file_names_is_found_by_its_step_and_never_deleted(place):
    opened, directory = place
    with opened(max_to_keep=1) as ckpt:
        save(ckpt, 1, write_state=False)
        assert not (directory / "checkpoint").exists()
        assert ckpt.latest() is None
        save(ckpt, 2)
        save(ckpt, 3, write_state=False)
        save(ckpt, 4)
        eventually(lambda: steps(ckpt) == [1, 3, 4])
        assert state(directory) == CheckpointState("m-4", ("m-4",))
        assert (ckpt.restore(3)["w"] == W["w"]).all()


def test_a_deletion_can_be_undone(place):
    opened, directory = place
    with opened() as ckpt:
        save(ckpt, 1, 2, 3)
        before, files = state(directory), sorted(path.name for path in directory.iterdir())
        ckpt.delete(2)
        assert steps(ckpt) == [1, 3]
        assert state(directory).all_model_checkpoint_paths == ("m-1", "m-3")
        assert not (directory / "m-2.index").exists()
        assert ckpt.undelete(2).step == 2
        assert (state(directory), sorted(path.name for path in directory.iterdir())) == (before, files)
        assert (ckpt.restore(2)["w"] == W["w"]).all()
        ckpt.delete(2, for_good=True)
        assert not list(directory.glob("m-2*"))
        with pytest.raises(NotFoundError, match="deleted lately"):
            ckpt.undelete(2)


def test_the_latest_is_deleted_by_those_who_say_so(place):
    opened, directory = place
    with opened() as ckpt:
        save(ckpt, 1, 2)
        with pytest.raises(ConflictError, match="latest"):
            ckpt.delete(2, for_good=True)
        ckpt.delete(2, for_good=True, even_latest=True)
        assert ckpt.latest().step == 1
        ckpt.delete(1, for_good=True, even_latest=True)
        assert ckpt.latest() is None
        assert not list(directory.glob("m-*"))


def test_a_rule_that_was_told_while_the_disk_failed_counts(place, monkeypatch):
    opened, _ = place
    fails = [StorageFullError("no space left on device"), UnavailableError("the store does not answer")]
    replace = seams.REPLACE_ON_DISK.value

    def failing_at_first(store, key, data, **how):
        if fails and key.endswith("/epoch"):
            raise fails.pop()
        return replace(store, key, data, **how)

    seams.REPLACE_ON_DISK.put(monkeypatch, failing_at_first)
    with opened(max_to_keep=None) as ckpt:
        while fails:
            with contextlib.suppress(StorageFullError, UnavailableError):
                save(ckpt, 0)
        save(ckpt, 1, 2, 3, 4, 5, 6, 7, overwrite=True)
        assert steps(ckpt)[-7:] == [1, 2, 3, 4, 5, 6, 7]
        ckpt.delete(1)  # after what retention had to do
        assert steps(ckpt)[-6:] == [2, 3, 4, 5, 6, 7]
