"""The commands that change a directory: alone, beside a trainer, through a daemon, and on what TensorFlow wrote."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import ckptd
from ckptd.cli import main
from ckptd.demo.processes import child_environment, end
from tests.conformance.bundle_files import FIXTURES
from tests.fakes import schemas
from tests.starts import prepared


def save(place, steps, *, run="runs/mnist"):
    with ckptd.Checkpointer(str(place), run=run, rank=0, world_size=1, max_to_keep=0) as checkpointer:
        for step in steps:
            checkpointer.save(step, {"w": np.arange(12.0) + step}).result(timeout=120)


def ckptd_says(capsys, *arguments, code=0):
    """Run one command; return what it wrote on stdout and on stderr."""
    capsys.readouterr()
    assert main.run([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    return captured.out, captured.err


def as_json(capsys, command, *arguments, code=0):
    return schemas.check(command, json.loads(ckptd_says(capsys, command, *arguments, "--json", code=code)[0]))


def steps_in(directory):
    return sorted(int(path.stem.rpartition("-")[2]) for path in directory.glob("*.index"))


def files_in(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def run_dir(tmp_path):
    save(tmp_path, (10, 20, 30, 40))
    return tmp_path / "runs" / "mnist"


def test_prune_says_first_and_then_does_the_same(run_dir, capsys):
    before = files_in(run_dir)
    said = as_json(capsys, "prune", run_dir, "--keep", 2, "--dry-run")
    assert files_in(run_dir) == before
    done = as_json(capsys, "prune", run_dir, "--keep", 2)
    assert steps_in(run_dir) == [30, 40]
    assert said["checkpoints"] == done["checkpoints"]
    assert (said["num_deleted"], done["num_deleted"]) == (0, 2)
    assert said["freed_bytes"] == done["freed_bytes"] > 0
    out, _ = ckptd_says(capsys, "prune", run_dir, "--keep", 2)
    assert "0 of 2 deleted" in out
    assert ckptd.latest_checkpoint(str(run_dir)) == str(run_dir / "model.ckpt-40")


def test_a_pinned_checkpoint_outlives_prune_and_rm_until_it_is_unpinned(run_dir, capsys):
    assert as_json(capsys, "pin", run_dir / "model.ckpt-10")["pinned"] is True
    ckptd_says(capsys, "prune", run_dir, "--keep", 1)
    assert steps_in(run_dir) == [10, 40]
    _, err = ckptd_says(capsys, "rm", run_dir / "model.ckpt-10", code=4)
    assert "pinned" in err
    assert as_json(capsys, "unpin", run_dir / "model.ckpt-10")["pinned"] is False
    assert as_json(capsys, "rm", run_dir / "model.ckpt-10.index")["step"] == 10
    assert steps_in(run_dir) == [40]


def test_what_a_trainer_deleted_comes_back_although_other_commands_worked_there(run_dir, capsys):
    with ckptd.Checkpointer(str(run_dir.parent.parent), run="runs/mnist") as trainer:
        trainer.delete(20)
    ckptd_says(capsys, "pin", run_dir / "model.ckpt-10")
    assert steps_in(run_dir) == [10, 30, 40]
    assert as_json(capsys, "undelete", run_dir / "model.ckpt-20")["step"] == 20
    assert ckptd.verify(run_dir / "model.ckpt-20").ok
    ckptd_says(capsys, "rm", run_dir / "model.ckpt-20")
    _, err = ckptd_says(capsys, "undelete", run_dir / "model.ckpt-20", code=3)
    assert "was not deleted lately" in err


def test_rm_spares_the_latest_unless_it_is_meant(run_dir, capsys):
    _, err = ckptd_says(capsys, "rm", run_dir / "model.ckpt-40", code=4)
    assert "latest" in err
    ckptd_says(capsys, "rm", run_dir / "model.ckpt-40", "--even-latest")
    assert steps_in(run_dir) == [10, 20, 30]
    assert not list(run_dir.glob("model.ckpt-40*"))


def test_a_damaged_latest_does_not_make_the_one_before_superseded(run_dir, capsys):
    shard = next(run_dir.glob("model.ckpt-40.data-*"))
    shard.write_bytes(bytes(len(shard.read_bytes())))
    ckptd_says(capsys, "prune", run_dir, "--keep", 1)
    assert steps_in(run_dir) == [30, 40]
    ckptd_says(capsys, "prune", run_dir, "--keep", 1, "--no-verify")
    assert steps_in(run_dir) == [40]


def test_beside_a_trainer_nothing_is_changed_and_it_is_named(run_dir, capsys):
    root = run_dir.parent.parent
    with ckptd.Checkpointer(str(root), run="runs/mnist", rank=0, world_size=1, max_to_keep=0) as checkpointer:
        checkpointer.save(50, {"w": np.zeros(1)}).result(timeout=120)
        for arguments in (
            ("prune", run_dir, "--keep", 1),
            ("rm", run_dir / "model.ckpt-10"),
            ("pin", run_dir / "model.ckpt-10"),
        ):
            _, err = ckptd_says(capsys, *arguments, code=4)
            assert "direct mode, pid" in err
            assert "wait until it has ended" in err
        ckptd_says(capsys, "prune", run_dir, "--keep", 1, "--dry-run")
    assert steps_in(run_dir) == [10, 20, 30, 40, 50]


@pytest.fixture
def tensorflow_run(tmp_path):
    """Give a directory that TensorFlow's Saver wrote, with some steps that its list has forgotten."""
    source = FIXTURES / "tf" / "ema_and_slots"
    run = tmp_path / "tf"
    run.mkdir()
    for step in (1, 2, 3):
        for suffix in ("index", "data-00000-of-00001"):
            shutil.copy(source / f"model.ckpt-3.{suffix}", run / f"model.ckpt-{step}.{suffix}")
    shutil.copy(source / "checkpoint", run / "checkpoint")
    return run


