"""A disk without a free byte: what is there can be read and removed, by a daemon, by a trainer and by the commands."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import ckptd
from ckptd.cli import main
from ckptd.demo.processes import Daemon
from ckptd.storage.local.local_store import LocalStore

SIZE_BYTES = 1 << 20
DISKS = ["tmpfs", "ext4"]


@contextmanager
def mounted(kind, place):
    """A small file system of its own, mounted while the block runs."""
    if os.geteuid() != 0:
        assert not os.environ.get("CI"), "CI mounts file systems, which needs root"
        pytest.skip("to mount a small file system needs root")
    place.mkdir()
    if kind == "tmpfs":
        mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "none", place]
    else:
        image = place.with_suffix(".image")
        with image.open("wb") as file:
            file.truncate(40 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
        mount = ["mount", "-o", "loop", image, place]
    subprocess.run(mount, check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture(params=DISKS)
def disk(request, tmp_path):
    with mounted(request.param, tmp_path / "disk") as place:
        yield place


def fill(disk):
    """Take every free block; return the file that holds them."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
                    os.fsync(file.fileno())
            except OSError:
                continue
    assert os.statvfs(disk).f_bavail == 0
    return filler


@contextmanager
def serving(root, place):
    process = Daemon(root, place / "daemon.log", place / "daemon.json")
    try:
        process.wait_until_ready()
        host, port = process.port()
        yield f"grpc://{host}:{port}"
    finally:
        process.stop()


def save(address, steps, **options):
    with ckptd.Checkpointer(address, run="runs/a", max_to_keep=None, timeout_s=60, **options) as checkpointer:
        for step in steps:
            checkpointer.save(step, {"w": np.full(SIZE_BYTES // 8, float(step))}).result(timeout=120)


def steps_in(run):
    return sorted(int(path.stem.rpartition("-")[2]) for path in run.glob("*.index"))


def shards_in(run):
    return sorted(path.name for path in run.glob("*.data-*"))


def does(capsys, *arguments, code=0):
    capsys.readouterr()
    found = main.run([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert found == code, said
    return said.out


def test_a_daemon_starts_serves_and_removes_on_a_full_disk(disk, tmp_path, capsys):
    root, run = disk / "root", disk / "root/runs/a"
    root.mkdir()
    with serving(root, tmp_path) as address:
        save(address, (1, 2, 3, 4))
    filler = fill(disk)

    with serving(root, tmp_path) as address:
        with ckptd.Checkpointer(address, run="runs/a", max_to_keep=None, timeout_s=60) as checkpointer:
            assert checkpointer.latest().step == 4
            assert checkpointer.restore()["w"][0] == 4.0
            with pytest.raises(ckptd.StorageFullError):
                checkpointer.save(5, {"w": np.zeros(SIZE_BYTES // 8)}).result(timeout=120)
        does(capsys, "rm", run / "model.ckpt-1", "--address", address)  # can be undone: nothing is freed yet
        assert steps_in(run) == [2, 3, 4]
        does(capsys, "rm", run / "model.ckpt-2", "--for-good", "--address", address)
        assert steps_in(run) == [3, 4]
        assert not any("ckpt-2." in name for name in shards_in(run))
        save(address, (5,))  # there is room for one again
        fill(disk)
        does(
            capsys, "rm", run / "model.ckpt-3", "--for-good", "--address", address
        )  # and a reserve for the next removal
    assert steps_in(run) == [4, 5]
    filler.unlink()
    with serving(root, tmp_path) as address:
        save(address, (6,))
        assert [found.step for found in ckptd.Checkpointer(address, run="runs/a").checkpoints()] == [4, 5, 6]


def test_a_trainer_without_a_daemon_restores_on_a_full_disk(disk):
    save(str(disk), (1, 2))
    filler = fill(disk)
    with ckptd.Checkpointer(str(disk), run="runs/a", max_to_keep=None, timeout_s=60) as checkpointer:
        assert checkpointer.restore()["w"][0] == 2.0
        with pytest.raises(ckptd.StorageFullError):
            checkpointer.save(3, {"w": np.zeros(SIZE_BYTES // 8)}).result(timeout=120)
        assert checkpointer.restore()["w"][0] == 2.0
        checkpointer.delete(1, for_good=True)
        checkpointer.save(3, {"w": np.zeros(8)}).result(timeout=120)
    filler.unlink()
    save(str(disk), (4,))


def test_commands_without_a_daemon_make_room_on_a_full_disk(disk, capsys):
    run = disk / "runs/a"
    save(str(disk), (1, 2, 3, 4, 5))
    fill(disk)
    does(capsys, "rm", run / "model.ckpt-1")
    assert steps_in(run) == [2, 3, 4, 5]
    fill(disk)
    does(capsys, "prune", run, "--keep", 2)
    assert steps_in(run) == [4, 5]
    assert json.loads(does(capsys, "verify", run, "--json"))


def test_a_state_file_is_repaired_on_a_full_disk(disk, capsys):
    run = disk / "runs/a"
    save(str(disk), (1, 2))
    state = run / "checkpoint"
    state.write_bytes(b"rubbish" + bytes(10))
    fill(disk)
    does(capsys, "repair", run)
    assert ckptd.latest_checkpoint(str(run)) == str(run / "model.ckpt-2")
    [kept] = run.glob(".ckptd/checkpoint.before-*")
    assert kept.read_bytes() == b"rubbish" + bytes(10)


def test_a_lock_is_held_and_let_go_though_there_is_no_room_to_say_whose(disk):
    (disk / "runs/a/.ckptd").mkdir(parents=True)
    store = LocalStore(str(disk))
    store.lock("runs/a/.ckptd/lock", holder="somebody before").release()
    Path(disk / "runs/a/.ckptd/.lock.ckptd-lock").write_bytes(b"")
    filler = fill(disk)
    for _ in range(2):
        with store.lock("runs/a/.ckptd/lock", holder="me"), pytest.raises(ckptd.ConflictError):
            store.lock("runs/a/.ckptd/lock", holder="another")
    filler.unlink()
    store.lock("runs/a/.ckptd/lock", holder="me").release()
