"""What other programs leave beside a checkpoint's files is no checkpoint, for no command and no reader."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest

import ckptd
from tests.starts import prepared

BOUND_S = 120.0
APPLE_DOUBLE = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(4000)
LEFT_BESIDE = [
    "._model.ckpt-2.index",  # macOS, on a disk or share that is not its own
    "._model.ckpt-2.data-00000-of-00001",
    "._checkpoint",
    ".#model.ckpt-2.index",  # Emacs
    ".nfs000000000012ab3400000001.index",  # an NFS client
    ".model.ckpt-2.index.Xy12Zq",  # rsync
    ".syncthing.model.ckpt-2.index",
    ".trashed-1700000000-model.ckpt-2.index",
    "model.ckpt-2.index~",
    "model.ckpt-2.index.part",
    "model.ckpt-2.index:Zone.Identifier",  # Windows, seen from elsewhere
    ".ckptd/._model.ckpt-2.0123456789abcdef0123456789abcdef.json",
    ".ckptd/.DS_Store.json",
]
COPIES = [
    "model.ckpt-2 copy.index",
    "model.ckpt-2 copy 2.index",
    "model.ckpt-2 - Copy.index",
    "model.ckpt-2 (1).index",
    "model.ckpt-2(1).index",
    "model.ckpt-2 (me's conflicted copy 2026-01-31).index",
    "model.ckpt-2.sync-conflict-20260131-120000-ABCDEFG.index",
]


def command(*arguments):
    done = prepared.run(
        [sys.executable, "-m", "ckptd", *map(str, arguments)], capture_output=True, text=True, timeout=BOUND_S
    )
    return done.returncode, json.loads(done.stdout or "null"), done.stderr


@pytest.fixture
def run(tmp_path):
    with ckptd.Checkpointer(str(tmp_path), "r", rank=0, world_size=1, timeout_s=BOUND_S) as ckpt:
        for step in (1, 2):
            ckpt.save(step, {"w": np.arange(step)}).result(BOUND_S)
    for name in LEFT_BESIDE:
        (tmp_path / "r" / name).write_bytes(APPLE_DOUBLE)
    for name in COPIES:
        shutil.copy(tmp_path / "r/model.ckpt-2.index", tmp_path / "r" / name)
    return tmp_path / "r"


def test_commands_pass_by_what_looks_alike(run):
    code, listed, errors = command("ls", run, "--json")
    assert (code, sorted(each["step"] for each in listed["checkpoints"])) == (0, [1, 2]), errors
    code, verified, errors = command("verify", run, "--json")
    assert (code, verified["ok"], len(verified["reports"])) == (0, True, 2), errors
    code, _, errors = command("prune", run, "--keep", 5, "--json")
    assert code == 0, errors
    assert all((run / name).exists() for name in [*LEFT_BESIDE, *COPIES]), "what is not ours is left alone"


def test_a_trainer_goes_on_beside_them(run):
    with ckptd.Checkpointer(str(run.parent), "r", rank=0, world_size=1, timeout_s=BOUND_S) as ckpt:
        assert ckpt.latest().step == 2
        ckpt.save(3, {"w": np.arange(3)}).result(BOUND_S)
        assert [one.step for one in ckpt.checkpoints()] == [1, 2, 3]
        assert ckpt.restore()["w"].tolist() == [0, 1, 2]


def test_they_are_not_taken_for_the_newest_where_the_state_file_names_what_is_not_there(run):
    (run / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-9"\n')
    with ckptd.Checkpointer(str(run.parent), "r", rank=0, world_size=1, timeout_s=BOUND_S) as ckpt:
        assert ckpt.latest().step == 2


@pytest.mark.parametrize("name", ["model.ckpt-2 copy", "model.ckpt-2 (1)"])
def test_a_whole_copy_is_a_checkpoint(run, name):
    for suffix in (".index", ".data-00000-of-00001"):
        shutil.copy(run / f"model.ckpt-2{suffix}", run / f"{name}{suffix}")
    code, verified, errors = command("verify", run, "--json")
    assert (code, len(verified["reports"])) == (0, 3), errors


def test_a_hidden_checkpoint_is_one_where_it_is_named(tmp_path):
    ckptd.save_checkpoint(str(tmp_path / ".hidden-7"), {"w": np.arange(3)})
    assert command("ls", tmp_path, "--json")[1]["checkpoints"] == []
    assert command("verify", tmp_path / ".hidden-7", "--json")[0] == 0
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: ".hidden-7"\n')
    code, verified, errors = command("verify", tmp_path, "--json")
    assert (code, len(verified["reports"])) == (0, 1), errors
    assert ckptd.latest_checkpoint(tmp_path).endswith(".hidden-7")