def test_what_tensorflow_wrote_goes_only_when_that_is_said(tensorflow_run, capsys):
    before = files_in(tensorflow_run)
    said = as_json(capsys, "prune", tensorflow_run, "--keep", 1)
    assert said["num_deleted"] == 0
    assert [each["action"] for each in said["checkpoints"]] == ["leave", "leave", "keep"]
    _, err = ckptd_says(capsys, "rm", tensorflow_run / "model.ckpt-1", code=4)
    assert "ckptd did not write this checkpoint" in err
    ckptd_says(capsys, "pin", tensorflow_run / "model.ckpt-1", code=4)
    assert {path: data for path, data in files_in(tensorflow_run).items() if ".ckptd" not in path.parts} == before
    ckptd_says(capsys, "rm", tensorflow_run / "model.ckpt-1", "--foreign")
    assert steps_in(tensorflow_run) == [2, 3]
    ckptd_says(capsys, "prune", tensorflow_run, "--keep", 1, "--foreign")
    assert steps_in(tensorflow_run) == [3]
    assert (tensorflow_run / "checkpoint").read_bytes() == before[Path("checkpoint")]
    ckptd_says(capsys, "rm", tensorflow_run / "model.ckpt-3", "--foreign", code=4)


@pytest.fixture
def daemon():
    """Give the address and the root of a daemon on a socket: its line in the lock tells where it is."""
    with tempfile.TemporaryDirectory(prefix="ckptd-") as short:
        address, root = f"unix://{short}/s.sock", Path(short) / "root"
        process = prepared.Popen(
            [sys.executable, "-m", "ckptd", "serve", "--root", root, "--listen", address],
            env=child_environment(),
            stderr=subprocess.PIPE,
        )
        try:
            assert b"listening" in process.stderr.readline()
            save(address, (10, 20, 30, 40))
            yield address, root / "runs" / "mnist"
        finally:
            end(process)
            process.stderr.close()


