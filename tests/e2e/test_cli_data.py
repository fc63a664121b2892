"""The commands that move data, by people who type what people type."""

from __future__ import annotations

import json
import os

import ml_dtypes
import numpy as np
import pytest

import ckptd
from ckptd.cli import main
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.storage.local.local_store import LocalStore

W = np.arange(12, dtype=np.float32).reshape(3, 4)
ARRAYS = {"w": W, "b": np.zeros(4), "brain": np.array([1.5], ml_dtypes.bfloat16), "step": np.array(3)}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Go to a directory with the checkpoints m-1 and m-2, which has a string, and the files m.npz and m.safetensors."""
    monkeypatch.chdir(tmp_path)
    ckptd.save_checkpoint("m-1", ARRAYS)
    ckptd.save_checkpoint("m-2", {**ARRAYS, "w": W + (W == 5), "text": np.array([b"x"], object)}, num_shards=2)
    np.savez("m.npz", w=W, b=np.zeros(4))
    assert main.run(["export", "m-1", "m.safetensors"]) == 0
    return tmp_path


def says(capsys, *arguments, code=0):
    capsys.readouterr()
    assert main.run([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    return captured.out, captured.err


def as_json(capsys, *arguments, code=0):
    return json.loads(says(capsys, *arguments, "--json", code=code)[0])


def test_export_leaves_out_the_notes_of_ckptd_and_no_tensor_of_a_program(here, capsys):
    notes = {"_CKPTD_OUTLINE": np.array(b"{}", object), "_CKPTD_DCP/0": np.array([b"", b""], object)}
    ckptd.save_checkpoint("noted-1", {"_CKPTD_MINE": W, "w": W, **notes})
    ckptd.save_checkpoint("noted-2", {"_CKPTD_OUTLINE": W, "w": W})
    assert as_json(capsys, "export", "noted-1", "noted1.safetensors")["tensors"] == ["_CKPTD_MINE", "w"]
    assert as_json(capsys, "export", "noted-2", "noted2.npz")["tensors"] == ["_CKPTD_OUTLINE", "w"]


def test_cp_copies_to_a_prefix_or_into_a_directory_and_may_publish(here, capsys):
    out, err = says(capsys, "cp", "m-1", "archive/best")
    assert out == f"{here}/archive/best: 90 B in 1 shard, every checksum verified\n"
    assert err == ""
    document = as_json(capsys, "cp", "m-2.index", "archive/", "--num-shards", "3", "--publish")
    assert document["checkpoint"]["prefix"] == str(here / "archive" / "m-2")
    assert document["published"] is True
    assert says(capsys, "latest", "archive")[0] == f"{here}/archive/m-2\n"
    assert as_json(capsys, "diff", "m-2", "archive")["equal"] is True
    assert as_json(capsys, "verify", "archive")["ok"] is True


def test_cp_replaces_only_when_forced(here, capsys):
    assert "there is a checkpoint already" in says(capsys, "cp", "m-1", "m-2", code=4)[1]
    assert as_json(capsys, "cp", "m-1", "m-2", "--force")["checkpoint"]["num_shards"] == 1
    assert as_json(capsys, "diff", "m-1", "m-2")["equal"] is True


def test_what_is_exported_and_imported_is_the_same(here, capsys):
    document = as_json(capsys, "import", "m.safetensors", "runs/m-7", "--num-shards", "2", "--publish")
    assert (document["tensors"], document["skipped"]) == (sorted(ARRAYS), [])
    assert as_json(capsys, "diff", "m-1", "runs")["equal"] is True
    assert "no difference: 4 equal" in says(capsys, "diff", "m-1", "m.safetensors", "--exit-code")[0]
    out, err = says(capsys, "export", "m-2", "all.npz", "--skip-unsupported")
    assert out.startswith(f"{here}/all.npz: 3 tensors, ")
    assert err == "left out: brain (bfloat16), which npz cannot hold\nleft out: text (string), which npz cannot hold\n"
    document = as_json(capsys, "export", "m-2", "one.safetensors", "--only", "w", "--metadata", "format=pt")
    assert (document["tensors"], document["format"]) == (["w"], "safetensors")


def test_diff_tells_by_how_much(here, capsys):
    document = as_json(capsys, "diff", "m-1", "m-2")
    assert [facts["name"] for facts in document["added"]] == ["text"]
    (changed,) = document["changed"]
    assert (changed["name"], changed["what"], document["num_equal"]) == ("w", ["values"], 3)
    assert changed["values"] == {
        "num_elements": 12, "num_different": 1, "num_nan": 0, "max_abs": 1.0, "mean_abs": pytest.approx(1 / 12),
    }  # fmt: skip
    out, _ = says(capsys, "diff", "m-1", "m-2", "--exit-code", code=4)
    assert "~  w       float32  3 × 4    1 of 12         1  0.0833333" in out.splitlines()
    assert out.endswith("1 added, 0 removed, 1 changed, 3 equal\n")
    assert as_json(capsys, "diff", "m-1", "m-2", "--no-values")["changed"] == []
    assert says(capsys, "diff", "m-1", "m-2")[1] == ""


def test_urls_will_do(here, capsys):
    says(capsys, "cp", f"file://{here}/m-2", "memory://elsewhere/m-2")
    assert as_json(capsys, "diff", "m-2", "memory://elsewhere/m-2")["equal"] is True
    assert as_json(capsys, "cp", "m-1", "memory://elsewhere/")["checkpoint"]["durability"] == "memory"
    says(capsys, "export", "memory://elsewhere/m-1", "memory://elsewhere/x.safetensors")
    says(capsys, "import", "memory://elsewhere/x.safetensors", f"file://{here}/back")
    assert as_json(capsys, "diff", "m-1", "back")["equal"] is True


def test_nothing_is_published_below_a_daemons_root(here, capsys):
    (here / "root" / "run").mkdir(parents=True)
    coordinator = Coordinator(LocalStore(str(here / "root")))
    coordinator.open()
    try:
        for command in (["cp", "m-1"], ["import", "m.npz"]):
            _, err = says(capsys, *command, "root/run/m-1", "--publish", code=4)
            assert f"{here}/root is in use (found ckptd, pid {os.getpid()} on " in err
        assert list((here / "root" / "run").iterdir()) == []
        says(capsys, "cp", "m-1", "root/run/m-1")
    finally:
        coordinator.close()
    says(capsys, "cp", "m-1", "root/run/m-1", "--publish", "--force")
    assert says(capsys, "latest", "root/run")[0] == f"{here}/root/run/m-1\n"


def test_show_describes_files_too(here, capsys):
    document = as_json(capsys, "show", "m.safetensors")
    assert document["file"] == str(here / "m.safetensors")
    assert {row["name"]: row["dtype"] for row in document["tensors"]} == {
        "w": "float32", "b": "float64", "brain": "bfloat16", "step": "int64",
    }  # fmt: skip
    out, _ = says(capsys, "show", "m.npz")
    assert out.endswith("2 tensors, 80 B\n")


def test_progress_is_lines_of_json_for_scripts(here, capsys):
    for arguments in (
        ["cp", "m-1", "c-1"], ["export", "m-1", "c.safetensors"], ["import", "m.npz", "i-1"], ["diff", "m-1", "c-1"],
    ):  # fmt: skip
        _, err = says(capsys, *arguments, "--progress", "json")
        lines = [json.loads(line) for line in err.splitlines()]
        assert lines[-1]["event"] == "progress"
        assert lines[-1]["done_bytes"] == lines[-1]["total_bytes"] > 0
    assert says(capsys, "cp", "m-1", "c-2", "--progress", "none")[1] == ""


def test_export_takes_what_matches_and_leaves_a_prefix_away(here, capsys):
    nested = {"model/w": W, "model/layer/b": np.zeros(4), "optimizer/w": W, "model/[x]": np.ones(1)}
    ckptd.save_checkpoint("n-1", nested)
    document = as_json(capsys, "export", "n-1", "m1.safetensors", "--only", "model/*", "--strip-prefix", "model/")
    assert document["tensors"] == ["[x]", "layer/b", "w"]
    says(capsys, "import", "m1.safetensors", "back-1")
    assert np.array_equal(ckptd.load_variable("back-1", "w"), W)
    assert as_json(capsys, "export", "n-1", "m2.npz", "--only", "model/[x]")["tensors"] == ["model/[x]"]
    assert as_json(capsys, "export", "n-1", "m3.npz", "--only", "*/w")["tensors"] == ["model/w", "optimizer/w"]
    for arguments, code, message in (
        (["--only", "modle/*"], 3, "no tensor in"),
        (["--only", "*/w", "--only", "model/w", "--strip-prefix", "model/w"], 2, "nothing would be left"),
    ):
        assert message in says(capsys, "export", "n-1", "m4.npz", *arguments, code=code)[1]
    ckptd.save_checkpoint("n-2", {"w": W, "model/w": W})
    assert "would both be called 'w'" in says(capsys, "export", "n-2", "m5.npz", "--strip-prefix", "model/", code=2)[1]


def test_a_damaged_checkpoint_is_neither_copied_nor_exported(here, capsys):
    shard = here / "m-1.data-00000-of-00001"
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.write_bytes(data)
    for arguments in (["cp", "m-1", "c-1"], ["export", "m-1", "c.safetensors"], ["diff", "m-1", "m-2"]):
        assert "checksum" in says(capsys, *arguments, code=8)[1]
    assert not list(here.glob("c*"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["cp", "m-1"], 2, "missing argument 'DEST'"),
        (["cp", "m-3", "x"], 3, "there is no checkpoint 'm-3'"),
        (["cp", "m-1", "m-1"], 2, "onto itself"),
        (["cp", "m-1", "x-1.index"], 2, "did you mean 'x-1'?"),
        (["cp", "m-1", "x", "--num-shards", "0"], 2, "0 is not in the range"),
        (["cp", "m-1", "gs://bucket/x"], 2, "gs"),
        (["export", "m-1", "m.npz"], 2, "'brain' is of dtype bfloat16"),
        (["export", "m-1", "m.safetensors"], 4, "--force replaces it"),
        (["export", "m-1", "m.safetensor"], 2, "did you mean 'm.safetensors'?"),
        (["export", "m-1", "x.safetensors", "--only", "W"], 3, "did you mean 'w'?"),
        (["export", "m-1", "x.safetensors", "--metadata", "pt"], 2, "KEY=TEXT"),
        (["export", "m-1", "x.npz", "--only", "w", "--metadata", "a=b"], 2, "only safetensors"),
        (["export", "m-2", "x.safetensors"], 2, "'text' is of dtype string"),
        (["import", "m.pt", "x"], 2, "by its own framework only"),
        (["import", "m-1", "x"], 2, "`ckptd cp` copies it"),
        (["import", "mm.npz", "x"], 3, "did you mean 'm.npz'?"),
        (["import", "m.npz", "."], 2, "pass a prefix"),
        (["import", "m.npz", "m-1"], 4, "already"),
        (["diff", "m-1", "n.safetensors"], 3, "did you mean 'm.safetensors'?"),
        (["diff", "m-1"], 2, "missing argument 'B'"),
        (["show", "n.npz"], 3, "did you mean 'm.npz'?"),
        (["exprot", "m-1", "x.npz"], 2, "did you mean 'export'?"),
    ],
)
def test_wrong_input_gets_one_helpful_line_and_the_right_exit_code(arguments, code, said, here, capsys):
    before = sorted(here.iterdir())
    out, err = says(capsys, *arguments, code=code)
    assert out == ""
    assert said in err
    assert err.startswith("Usage:") or err.count("\n") == 1
    assert sorted(here.iterdir()) == before
