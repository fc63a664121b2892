"""The reader and the functions around it, on what we write ourselves."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import ckptd
from ckptd.errors import ConflictError, CorruptionError, InvalidRequestError, NotFoundError

ARRAYS = {
    "w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "step": np.int64(7),
    "name": "mnist",
    "words": ["a", "", "ccc"],
    "half": np.ones(5, np.float16),
    "none": np.zeros((0, 4)),
}


@pytest.fixture(params=[1, 3], ids=["one shard", "three shards"])
def prefix(tmp_path, request):
    done = ckptd.save_checkpoint(str(tmp_path / "model.ckpt-7"), ARRAYS, num_shards=request.param)
    assert done.prefix == str(tmp_path / "model.ckpt-7")
    assert done.step == 7
    assert done.num_shards <= request.param
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        *[f"model.ckpt-7.data-{n:05d}-of-{done.num_shards:05d}" for n in range(done.num_shards)],
        "model.ckpt-7.index",
    ]
    return done.prefix


def point_at(directory, prefix, *others):
    lines = [f'model_checkpoint_path: "{prefix}"', *[f'all_model_checkpoint_paths: "{one}"' for one in others]]
    (Path(directory) / "checkpoint").write_text("\n".join(lines) + "\n")


def test_the_reader_is_a_mapping_with_tensorflows_values(prefix):
    reader = ckptd.load_checkpoint(prefix)
    assert sorted(reader) == sorted(ARRAYS)
    assert len(reader) == 6
    assert "w" in reader
    assert "v" not in reader
    assert (reader["w"] == ARRAYS["w"]).all()
    assert isinstance(reader["step"], np.int64)
    assert reader["name"] == b"mnist"
    assert reader["words"].tolist() == [b"a", b"", b"ccc"]
    assert reader["half"].dtype == np.float16
    assert reader["none"].shape == (0, 4)
    assert reader.get("nope") is None
    with pytest.raises(KeyError):
        reader["nope"]


def test_tensors_slices_and_maps(prefix):
    reader = ckptd.load_checkpoint(prefix)
    assert reader.get_slice("w", (1, 1), (2, 3)).tolist() == ARRAYS["w"][1:, 1:].tolist()
    assert reader.get_tensor(b"step") == 7
    assert reader.has_tensor("w")
    assert reader.has_tensor("")  # as with TensorFlow: there is an entry under this key
    assert not reader.has_tensor("W")
    assert reader.get_variable_to_shape_map()["w"] == [3, 4]
    assert reader.get_variable_to_dtype_map()["w"] == np.float32
    assert reader.get_variable_to_dtype_map()["words"] == np.dtype(object)
    assert reader.debug_string() == (
        b"half (DT_HALF) [5]\nname (DT_STRING) []\nnone (DT_DOUBLE) [0,4]\nstep (DT_INT64) []\n"
        b"w (DT_FLOAT) [3,4]\nwords (DT_STRING) [3]\n"
    )
    with pytest.raises(NotFoundError, match="Key wrods not found in checkpoint; did you mean 'words'"):
        reader.get_tensor("wrods")
    with pytest.raises(InvalidRequestError, match="'w'.*out of bounds"):
        reader.get_slice("w", (1, 1), (3, 3))


def test_several_tensors_are_read_at_once(prefix):
    reader = ckptd.load_checkpoint(prefix)
    arrays = reader.get_tensors(["step", "w"])
    assert list(arrays) == ["step", "w"]
    assert np.array_equal(arrays["w"], ARRAYS["w"])
    assert (arrays["step"].shape, int(arrays["step"])) == ((), 7)
    with pytest.raises(NotFoundError, match="Key nothing not found"):
        reader.get_tensors(["w", "nothing"])


def test_functions_on_prefixes_directories_and_urls(prefix):
    directory = os.path.dirname(prefix)
    assert ckptd.latest_checkpoint(directory) is None
    point_at(directory, "model.ckpt-7")
    assert ckptd.latest_checkpoint(directory) == prefix
    assert ckptd.latest_checkpoint(f"file://{directory}") == f"file://{prefix}"
    spellings = (prefix, directory, directory + "/", f"file://{prefix}", f"file://{directory}", Path(prefix))
    for path in spellings:
        assert dict(ckptd.list_variables(path))["w"] == [3, 4]
        assert ckptd.load_variable(path, "step:0") == 7
        assert ckptd.verify(path).ok
    assert [name for name, _ in ckptd.list_variables(prefix)] == sorted(ARRAYS)
    assert ckptd.checkpoint_exists(prefix)
    assert ckptd.latest_checkpoint(Path(directory)) == prefix
    with pytest.raises(InvalidRequestError, match="pathlib"):
        ckptd.load_checkpoint(prefix.encode())
    assert not ckptd.checkpoint_exists(prefix + "0")
    assert not ckptd.checkpoint_exists(directory + "/model.ckpt-?")


def test_relative_paths_count_from_the_working_directory(prefix, monkeypatch):
    monkeypatch.chdir(os.path.dirname(prefix))
    point_at(".", "model.ckpt-7")
    assert ckptd.latest_checkpoint(".") == "./model.ckpt-7"
    assert ckptd.load_variable("model.ckpt-7", "step") == 7
    assert ckptd.load_variable(".", "step") == 7


def test_memory_stores_work_too():
    url = "memory://reader-test/m-1"
    ckptd.save_checkpoint(url, {"a": [1, 2]})
    assert ckptd.load_variable(url, "a").tolist() == [1, 2]
    assert ckptd.verify(url).ok


MISSING = [
    pytest.param(
        "absent", "Unsuccessful TensorSliceReader constructor: Failed to find any matching files for ", id="prefix"
    ),
    pytest.param("", "Couldn't find 'checkpoint' file or checkpoints in given directory ", id="directory"),
]


@pytest.mark.parametrize(("name", "message"), MISSING)
def test_what_is_not_there_is_said_in_tensorflows_words(tmp_path, name, message):
    (tmp_path / "a file").write_text("")
    path = str(tmp_path / name) if name else str(tmp_path)
    for function in (ckptd.load_checkpoint, ckptd.list_variables, ckptd.verify):
        with pytest.raises(NotFoundError, match=message + path):
            function(path)


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_whoever_passes_a_file_is_told_to_pass_the_prefix(tmp_path, suffix):
    ckptd.save_checkpoint(str(tmp_path / "m-1"), {"a": 1})
    with pytest.raises(NotFoundError) as caught:
        ckptd.load_checkpoint(str(tmp_path / "m-1") + suffix)
    assert str(caught.value).endswith(f"; a checkpoint is opened by its prefix: {tmp_path / 'm-1'}")


def test_the_state_file_with_its_paths_made_usable(tmp_path):
    assert ckptd.get_checkpoint_state(str(tmp_path)) is None
    point_at(tmp_path, "m-2", "/abs/m-1", "m-2")
    state = ckptd.get_checkpoint_state(str(tmp_path))
    assert state.model_checkpoint_path == f"{tmp_path}/m-2"
    assert state.all_model_checkpoint_paths == ("/abs/m-1", f"{tmp_path}/m-2")
    os.rename(tmp_path / "checkpoint", tmp_path / "other")
    assert ckptd.get_checkpoint_state(str(tmp_path)) is None
    assert ckptd.get_checkpoint_state(str(tmp_path), "other").model_checkpoint_path.endswith("m-2")
    with pytest.raises(InvalidRequestError, match="must not contain path components"):
        ckptd.get_checkpoint_state(str(tmp_path), "../other")


def test_a_state_file_that_cannot_be_read_is_no_empty_run(tmp_path):
    (tmp_path / "checkpoint").write_text("model_checkpoint_path: ")
    with pytest.raises(CorruptionError, match="line 1"):
        ckptd.latest_checkpoint(str(tmp_path))
    (tmp_path / "checkpoint").write_text("")
    with pytest.raises(InvalidRequestError, match="Invalid checkpoint state loaded from"):
        ckptd.latest_checkpoint(str(tmp_path))


def test_the_iterator_yields_the_newest_each_time_there_is_a_newer_one(tmp_path):
    for step in (1, 2, 3):
        ckptd.save_checkpoint(str(tmp_path / f"m-{step}"), {"a": step})
    clock = [0.0]
    # At which time which checkpoint becomes the latest.
    timeline = [(3.0, "m-1"), (4.0, "m-2"), (9.5, "m-3")]

    def sleep(seconds):
        clock[0] += seconds
        for at, name in timeline:
            if at <= clock[0]:
                point_at(tmp_path, name)

    def follow(**options):
        found = ckptd.checkpoints_iterator(str(tmp_path), sleep=sleep, now=lambda: clock[0], **options)
        return [(clock[0], os.path.basename(prefix)) for prefix in found]

    assert follow(timeout=6) == [(3.0, "m-1"), (4.0, "m-2"), (10.0, "m-3")]
    clock[0] = 0.0
    os.unlink(tmp_path / "checkpoint")
    assert follow(timeout=6, min_interval_secs=5) == [(3.0, "m-1"), (8.0, "m-2"), (13.0, "m-3")]
    clock[0] = 0.0
    os.unlink(tmp_path / "checkpoint")
    assert follow(timeout=0) == []
    asked = []
    assert follow(timeout=2, timeout_fn=lambda: asked.append(clock[0]) or len(asked) == 4) == [
        (3.0, "m-1"),
        (4.0, "m-2"),
    ]
    assert asked == [2.0, 3.0, 4.0, 6.0]


def test_a_checkpoint_is_never_written_over(prefix):
    before = {path: path.read_bytes() for path in Path(prefix).parent.iterdir()}
    with pytest.raises(ConflictError, match="already"):
        ckptd.save_checkpoint(prefix, {"a": 1})
    assert {path: path.read_bytes() for path in Path(prefix).parent.iterdir()} == before


def test_a_save_that_fails_leaves_nothing_behind(tmp_path):
    (tmp_path / "m.data-00001-of-00002").write_bytes(b"somebody else's")
    with pytest.raises(ConflictError):
        ckptd.save_checkpoint(str(tmp_path / "m"), {"a": np.zeros(10), "b": np.zeros(10)}, num_shards=2)
    with pytest.raises(InvalidRequestError, match="'a'"):
        ckptd.save_checkpoint(str(tmp_path / "n"), {"a": ckptd.Slice(np.zeros(2), (4,), (0,))})
    with pytest.raises(InvalidRequestError, match="one shard at least"):
        ckptd.save_checkpoint(str(tmp_path / "n"), {"a": 1}, num_shards=0)
    assert [one.name for one in tmp_path.iterdir()] == ["m.data-00001-of-00002"]


def test_slices_of_one_process_make_a_sliced_tensor(tmp_path):
    full = np.arange(24, dtype=np.float32).reshape(6, 4)
    parts = [ckptd.Slice(full[:2], (6, 4), (0, 0)), ckptd.Slice(full[2:], (6, 4), (2, 0))]
    ckptd.save_checkpoint(str(tmp_path / "m"), {"w": parts})
    assert (ckptd.load_variable(str(tmp_path / "m"), "w") == full).all()


def test_importing_the_package_loads_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys, ckptd; heavy = {'numpy', 'grpc', 'google.protobuf'} & set(sys.modules);"
        "assert not heavy, heavy; assert 'Checkpointer' in dir(ckptd);"
        "ckptd.load_checkpoint; assert 'grpc' not in sys.modules; ckptd.Checkpointer;"
        "assert all(getattr(ckptd, name) for name in ckptd.__all__)"
    )
    root = Path(ckptd.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=root)
    with pytest.raises(AttributeError):
        ckptd.nothing  # noqa: B018


def test_slices_are_read_by_their_encoded_keys_and_hidden_from_the_mapping(tmp_path):
    parts = [ckptd.Slice(np.full((2, 3), n, np.float32), (4, 3), (2 * n, 0)) for n in range(2)]
    reader = ckptd.load_checkpoint(ckptd.save_checkpoint(tmp_path / "m", {"w": parts, "a": 1}).prefix)
    lines = reader.debug_string().split(b" (DT_FLOAT) [2,3]\n")[:2]
    for n, key in enumerate(lines):
        assert key.startswith(b"\0")
        assert reader.has_tensor(key)
        assert reader.get_tensor(key).tolist() == [[n] * 3] * 2
        assert reader.get_slice(key, (1, 1), (1, 2)).tolist() == [[n, n]]
        assert key.decode("utf-8", "surrogateescape") not in reader
    assert list(reader) == ["a", "w"]
    for absent in ("", b"\0", b"\0w", lines[0][:-1]):
        with pytest.raises(NotFoundError, match="not found in checkpoint"):
            reader.get_tensor(absent)


def test_many_tensors_and_boxes_are_read_at_once_several_of_one_tensor(prefix):
    reader = ckptd.load_checkpoint(prefix)
    w, top, step, bottom, words = reader.get_many(["w", ("w", (0, 1), (2, 2)), "step", ("w", (2, 0), (1, 4)), "words"])
    assert np.array_equal(w, ARRAYS["w"])
    assert np.array_equal(top, ARRAYS["w"][:2, 1:3])
    assert np.array_equal(bottom, ARRAYS["w"][2:])
    assert isinstance(step, np.ndarray)
    assert step == 7
    assert words.tolist() == [b"a", b"", b"ccc"]
    assert reader.get_many([]) == []
    with pytest.raises(NotFoundError, match="did you mean 'w'"):
        reader.get_many(["step", "W"])
    with pytest.raises(InvalidRequestError):
        reader.get_many([("w", (2, 0), (2, 4))])
