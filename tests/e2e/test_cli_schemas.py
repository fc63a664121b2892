"""What every `--json` prints, held to its published schema; what a person reads beside it."""

from __future__ import annotations

import json
import re

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import ckptd
from ckptd.cli import main
from tests.fakes import schemas

W = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Give a run with two checkpoints that hold a bit of everything, and a third whose shard is missing."""
    root = tmp_path_factory.mktemp("schemas")
    arrays = {
        "w": ckptd.Slice(W, full_shape=(3, 4), start=(0, 0)),
        "n\x07": np.array([np.nan, np.inf, 1.0, 2.5]),
        "words": np.array([b"a\xff"], object),
        "half": np.array([1, 2], ml_dtypes.bfloat16),
        "empty": np.zeros((0, 2)),
        "i": np.array([2**62, -3]),
    }
    with ckptd.Checkpointer(str(root), run="run", rank=0, world_size=1) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, arrays).result(timeout=120)
    ckptd.save_checkpoint(str(root / "run" / "broken-3"), {"w": W})
    (root / "run" / "broken-3.data-00000-of-00001").unlink()
    ckptd.save_checkpoint(str(root / "repaired" / "m-1"), {"w": W})
    np.savez(root / "w.npz", w=W)
    save_file({"w": W, "b": np.zeros(2)}, root / "w.safetensors", {"format": "np"})
    return root / "run"


def printed(capsys, *arguments, code=0):
    assert main.run([str(argument) for argument in arguments]) == code
    return capsys.readouterr()


@pytest.mark.parametrize(
    ("command", "arguments", "code"),
    [
        ("ls", [""], 0),
        ("latest", [""], 0),
        ("show", ["model.ckpt-1"], 0),
        ("show", ["model.ckpt-1", "--stats", "--plot", "--layout"], 0),
        ("show", ["broken-3"], 0),
        ("cat", ["model.ckpt-1"], 0),
        ("cat", ["model.ckpt-1", "w", "--slice", "0,1:-"], 0),
        ("verify", ["model.ckpt-1"], 0),
        ("verify", [""], 8),
        ("prune", ["", "--keep", "1", "--dry-run"], 0),
        ("doctor", [""], 0),
        ("watch", ["", "--once"], 0),
        ("diff", ["model.ckpt-1", "{run}/model.ckpt-2"], 0),
        ("diff", ["model.ckpt-1", "{new}/changed-1"], 0),
        ("cp", ["model.ckpt-1", "{new}/copy-1"], 0),
        ("export", ["model.ckpt-1", "{new}/some.npz", "--skip-unsupported"], 0),
        ("export", ["model.ckpt-1", "{new}/some.safetensors", "--only", "w"], 0),
        ("import", ["../w.npz", "{new}/imported-1"], 0),
        ("show", ["../w.npz"], 0),
        ("show", ["../w.npz", "w", "--stats", "--plot"], 0),
        ("show", ["../w.safetensors", "--stats"], 0),
        ("cat", ["../w.npz"], 0),
        ("cat", ["../w.safetensors", "w", "--slice", "0,1:-"], 0),
        ("inspect", ["model.ckpt-1"], 0),
        ("inspect", ["model.ckpt-1", "--all_tensors", "--count_exclude_pattern", "w"], 0),
        ("inspect", ["model.ckpt-1", "--tensor_name", "w"], 0),
        ("repair", ["../repaired"], 0),
    ],
)
def test_the_document_is_what_the_schema_says(command, arguments, code, run_dir, tmp_path, capsys):
    ckptd.save_checkpoint(str(tmp_path / "changed-1"), {"w": W + 1, "i": np.array([1.0]), "half": W, "other": W})
    where, *options = (argument.format(run=run_dir, new=tmp_path) for argument in arguments)
    schemas.check(command, json.loads(printed(capsys, command, run_dir / where, *options, "--json", code=code).out))


def test_verify_tells_scripts_how_far_it_is(run_dir, capsys):
    captured = printed(capsys, "verify", run_dir / "model.ckpt-1", "--progress", "json", "--json")
    news = [schemas.check("progress", json.loads(line)) for line in captured.err.splitlines()]
    assert news[-1]["done_bytes"] == news[-1]["total_bytes"] > 0
    assert json.loads(captured.out)["ok"] is True
    assert printed(capsys, "verify", run_dir / "model.ckpt-1", "--progress", "none").err == ""


def test_show_gives_people_figures_layout_and_histograms(run_dir, capsys):
    out = printed(capsys, "show", run_dir / "model.ckpt-1", "--stats", "--layout", "--plot").out
    assert re.search(r"^n\\x07 +1 +2\.5 +1\.75 +0\.75 +0 +1 +1$", out, re.M)
    assert re.search(r"^i +-3 +4611686018427387904 ", out, re.M)
    assert re.search(r"^empty +– +– +– +– +0 +0 +0$", out, re.M)
    assert re.search(r"^w +(0,3:0,4|-:-)? *0 +\d+ +48 +[0-9a-f]{8}$", out, re.M)
    assert "█" in out
    assert "  no finite values" in out
    assert "words" not in out.partition("VALUES")[2]


def test_show_of_some_tensors_says_of_how_many(run_dir, capsys):
    out = printed(capsys, "show", run_dir / "model.ckpt-1", "w", "i").out
    assert "2 of 6 tensors" in out
    assert "words" not in out


def test_files_are_shown_and_printed_like_checkpoints(run_dir, capsys):
    file = run_dir.parent / "w.safetensors"
    out = printed(capsys, "show", file, "--stats").out
    assert re.search(r"^w +0 +11 +5\.5 ", out, re.M)
    assert re.search(r"^format +np$", out, re.M)
    assert "1 of 2 tensors" in printed(capsys, "show", file, "w").out
    assert printed(capsys, "cat", file, "b").out == "b (float64, 2)\n[0. 0.]\n"
    document = json.loads(printed(capsys, "cat", run_dir.parent / "w.npz", "w", "--slice", "1,1:2,2", "--json").out)
    assert document["tensors"][0]["values"] == [[6, 7]]


def test_inspect_says_the_same_to_programs(run_dir, capsys):
    document = json.loads(printed(capsys, "inspect", run_dir / "model.ckpt-1", "--json").out)
    assert document["num_params"] == 12 + 4 + 1 + 2 + 0 + 2
    text = printed(capsys, "inspect", run_dir / "model.ckpt-1").out
    assert f"# Total number of params: {document['num_params']}" in text