def test_a_daemon_that_works_there_is_asked(daemon, capsys, monkeypatch):
    address, run = daemon
    assert as_json(capsys, "pin", run / "model.ckpt-10")["pinned"] is True
    assert as_json(capsys, "prune", run, "--keep", 2)["num_deleted"] == 1
    assert steps_in(run) == [10, 30, 40]
    # By the daemon's address a checkpoint may be named as seen from its root, wherever the command is typed.
    as_json(capsys, "unpin", "runs/mnist/model.ckpt-10", "--address", address)
    ckptd_says(capsys, "rm", "runs/mnist/model.ckpt-10", "--address", address)
    assert steps_in(run) == [30, 40]
    assert as_json(capsys, "undelete", run / "model.ckpt-10")["step"] == 10
    assert steps_in(run) == [10, 30, 40]
    _, err = ckptd_says(capsys, "rm", run / "model.ckpt-40", code=4)
    assert "it is the latest" in err
    ckptd_says(capsys, "rm", run / "model.ckpt-40", "--even-latest")
    assert steps_in(run) == [10, 30]
    out, _ = ckptd_says(capsys, "undelete", "runs/mnist/model.ckpt-40", "--address", address)
    assert out.endswith("model.ckpt-40 is back\n")
    assert ckptd.latest_checkpoint(run) == str(run / "model.ckpt-40")
    ckptd.save_checkpoint(str(run / "theirs-1"), {"w": np.zeros(1)})
    _, err = ckptd_says(capsys, "rm", run / "theirs-1", "--foreign", code=4)
    assert "leaves it alone" in err
    schemas.check("status", json.loads(ckptd_says(capsys, "status", address, "--json")[0]))
    owner = next(each for each in as_json(capsys, "doctor", run.parent.parent)["findings"] if each["check"] == "owner")
    assert (owner["outcome"], address in owner["detail"]) == ("warning", True)
    with tempfile.TemporaryDirectory() as elsewhere:
        ckptd.save_checkpoint(f"{elsewhere}/m-1", {"w": np.zeros(1)})
        _, err = ckptd_says(capsys, "rm", f"{elsewhere}/m-1", "--address", address, code=2)
        assert "is no run below" in err


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("ckptd serve, pid 7 on {host}, 127.0.0.1:0", "pass --address"),
        ("ckptd serve, pid 7 on another-host, grpc://127.0.0.1:7070", "another-host only"),
        ("somebody else", "wait until it has ended"),
    ],
)
def test_a_holder_that_cannot_be_reached_is_named_with_what_to_do(line, hint, run_dir, capsys):
    from ckptd.storage.local.local_store import LocalStore

    line = line.format(host=socket.gethostname())
    with LocalStore(str(run_dir.parent.parent)).lock(".ckptd/lock", holder=line):
        _, err = ckptd_says(capsys, "rm", run_dir / "model.ckpt-10", code=4)
    assert line in err
    assert hint in err


def test_doctor_follows_its_schema_and_its_exit_code_is_that_of_a_save(tmp_path, capsys):
    assert as_json(capsys, "doctor", tmp_path)["ok"] is True
    assert list(tmp_path.iterdir()) == []
    out, _ = ckptd_says(capsys, "doctor", tmp_path / "new")
    assert "not there yet" in out
    assert "checkpoints are safe here" in out
    document = as_json(capsys, "doctor", "/proc", code=9)
    assert document["ok"] is False


def test_bench_measures_limits_and_transports_and_leaves_nothing(tmp_path, capsys):
    document = as_json(capsys, "bench", tmp_path, "--size-mb", 4)
    figures = {figure["name"]: figure for figure in document["figures"]}
    assert all(figure["seconds"] > 0 for figure in figures.values())
    limits = {name for name in figures if name.startswith(("disk:", "memory: copy", "memory: new"))}
    assert limits == {"disk: sync", "disk: write", "disk: read", "memory: copy", "memory: new"}
    assert all(figures[name]["bounded_by"] is None for name in limits)
    transports = {name.partition(":")[0] for name in figures} - {"disk", "memory"}
    assert {"direct", "stream"} <= transports <= {"direct", "shared memory", "stream"}
    for transport in transports:
        for what in ("save, stall", "save, durable", "first save", "restore, warm", "restore, cold"):
            figure = figures[f"{transport}: {what}"]
            assert (figure["bounded_by"] is None) == (figure["bound_share"] is None)
            assert figure["bound_share"] is None or figure["bound_share"] >= 0.5
    assert list(tmp_path.iterdir()) == []
