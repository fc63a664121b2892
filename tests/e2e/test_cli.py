"""The reading commands, on checkpoints written here, by people who type what people type."""

from __future__ import annotations

import json
import re

import ml_dtypes
import numpy as np
import pytest

import ckptd
from ckptd.cli import main
from tests import seams

W = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Give a directory with the run `runs/mnist`, which holds the steps 10 to 120, of which it keeps three."""
    root = tmp_path_factory.mktemp("root")
    with ckptd.Checkpointer(str(root), run="runs/mnist", rank=0, world_size=1, max_to_keep=3) as checkpointer:
        for step in (10, 20, 30, 120):
            arrays = {
                "w": W + step,
                "names": np.array([b"one", b"t\xffo"], object),
                "half": np.array([1, 2, 3], np.float16),
                "brain": np.array([1.5], ml_dtypes.bfloat16),
                "nibbles": np.array([-8, 7], ml_dtypes.int4),
                "odd": np.array([np.nan, -np.inf, 1.0]),
            }
            checkpointer.save(step, arrays).result(timeout=120)
    return root


@pytest.fixture
def run_dir(root):
    return root / "runs" / "mnist"


def ckptd_says(capsys, *arguments, code=0):
    """Run one command; return what it wrote on stdout and on stderr."""
    assert main.run([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    return captured.out, captured.err


def as_json(capsys, *arguments, code=0):
    return json.loads(ckptd_says(capsys, *arguments, "--json", code=code)[0])


def test_ls_lists_what_is_kept_and_marks_the_latest(run_dir, capsys):
    out, err = ckptd_says(capsys, "ls", run_dir)
    lines = out.splitlines()
    assert [re.split(r"\s{2,}", line)[0] for line in lines[1:]] == ["model.ckpt-20", "model.ckpt-30", "model.ckpt-120"]
    assert [line for line in lines if "latest" in line] == lines[-1:]
    assert err == ""
    document = as_json(capsys, "ls", run_dir)
    assert document["latest"] == str(run_dir / "model.ckpt-120")
    assert [found["step"] for found in document["checkpoints"]] == [20, 30, 120]
    assert all(found["listed"] and found["problem"] is None for found in document["checkpoints"])


def test_ls_takes_a_file_url(run_dir, capsys):
    assert as_json(capsys, "ls", f"file://{run_dir}") == as_json(capsys, "ls", run_dir)


def test_latest_prints_the_prefix_and_nothing_else(run_dir, capsys):
    out, err = ckptd_says(capsys, "latest", run_dir)
    assert (out, err) == (f"{run_dir}/model.ckpt-120\n", "")
    assert as_json(capsys, "latest", run_dir)["step"] == 120


def test_show_describes_tensors_and_shards(run_dir, capsys):
    document = as_json(capsys, "show", run_dir / "model.ckpt-30")
    tensors = {tensor["name"]: tensor for tensor in document["tensors"]}
    assert (tensors["w"]["dtype"], tensors["w"]["shape"], tensors["w"]["size_bytes"]) == ("float32", [3, 4], 48)
    assert tensors["names"]["dtype"] == "string"
    assert all(tensor["tensorflow_reads"] for tensor in tensors.values())
    assert sum(shard["used_bytes"] for shard in document["shards"]) == sum(t["size_bytes"] for t in tensors.values())
    assert all(shard["size_bytes"] >= shard["used_bytes"] for shard in document["shards"])
    out, _ = ckptd_says(capsys, "show", run_dir / "model.ckpt-30")
    assert re.search(r"^w +float32 +3 × 4 +48 B", out, re.M)
    assert re.search(r"^model\.ckpt-30\.data-00000-of-00001 ", out, re.M)


@pytest.mark.parametrize("typed", ["model.ckpt-120", "model.ckpt-120.index", "model.ckpt-120.data-00000-of-00001", ""])
def test_a_prefix_is_taken_as_shells_complete_it_and_a_directory_stands_for_its_latest(typed, run_dir, capsys):
    document = as_json(capsys, "show", run_dir / typed)
    assert document["prefix"] == str(run_dir / "model.ckpt-120")


def test_cat_prints_values_as_numpy_does(run_dir, capsys):
    out, _ = ckptd_says(capsys, "cat", run_dir / "model.ckpt-20", "w")
    assert out == "w (float32, 3 × 4)\n" + np.array2string(W + 20) + "\n"
    out, _ = ckptd_says(capsys, "cat", run_dir / "model.ckpt-20", "w", "--slice", "1,2:-")
    assert out == "w (float32, 3 × 4, part 1,2:-)\n" + np.array2string((W + 20)[1:3]) + "\n"


def test_cat_gives_every_value_to_programs(run_dir, capsys):
    tensors = {t["name"]: t for t in as_json(capsys, "cat", run_dir / "model.ckpt-30")["tensors"]}
    assert tensors["w"]["values"] == (W + 30).tolist()
    assert tensors["names"]["values"] == ["one", "t\\xffo"]
    assert tensors["half"]["values"] == [1.0, 2.0, 3.0]
    assert tensors["brain"]["values"] == [1.5]
    assert tensors["nibbles"]["values"] == [-8, 7]
    assert tensors["odd"]["values"] == ["nan", "-inf", 1.0]
    one = as_json(capsys, "cat", run_dir / "model.ckpt-30", "w", "--slice", "2,1:0,2")["tensors"]
    assert one == [
        {"name": "w", "dtype": "float32", "shape": [3, 4], "start": [2, 0], "values": (W + 30)[2:3, 0:2].tolist()}
    ]


def test_verify_reads_a_prefix_or_a_whole_directory(run_dir, capsys):
    assert as_json(capsys, "verify", run_dir / "model.ckpt-30")["ok"] is True
    document = as_json(capsys, "verify", run_dir)
    assert document["ok"] is True
    assert [report["prefix"] for report in document["reports"]] == [
        str(run_dir / f"model.ckpt-{step}") for step in (20, 30, 120)
    ]
    out, err = ckptd_says(capsys, "verify", run_dir)
    assert out.count("every checksum verifies") == 3
    assert err == ""


def test_verify_of_a_directory_passes_by_what_is_deleted_while_it_reads(tmp_path, capsys, monkeypatch):
    with ckptd.Checkpointer(str(tmp_path), run="run", rank=0, world_size=1) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, {"w": W + step}).result(timeout=120)
        plain = seams.VERIFY.value

        def verify_slowly(store, key, *arguments, **options):
            report = plain(store, key, *arguments, **options)
            if key == "model.ckpt-1":
                checkpointer.delete(2, for_good=True)
            return report

        seams.VERIFY.put(monkeypatch, verify_slowly)
        out, err = ckptd_says(capsys, "verify", tmp_path / "run")
    assert out.count("every checksum verifies") == 2
    assert err == "not verified, as it was deleted meanwhile: model.ckpt-2\n"


@pytest.fixture
def damaged(tmp_path):
    """Give a directory with a sound checkpoint and one in which a bit has been flipped."""
    for step in (1, 2):
        ckptd.save_checkpoint(str(tmp_path / f"m-{step}"), {"w": W, "v": W * 2})
    shard = tmp_path / "m-2.data-00000-of-00001"
    data = bytearray(shard.read_bytes())
    data[60] ^= 1
    shard.write_bytes(data)
    return tmp_path


def test_verify_exits_8_and_says_what_is_damaged_and_where(damaged, capsys):
    out, err = ckptd_says(capsys, "verify", damaged, code=8)
    lines = out.splitlines()
    assert "every checksum verifies" in lines[1]
    assert "CORRUPT" in lines[2]
    assert "m-2.data-00000-of-00001" in err
    assert "tensor 'v'" in err
    assert "1 of 2 damaged" in err
    document = as_json(capsys, "verify", damaged / "m-2", code=8)
    assert [problem["tensor"] for problem in document["reports"][0]["problems"]] == ["v"]


def test_a_missing_shard_is_seen_by_ls_show_and_verify(damaged, capsys):
    (damaged / "m-2.data-00000-of-00001").unlink()
    assert "INCOMPLETE" in ckptd_says(capsys, "ls", damaged)[0]
    assert "MISSING" in ckptd_says(capsys, "show", damaged / "m-2")[0]
    ckptd_says(capsys, "verify", damaged / "m-2", code=8)


def test_an_index_of_rubbish_is_damage_and_not_a_bug(tmp_path, capsys):
    (tmp_path / "m-1.index").write_bytes(b"rubbish" * 20)
    for command in ("show", "cat", "verify"):
        _, err = ckptd_says(capsys, command, tmp_path / "m-1", code=8)
        assert "bug" not in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["latest", "{root}"], 3, "there are some in {root}/runs/mnist"),
        (["latest", "{root}/nothing"], 3, "there is no directory"),
        (["ls", "{root}/runs/mnits"], 3, "did you mean '{root}/runs/mnist'?"),
        (["ls", "{root}/runs/mnist/checkpoint"], 2, "this is a file; pass a directory"),
        (["show", "{root}/runs/mnist/model.ckpt-12"], 3, "the newest here is 'model.ckpt-120'"),
        (["show", "{root}/runs/mnist/model.cpt-30"], 3, "did you mean 'model.ckpt-30'?"),
        (["verify", "{root}/runs/mnist/model.ckpt-10"], 3, "there is no checkpoint 'model.ckpt-10'"),
        (["cat", "{root}/runs/mnist/model.ckpt-30", "name"], 3, "did you mean 'names'?"),
        (["cat", "{root}/runs/mnist/model.ckpt-30", "w", "--slice", "0,9:-"], 2, ""),
        (["cat", "{root}/runs/mnist/model.ckpt-30", "w", "--slice", "x"], 2, "x"),
        (["cat", "{root}/runs/mnist/model.ckpt-30", "--slice", "-"], 2, "exactly one NAME"),
        (["show", "nothing://bucket/model.ckpt-1"], 2, "there is no store for nothing://"),
    ],
)
def test_a_near_miss_gets_one_helpful_line_and_the_right_exit_code(arguments, code, said, root, capsys):
    out, err = ckptd_says(capsys, *(argument.format(root=root) for argument in arguments), code=code)
    assert out == ""
    assert said.format(root=root) in err
    assert err.count("\n") == 1


def test_show_marks_slices_that_tensorflow_cannot_join(tmp_path, capsys):
    from ckptd.format.columns import slice_keys, slice_list_value
    from ckptd.format.entry import Entry
    from ckptd.format.index import encode_entries
    from ckptd.format.tensors import encode

    parts = [np.arange(4, dtype=np.uint16).reshape(2, 2) + 10 * n for n in range(2)]
    encoded = [encode(part) for part in parts]
    starts, lengths = np.array([[0, 0], [0, 2]]), np.array([[2, 2], [2, 2]])
    dtype = encoded[0].dtype.number
    items = [
        (key, Entry(dtype, (2, 2), 0, 8 * n, 8, encoded[n].crc32c, ()).encode())
        for n, key in enumerate(slice_keys("u", starts, lengths))
    ]
    items.append((b"u", slice_list_value(dtype, (2, 4), starts, lengths)))
    (tmp_path / "m-1.index").write_bytes(encode_entries(1, sorted(items)))
    (tmp_path / "m-1.data-00000-of-00001").write_bytes(b"".join(part.tobytes() for part in parts))

    out, _ = ckptd_says(capsys, "show", tmp_path / "m-1")
    assert "TensorFlow cannot join these slices" in out
    row = as_json(capsys, "show", tmp_path / "m-1")["tensors"][0]
    assert (row["slices"], row["tensorflow_reads"]) == (2, False)
    assert as_json(capsys, "cat", tmp_path / "m-1", "u")["tensors"][0]["values"] == np.hstack(parts).tolist()


def test_runs_of_shards_are_drawn_together():
    from ckptd.cli.show import ranges

    assert ranges((0, 1, 2, 3, 7, 9, 10)) == "0-3, 7, 9-10"
    assert ranges(()) == ""
