from __future__ import annotations

import pytest

pytest.importorskip("torch")

import ckptd
from ckptd.torch.places import address_and_run

PLACES = [
    ("/checkpoints/runs/mnist", "", ("/checkpoints/runs", "mnist")),
    ("/mnist/", "", ("/", "mnist")),
    ("s3://bucket/runs/mnist", "", ("s3://bucket/runs", "mnist")),
    ("runs/mnist", "127.0.0.1:7070", ("127.0.0.1:7070", "runs/mnist")),
]


@pytest.mark.parametrize(("path", "address", "found"), PLACES)
def test_a_path_is_a_run_of_the_daemon_or_a_directory(path, address, found):
    assert address_and_run(path, address) == found


def test_a_relative_path_counts_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert address_and_run("runs/mnist") == (str(tmp_path / "runs"), "mnist")


def test_the_environment_names_a_daemon_for_all_paths_that_are_not_whole_ones(monkeypatch):
    monkeypatch.setenv("CKPTD_ADDRESS", "unix:///run/ckptd.sock")
    assert address_and_run("runs/mnist") == ("unix:///run/ckptd.sock", "runs/mnist")
    with pytest.raises(ckptd.InvalidRequestError, match="below the daemon's root"):
        address_and_run("/checkpoints/runs/mnist")


@pytest.mark.parametrize("path", ["", "/", "s3://bucket"])
def test_a_store_itself_is_no_run(path):
    with pytest.raises(ckptd.InvalidRequestError, match="directory of their own"):
        address_and_run(path, "")
