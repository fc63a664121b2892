"""Writing state files, and looking at and removing checkpoints, on paths and store URLs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import ckptd
from ckptd.client.paths.state_functions import state_of
from ckptd.errors import InvalidRequestError


@pytest.fixture(params=["path", "url", "memory"])
def directory(request, tmp_path):
    return {"path": str(tmp_path), "url": f"file://{tmp_path}", "memory": f"memory://{tmp_path.name}/runs"}[
        request.param
    ]


def test_what_is_written_is_found(directory):
    for step in (1, 2):
        ckptd.save_checkpoint(f"{directory}/m-{step}", {"a": step})
    assert ckptd.latest_checkpoint(directory) is None
    ckptd.update_checkpoint_state(directory, f"{directory}/m-2", [f"{directory}/m-1"])
    assert ckptd.latest_checkpoint(directory) == f"{directory}/m-2"
    state = ckptd.get_checkpoint_state(directory)
    assert state.all_model_checkpoint_paths == (f"{directory}/m-1", f"{directory}/m-2")
    ckptd.update_checkpoint_state(
        directory,
        f"{directory}/m-1",
        latest_filename="best",
        all_model_checkpoint_timestamps=[1.5],
        last_preserved_timestamp=0.5,
    )
    best = ckptd.get_checkpoint_state(directory, "best")
    assert best.all_model_checkpoint_timestamps == (1.5,)
    assert best.last_preserved_timestamp == 0.5
    assert ckptd.latest_checkpoint(directory, "best") == f"{directory}/m-1"


def test_removing_takes_all_files_of_a_checkpoint_and_no_others(directory):
    for step in (1, 10):
        ckptd.save_checkpoint(f"{directory}/m-{step}", {"a": step, "b": step}, num_shards=2)
    ckptd.update_checkpoint_state(directory, f"{directory}/m-1")
    ckptd.remove_checkpoint(f"{directory}/m-?")  # no character is a wildcard
    assert ckptd.checkpoint_exists(f"{directory}/m-1")
    ckptd.remove_checkpoint(f"{directory}/m-1")
    assert not ckptd.checkpoint_exists(f"{directory}/m-1")
    assert ckptd.verify(f"{directory}/m-10").ok
    assert ckptd.latest_checkpoint(directory) is None
    assert ckptd.get_checkpoint_state(directory).model_checkpoint_path == f"{directory}/m-1"
    ckptd.remove_checkpoint(f"{directory}/m-1")  # nothing is left, and that is fine


def test_removing_takes_the_graph_description_with_its_suffix(tmp_path):
    ckptd.save_checkpoint(tmp_path / "m-1", {"a": 1})
    for name in ("m-1.meta", "m-1.mg", "m-1.data", "old", "old.meta"):
        (tmp_path / name).write_bytes(b"")
    ckptd.remove_checkpoint(tmp_path / "m-1", meta_graph_suffix="mg")
    assert ckptd.checkpoint_exists(tmp_path / "old")  # the old format is one file
    ckptd.remove_checkpoint(tmp_path / "old", ckptd.SaverDef.V1)
    assert sorted(os.listdir(tmp_path)) == ["m-1.data", "m-1.meta"]


def test_times_are_those_of_the_index_in_whole_seconds_and_missing_ones_are_left_out(tmp_path):
    for name, at in (("a", 1600000000.75), ("b", 1500000000.25)):
        ckptd.save_checkpoint(tmp_path / name, {"x": 1})
        os.utime(tmp_path / f"{name}.index", (at, at))
    found = ckptd.get_checkpoint_mtimes([tmp_path / "a", tmp_path / "missing", str(tmp_path / "b")])
    assert found == [1600000000.0, 1500000000.0]


def test_the_working_directory_is_a_directory_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ckptd.save_checkpoint("m-1", {"a": 1})
    ckptd.update_checkpoint_state("", "m-1")
    assert (tmp_path / "checkpoint").read_text() == (
        'model_checkpoint_path: "m-1"\nall_model_checkpoint_paths: "m-1"\n'
    )
    assert ckptd.latest_checkpoint("") == "m-1"
    assert ckptd.latest_checkpoint(".") == "./m-1"
    assert ckptd.latest_checkpoint(Path()) == "./m-1"


def test_a_checkpoint_cannot_have_the_name_of_the_state_file(tmp_path):
    with pytest.raises(InvalidRequestError, match=r"conflicts with path used for checkpoint state\.  Please use"):
        ckptd.update_checkpoint_state(tmp_path, tmp_path / "checkpoint")
    assert os.listdir(tmp_path) == []
    with pytest.raises(InvalidRequestError, match="must not contain path components"):
        ckptd.update_checkpoint_state(tmp_path, tmp_path / "m", latest_filename="a/b")


@pytest.mark.parametrize(
    ("save_dir", "path", "relative", "stored"),
    [
        ("/d", "/d/m-2", False, "/d/m-2"),
        ("/d", "/d/m-2", True, "m-2"),
        ("t", "t/m-2", True, "m-2"),
        ("t", "other/m-2", True, "../other/m-2"),
        ("", "m-2", True, "m-2"),
        ("t", os.path.abspath("t/m-2"), True, "m-2"),
        ("s3://b/run", "s3://b/run/m-2", True, "m-2"),
        ("s3://b/run", "s3://b/run/m-2", False, "s3://b/run/m-2"),
        ("s3://b/run", "s3://b/other/m-2", True, "s3://b/other/m-2"),
    ],
)
def test_how_paths_are_stored(save_dir, path, relative, stored):
    state = state_of(save_dir, path, save_relative_paths=relative)
    assert state.model_checkpoint_path == stored
    assert state.all_model_checkpoint_paths == (stored,)


def test_a_checkpoint_of_the_old_format_is_found_and_not_read(tmp_path):
    (tmp_path / "old").write_bytes(b"one file")
    ckptd.update_checkpoint_state(tmp_path, tmp_path / "old")
    assert ckptd.latest_checkpoint(tmp_path) == f"{tmp_path}/old"
    assert len(ckptd.get_checkpoint_mtimes([tmp_path / "old"])) == 1
    for read in (
        lambda: ckptd.load_checkpoint(tmp_path),
        lambda: ckptd.Saver({"a": np.zeros(1)}).restore(tmp_path / "old"),
    ):
        with pytest.raises(
            ckptd.NotFoundError, match="old: no index: this is a checkpoint of the old format V1, or none"
        ):
            read()
