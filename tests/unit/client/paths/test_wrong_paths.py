"""Paths and arguments that are nearly right: what the error says to do next."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

import ckptd

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html><html><body>404</body></html>"


@pytest.fixture
def prefix(tmp_path):
    path = tmp_path / "model.ckpt-2"
    ckptd.save_checkpoint(path, {"w": np.ones(3000, np.float32)})
    return str(path)


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (".index", "opened by its prefix: .*/model.ckpt-2$"),
        (".meta", "opened by its prefix: .*/model.ckpt-2$"),
        (".data-00000-of-00001", "opened by its prefix: .*/model.ckpt-2$"),
        ("/", "without the slash: .*/model.ckpt-2$"),
        ("0", "; there are model.ckpt-2$"),
    ],
)
def test_what_is_nearly_a_prefix_is_answered_with_the_prefix(prefix, ending, told):
    with pytest.raises(ckptd.NotFoundError, match=f"Failed to find any matching files for .*{told}"):
        ckptd.load_checkpoint(prefix + ending)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("checkpoint", b'model_checkpoint_path: "model.ckpt-2"', "this is a state file: open its directory, .*/$"),
        ("m.safetensors", b"x", "`ckptd import .*m.safetensors PREFIX` makes a checkpoint"),
        ("m.pt", b"PK\x03\x04", "this is a zip file, such as torch.save"),
        ("m.h5", b"\x89HDF\r\n\x1a\n", "this is an HDF5 file"),
        ("m.txt", b"hello", "this is a file, and no file of a checkpoint"),
    ],
)
def test_another_file_is_told_what_it_is(prefix, tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ckptd.NotFoundError, match=told):
        ckptd.load_checkpoint(tmp_path / name)


def test_a_directory_without_a_state_file_tells_what_it_holds(prefix, tmp_path):
    with pytest.raises(ckptd.NotFoundError, match="it holds model.ckpt-2: name one, or have `ckptd repair"):
        ckptd.load_checkpoint(tmp_path)
    with pytest.raises(ckptd.NotFoundError, match="os.path.expanduser"):
        ckptd.load_checkpoint("~/nothing/model.ckpt-2")


@pytest.mark.parametrize(("content", "told"), [(LFS, "`git lfs pull` fetches"), (PAGE, "a page of a web server")])
def test_a_pointer_or_a_page_in_place_of_a_file_is_recognized(prefix, content, told):
    index, data = pathlib.Path(f"{prefix}.index"), pathlib.Path(f"{prefix}.data-00000-of-00001")
    kept = index.read_bytes()
    index.write_bytes(content)
    with pytest.raises(ckptd.CorruptionError, match=told):
        ckptd.load_checkpoint(prefix)
    index.write_bytes(kept)
    data.write_bytes(content)
    with pytest.raises(ckptd.CorruptionError, match=told):
        ckptd.load_variable(prefix, "w")
    state = index.with_name("checkpoint")
    state.write_bytes(content)
    with pytest.raises(ckptd.CorruptionError, match=told):
        ckptd.latest_checkpoint(state.parent)


@pytest.mark.parametrize("url", ["http://host/x/model.ckpt-2", "https://host/x/model.ckpt-2"])
@pytest.mark.parametrize("use", [ckptd.load_checkpoint, lambda address: ckptd.Checkpointer(address, "r")])
def test_http_is_neither_a_store_nor_a_daemon(url, use):
    with pytest.raises(ckptd.InvalidRequestError, match="neither a store nor the address of a daemon \\(grpc://"):
        use(url)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"run": "/tmp/x/y"}, r"comes first, as in Checkpointer\('/tmp/x', 'y'\)"),
        ({"run": "grpc://127.0.0.1:7070"}, "is a whole path or a URL"),
        ({"run": pathlib.Path("x")}, "a run is named by a str, not by"),
        ({"run": "x/"}, "a slash too many"),
        ({"run": "x", "name": "a/model.ckpt"}, "directories belong to the run's name"),
        ({"run": "x", "name": 3}, "a checkpoint's name is a str"),
        ({"run": "x", "max_to_keep": "5"}, "max_to_keep is a whole number or None"),
        ({"run": "x", "max_to_keep": 1.5}, "max_to_keep is a whole number or None"),
        ({"run": "x", "keep_checkpoint_every_n_hours": "1"}, "is a number or None"),
        ({"run": "x", "timeout_s": None}, "timeout_s is a number of seconds"),
    ],
)
def test_arguments_of_a_wrong_kind_are_refused_in_words(tmp_path, arguments, told):
    with pytest.raises(ckptd.InvalidRequestError, match=told):
        ckptd.Checkpointer(tmp_path, **arguments)


@pytest.mark.parametrize("step", [np.array(5.0), np.float32(5), 5.0, np.array([5])])
def test_a_step_that_is_nearly_one_is_told_how_to_become_one(tmp_path, step):
    with (
        ckptd.Checkpointer(tmp_path, "x", rank=0, world_size=1) as checkpointer,
        pytest.raises(ckptd.InvalidRequestError, match=r"a step is a whole number from 0 on; int\(step\) makes one"),
    ):
        checkpointer.save(step, {"w": np.ones(1)})


def test_a_name_that_is_none_is_refused_in_words(prefix):
    with pytest.raises(ckptd.InvalidRequestError, match="the name of a tensor is a str, not 3"):
        ckptd.load_variable(prefix, 3)


@pytest.mark.parametrize("name", ["lr:0.1-3", "my run-3", "a[1]-3", "a(1)-3", "w*-3", "w?-3", "{x}-3"])
def test_no_character_of_a_path_has_a_meaning_of_its_own(tmp_path, name):
    for other in ("lr", "a1-3", "wx-3"):
        ckptd.save_checkpoint(tmp_path / other, {"w": np.zeros(2)})
    assert not ckptd.checkpoint_exists(tmp_path / name)
    ckptd.save_checkpoint(tmp_path / name, {"w": np.ones(2)})
    ckptd.update_checkpoint_state(tmp_path, str(tmp_path / name))
    assert ckptd.latest_checkpoint(tmp_path) == str(tmp_path / name)
    assert ckptd.load_checkpoint(tmp_path / name)["w"].sum() == 2
    ckptd.remove_checkpoint(tmp_path / name)
    assert not ckptd.checkpoint_exists(tmp_path / name)
    assert ckptd.checkpoint_exists(tmp_path / "wx-3")
