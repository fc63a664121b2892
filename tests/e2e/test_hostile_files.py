"""Files that are meant to harm whoever looks at them: small ones that stand for much, and names that give orders.

Each command runs in a process of its own with 4 GiB of address space, so that a file that fills memory fails here.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

import ckptd
from ckptd.cli import main
from ckptd.errors import CorruptionError, InvalidRequestError, StorageFullError
from ckptd.format import table
from ckptd.format.bundle_pb2 import BundleEntryProto, BundleHeaderProto
from tests import seams

TEBIBYTE = 1 << 40
NAME = "w\x1b]0;owned\x07\x1b[2J\n\u202e\x9bfoo\u200b"
PREFIX = "m\x1b[2J\n\u202e\x9b"


def index(path, *entries):
    header = BundleHeaderProto(num_shards=1)
    header.version.producer = 1
    items = [(b"", header.SerializeToString())]
    for name, shape, size in entries:
        entry = BundleEntryProto(dtype=1, size=size)
        for dimension in shape:
            entry.shape.dim.add(size=dimension)
        items.append((name.encode("utf-8", "surrogateescape"), entry.SerializeToString()))
    path.with_name(path.name + ".index").write_bytes(table.encode_table(sorted(items)))
    return path


def sparse(path, size):
    with path.open("wb") as file:
        file.truncate(size)
    return path


def data_of(prefix):
    return prefix.with_name(prefix.name + ".data-00000-of-00001")


def run(*arguments, seconds=20):
    """Run a command under a limit of memory; return its exit code and all that it printed, which must be printable."""

    def limited():
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    done = subprocess.run(
        [sys.executable, "-m", "ckptd", *map(str, arguments)], capture_output=True, timeout=seconds, preexec_fn=limited
    )
    said = (done.stdout + done.stderr).decode("utf-8")
    assert said.replace("\n", "").isprintable(), said
    assert "a bug in ckptd" not in said, said
    return done.returncode, said


def in_process(capsys, *arguments):
    code = main.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert said.replace("\n", "").isprintable(), said
    assert "a bug in ckptd" not in said, said
    return code, captured.out, captured.err


@pytest.fixture
def named(tmp_path):
    """A checkpoint and a directory with names that give a terminal orders."""
    directory = tmp_path / "run"
    ckptd.save_checkpoint(directory / "m-1", {NAME: np.arange(4.0), "b": np.zeros(2)})
    for file in directory.iterdir():
        file.rename(directory / file.name.replace("m-1", f"{PREFIX}-1"))
    return directory / f"{PREFIX}-1"


def test_no_command_prints_a_name_that_gives_orders(named, capsys, tmp_path):
    directory, files = named.parent, tmp_path / "\x1b[31mfiles"
    files.mkdir()
    for command in (
        ["repair", directory],
        ["ls", directory],
        ["ls", directory, "--json"],
        ["latest", directory],
        ["show", named],
        ["show", named, "--stats", "--plot"],
        ["show", named, "--layout"],
        ["show", named, "--json"],
        ["cat", named],
        ["cat", named, NAME, "--json"],
        ["cat", named, NAME + "x"],
        ["verify", named, "--progress", "json"],
        ["verify", directory, "--json"],
        ["diff", named, named, "--json"],
        ["inspect", named],
        ["inspect", named, "--all_tensors"],
        ["inspect", named, "--json"],
        ["export", named, files / "a.npz"],
        ["export", named, files / "a.safetensors"],
        ["show", files / "a.npz"],
        ["cat", files / "a.safetensors"],
        ["diff", named, files / "a.safetensors"],
        ["diff", files / "a.npz", files / "none.npz"],
        ["import", files / "a.safetensors", files / "b-1"],
        ["cp", named, files / "c-1"],
        ["prune", directory, "--keep", "1", "-n"],
        ["watch", directory, "--once", "--timeout", "10"],
        ["watch", directory, "--once", "--timeout", "10", "--json"],
        ["status", f"unix://{files}/none"],
        ["rm", named, "--foreign", "--even-latest"],
        ["show", directory, "--debug"],
    ):
        code, out, _ = in_process(capsys, *command)
        assert code in (0, 2, 3, 6), command
        if "--json" in command and code == 0:
            json.loads(out)


def test_only_inspect_raw_prints_names_as_they_are(named, capsys):
    assert main.run(["inspect", str(named), "--all_tensor_names", "--raw"]) == 0
    assert f"tensor: {NAME} (float64) [4]\n" in capsys.readouterr().out


def test_a_line_end_in_a_name_makes_no_line(named, capsys):
    _, out, _ = in_process(capsys, "inspect", named, "--all_tensor_names")
    assert len(out.splitlines()) == 3


def zip_of_zeros(path, size):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},), }}\n".encode()
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.npy", "w") as out,
    ):
        out.write(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)
        for at in range(0, size, 1 << 20):
            out.write(bytes(min(1 << 20, size - at)))
    return path


@pytest.mark.parametrize(
    "command", [["cat"], ["show", "--stats"], ["diff"], ["import"]], ids=lambda command: command[0]
)
def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(tmp_path, capsys, monkeypatch, command):
    seams.NPZ_UNPACKED_BYTES.put(monkeypatch, 1 << 20)
    bomb = zip_of_zeros(tmp_path / "bomb.npz", 2 << 20)
    assert in_process(capsys, "show", bomb)[0] == 0  # its headers say what it is
    others = {"diff": [bomb], "import": [tmp_path / "x-1"]}.get(command[0], [])
    code, _, err = in_process(capsys, command[0], bomb, *others, *command[1:])
    assert code == InvalidRequestError.exit_code
    assert "unpacks to 2.1 MB" in err
    assert "numpy.savez" in err
    assert not [name for name in os.listdir(tmp_path) if name != "bomb.npz"]


def test_an_empty_array_of_impossible_dimensions_is_damaged(tmp_path, capsys):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4611686018427387904), }\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)
    for command in ("show", "cat"):
        assert in_process(capsys, command, tmp_path / "a.npz")[0] == CorruptionError.exit_code


@pytest.fixture
def tebibyte(tmp_path):
    """A checkpoint and a safetensors file of a tensor of 1 TiB, which take no room on the disk."""
    prefix = index(tmp_path / "m-1", ("w", (TEBIBYTE // 4,), TEBIBYTE))
    sparse(data_of(prefix), TEBIBYTE)
    header = json.dumps({"w": {"dtype": "U8", "shape": [TEBIBYTE], "data_offsets": [0, TEBIBYTE]}}).encode()
    file = sparse(tmp_path / "m.safetensors", 8 + len(header) + TEBIBYTE)
    with file.open("r+b") as out:
        out.write(struct.pack("<Q", len(header)) + header)
    return prefix, file


def test_a_tensor_that_does_not_fit_into_memory_is_refused_before_it_is_read(tebibyte):
    for place in tebibyte:
        code, said = run("cat", place)
        assert code == InvalidRequestError.exit_code
        assert "does not fit into memory" in said
    code, said = run("cat", tebibyte[0], "w", "--slice", "0,2")
    assert (code, said) == (0, "w (float32, 274877906944, part 0,2)\n[0. 0.]\n")
    code, said = run("inspect", tebibyte[0], "--all_tensors")
    assert code == StorageFullError.exit_code
    assert "not enough memory" in said


def test_what_is_larger_than_its_kind_can_be_is_not_read_and_hides_nothing(tmp_path):
    sound = index(tmp_path / "m-1", ("w", (1,), 4))
    data_of(sound).write_bytes(bytes(4))
    sparse(tmp_path / "m-2.index", TEBIBYTE)
    code, said = run("ls", tmp_path)
    assert code == 0
    assert "m-1 " in said
    assert "its index cannot be read: larger than" in said
    assert run("show", tmp_path / "m-2")[0] == CorruptionError.exit_code
    sparse(tmp_path / "checkpoint", TEBIBYTE)
    assert run("latest", tmp_path)[0] == CorruptionError.exit_code
    assert run("repair", tmp_path)[0] == 0
    assert run("latest", tmp_path) == (0, f"{tmp_path}/m-1\n")


def test_no_room_is_made_for_a_shard_that_is_not_there(tmp_path, capsys):
    prefix = index(tmp_path / "m-1", ("w", (1 << 60,), 1 << 62))
    for target in ("o.npz", "o.safetensors"):
        assert in_process(capsys, "export", prefix, tmp_path / target)[0] == CorruptionError.exit_code
        assert not (tmp_path / target).exists()


def test_a_state_file_of_many_paths_and_of_one_endless_path_ends_soon(tmp_path, capsys):
    sound = index(tmp_path / "m-1", ("w", (1,), 4))
    data_of(sound).write_bytes(bytes(4))
    state = tmp_path / "checkpoint"
    lines = "".join(f'all_model_checkpoint_paths: "/elsewhere/{n}"\n' for n in range(20_000))
    state.write_text('model_checkpoint_path: "m-1"\n' + lines)
    began = time.thread_time()
    assert in_process(capsys, "latest", tmp_path)[1] == f"{sound}\n"
    assert in_process(capsys, "ls", tmp_path)[0] == 0
    assert time.thread_time() - began < 10
    state.write_text(f'model_checkpoint_path: "{"/a" * (4 << 20)}"\n')
    began = time.thread_time()
    assert in_process(capsys, "ls", tmp_path)[0] == 0
    assert in_process(capsys, "latest", tmp_path)[0] in (0, 3)
    assert time.thread_time() - began < 10


def test_a_long_name_widens_no_table_and_fills_no_message(tmp_path, capsys):
    long = "k" * 1_000_000
    prefix = index(tmp_path / "m-1", (long, (1,), 4), *((f"t{n}", (1,), 4) for n in range(200)))
    code, out, _ = in_process(capsys, "show", prefix)
    assert code == 0
    assert len(out) < 2_000_000
    assert long in out
    data_of(prefix).write_bytes(bytes(4))
    code, _, err = in_process(capsys, "cat", prefix, long)
    assert code == CorruptionError.exit_code
    assert len(err) < 50_000


def test_a_name_that_is_no_utf_8_does_not_keep_the_others_from_being_listed(tmp_path, capsys):
    for name in ("m-1", "a\udcff-2"):
        data_of(index(tmp_path / name, ("w", (1,), 4))).write_bytes(bytes(4))
    code, _, err = in_process(capsys, "repair", tmp_path)
    assert code == 0
    assert "a\\xff-2: its name is not UTF-8" in err
    assert (tmp_path / "checkpoint").read_text() == 'model_checkpoint_path: "m-1"\nall_model_checkpoint_paths: "m-1"\n'


def test_a_name_like_the_one_that_is_meant_is_looked_for_in_bounded_time(tmp_path, capsys):
    prefix = index(tmp_path / "m-1", *((f"layer_{n:06}/kernel/optimizer", (1,), 4) for n in range(40_000)))
    began = time.thread_time()
    code, _, err = in_process(capsys, "cat", prefix, "layer_00000x/kernel/optimizer")
    assert code == 3
    assert "did you mean 'layer_00" in err
    assert time.thread_time() - began < 8
