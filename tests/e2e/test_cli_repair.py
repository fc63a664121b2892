"""`ckptd repair`, on state files that are lost, malformed, or name what is gone."""

from __future__ import annotations

import json

import numpy as np
import pytest

import ckptd
from ckptd.cli import main
from ckptd.storage.local.local_store import LocalStore
from tests.fakes import schemas


@pytest.fixture
def run_dir(tmp_path):
    with ckptd.Checkpointer(str(tmp_path), run="run", rank=0, world_size=1) as checkpointer:
        for step in (10, 20, 30):
            checkpointer.save(step, {"w": np.arange(3.0)}).result(timeout=120)
    return tmp_path / "run"


def repair(capsys, directory, code=0):
    assert main.run(["repair", str(directory), "--json"]) == code
    return schemas.check("repair", json.loads(capsys.readouterr().out))


def test_a_sound_state_file_is_left_alone(run_dir, capsys):
    before = (run_dir / "checkpoint").read_bytes()
    document = repair(capsys, run_dir)
    assert (document["changed"], document["reason"], document["kept_at"]) == (False, None, None)
    assert (run_dir / "checkpoint").read_bytes() == before


def test_a_lost_one_is_written_from_what_is_there(run_dir, capsys):
    before = (run_dir / "checkpoint").read_bytes()
    (run_dir / "checkpoint").unlink()
    assert repair(capsys, run_dir)["latest"] == str(run_dir / "model.ckpt-30")
    assert (run_dir / "checkpoint").read_bytes() == before


def test_one_that_was_lost_before_the_run_was_opened_is_written_again_too(run_dir, capsys):
    (run_dir / "checkpoint").unlink()
    with ckptd.Checkpointer(str(run_dir.parent), run="run", rank=0, world_size=1) as checkpointer:
        assert checkpointer.latest() is None  # and recovery noted of all of them that they are kept
    assert repair(capsys, run_dir)["latest"] == str(run_dir / "model.ckpt-30")
    with ckptd.Checkpointer(str(run_dir.parent), run="run", rank=0, world_size=1) as checkpointer:
        assert checkpointer.latest().step == 30
        checkpointer.save(40, {"w": np.arange(3.0)}).result(timeout=120)
        assert [each.step for each in checkpointer.checkpoints()] == [10, 20, 30, 40]


def test_a_malformed_one_is_refused_by_others_and_kept_beside(run_dir, capsys):
    (run_dir / "checkpoint").write_text("rubbish {")
    assert main.run(["latest", str(run_dir)]) == 8
    assert main.run(["repair", str(run_dir)]) == 0
    out = capsys.readouterr().out
    assert "written anew" in out
    kept = out.partition("what it said before is in ")[2].splitlines()[0]
    with open(kept) as file:
        assert file.read() == "rubbish {"
    assert main.run(["latest", str(run_dir)]) == 0


def test_one_that_names_what_is_gone_forgets_it_and_says_so(run_dir, capsys):
    next(run_dir.glob("model.ckpt-30.data-*")).unlink()
    assert main.run(["repair", str(run_dir)]) == 0
    captured = capsys.readouterr()
    assert "model.ckpt-30" in captured.err
    assert f"the latest of 2 is {run_dir / 'model.ckpt-20'}" in captured.out


def test_nothing_is_repaired_under_a_daemon(run_dir, capsys):
    with LocalStore(str(run_dir.parent)).lock(".ckptd/lock", holder="ckptd serve, pid 7 on here, 127.0.0.1:7070"):
        assert main.run(["repair", str(run_dir)]) == 4
    assert "ckptd serve, pid 7" in capsys.readouterr().err
