from __future__ import annotations

from pathlib import Path

import pytest

from ckptd.errors import InvalidRequestError

torch = pytest.importorskip("torch")

import torch.distributed.checkpoint as dcp  # noqa: E402
from torch.distributed.checkpoint.api import CheckpointException  # noqa: E402

from ckptd.torch import CkptdStorageReader, CkptdStorageWriter  # noqa: E402
from ckptd.torch.dcp_place import DcpPath, is_id, origin  # noqa: E402

DAEMON = "grpc://127.0.0.1:7070"

IDS = [
    ((DAEMON, "runs/a"), 1200, DcpPath(DAEMON, "runs/a", "model.ckpt", 1200)),
    ((DAEMON, "runs/a"), "1200", DcpPath(DAEMON, "runs/a", "model.ckpt", 1200)),
    ((DAEMON, "runs/a"), "net-7", DcpPath(DAEMON, "runs/a", "net", 7)),
    ((DAEMON, "runs/a"), "best", DcpPath(DAEMON, "runs/a", "best", None)),
    ((DAEMON, "runs/a"), "runs/b/net-7", DcpPath(DAEMON, "runs/b", "net", 7)),
    ((DAEMON, None), Path("runs/b/net-7"), DcpPath(DAEMON, "runs/b", "net", 7)),
    ((None, None), f"{DAEMON}/runs/a/net-7", DcpPath(DAEMON, "runs/a", "net", 7)),
    (("/store", "runs/a"), "net-7", DcpPath("/store", "runs/a", "net", 7)),
    (("s3://bucket/below", "runs/a"), 3, DcpPath("s3://bucket/below", "runs/a", "model.ckpt", 3)),
    ((None, None), "/d/run/net-7", DcpPath("/d", "run", "net", 7)),
    ((None, None), "/d/run/7", DcpPath("/d", "run", "model.ckpt", 7)),
    ((None, None), "/d/run/step_7", DcpPath("/d", "run", "step_7", None)),
    ((None, None), "/d/run/net-007", DcpPath("/d", "run", "net-007", None)),
    ((None, None), "s3://bucket/below/run/net-7", DcpPath("s3://bucket/below", "run", "net", 7)),
    ((None, None), "memory://store/run/net-7", DcpPath("memory://store", "run", "net", 7)),
    (("/store", "runs/a"), "/d/run/net-7", DcpPath("/d", "run", "net", 7)),
]


@pytest.mark.parametrize(("given", "checkpoint_id", "place"), IDS, ids=[str(case[1]) for case in IDS])
def test_an_id_says_where_a_checkpoint_is(given, checkpoint_id, place, monkeypatch):
    monkeypatch.delenv("CKPTD_ADDRESS", raising=False)
    found, own = origin(*given, None, "model.ckpt")
    assert own is None
    assert found.find(checkpoint_id) == place


@pytest.mark.parametrize(
    ("given", "checkpoint_id", "why"),
    [
        ((DAEMON, "runs/a"), "/d/run/net-7", "has its own root"),
        ((DAEMON, None), "net-7", "names no run"),
        ((DAEMON, "runs/a"), "../net-7", "starts with a dot"),
        ((None, None), "/net-7", "no checkpoint's prefix"),
        ((None, None), "s3://bucket/net-7", "no checkpoint's prefix"),
        ((None, None), "/d/run/", "no checkpoint's prefix"),
        ((None, None), "", "a path, a URL or a step"),
        ((None, None), 2.5, "a path, a URL or a step"),
    ],
)
def test_an_id_that_names_no_checkpoint_is_refused(given, checkpoint_id, why, monkeypatch):
    monkeypatch.delenv("CKPTD_ADDRESS", raising=False)
    with pytest.raises(InvalidRequestError, match=why):
        origin(*given, None, "model.ckpt")[0].find(checkpoint_id)


def test_a_relative_path_counts_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("CKPTD_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    place = origin(None, None, None, "model.ckpt")[0].find("run/net-7")
    assert place == DcpPath(str(tmp_path), "run", "net", 7)
    assert place.prefix == str(tmp_path / "run" / "net-7")


def test_the_environment_names_the_daemon_that_nobody_else_has(monkeypatch):
    monkeypatch.setenv("CKPTD_ADDRESS", DAEMON)
    assert origin(None, "runs/a", None, "net")[0].find(5) == DcpPath(DAEMON, "runs/a", "net", 5)
    assert origin(None, "runs/a", 5, "net")[1] == 5
    assert origin("/d/run/net-7", None, None, "net")[1] == "/d/run/net-7"


def test_a_run_without_an_address_is_one_of_this_host_s_daemon(tmp_path, monkeypatch):
    monkeypatch.delenv("CKPTD_ADDRESS", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    socket = f"unix://{tmp_path}/ckptd.sock"
    for address in (None, "unix://"):
        assert origin(address, "runs/a", None, "net")[0].find(5) == DcpPath(socket, "runs/a", "net", 5)


@pytest.mark.parametrize(
    ("address", "run", "step", "why"),
    [
        ("/d/run/net-7", None, 7, "step= needs run="),
        (DAEMON, None, 7, "step= needs run="),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(address, run, step, why, monkeypatch):
    monkeypatch.delenv("CKPTD_ADDRESS", raising=False)
    for kind in (CkptdStorageWriter, CkptdStorageReader):
        with pytest.raises(InvalidRequestError, match=why):
            kind(address, run=run, step=step)


def test_ids_can_be_told_from_what_is_none():
    assert all(is_id(checkpoint_id) for _, checkpoint_id, _ in IDS)
    assert not any(map(is_id, ("", "a//b", "run/what*ever", None, "run/")))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["_CKPTD_OUTLINE", "_CKPTD_DCP/0"])
def test_a_tensor_that_has_the_name_of_a_note_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(CheckpointException) as refusal:
        dcp.save({name: torch.ones(2)}, checkpoint_id=1, storage_writer=CkptdStorageWriter(tmp_path, run="x"))
    assert f"{name}: ckptd keeps this name for its own notes" in str(refusal.value.failures[0][0])
    assert not list(tmp_path.rglob("*.index"))
    state = {"_CKPTD_FOO": torch.ones(2)}
    dcp.save(state, checkpoint_id=1, storage_writer=CkptdStorageWriter(tmp_path, run="x"))
    found = {"_CKPTD_FOO": torch.zeros(2)}
    dcp.load(found, checkpoint_id=1, storage_reader=CkptdStorageReader(tmp_path, run="x"))
    assert torch.equal(found["_CKPTD_FOO"], state["_CKPTD_FOO"])
