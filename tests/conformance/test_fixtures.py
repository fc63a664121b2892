"""Files that TensorFlow wrote, and files nobody should write, against what TensorFlow recorded of them."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptd.errors import CkptdError, CorruptionError, NotFoundError
from ckptd.format import names
from ckptd.format.entry import Entry
from ckptd.format.index import Index, encode_index
from ckptd.format.slices import Box, parse_key, parse_spec
from ckptd.format.state_file import CheckpointState
from tests.conformance.bundle_files import FIXTURES, BundleReader

Record = dict[str, Any]

FOLDERS = sorted(path.parent.name for path in FIXTURES.glob("tf/*/manifest.json"))
INDEXES = sorted(FIXTURES.glob("tf/**/*.index"))
STATE_FILES = sorted(FIXTURES.glob("tf/**/checkpoint"))
UNUSUAL = json.loads((FIXTURES / "tf_unusual" / "manifest.json").read_text())


def manifest(folder: str) -> Record:
    loaded: Record = json.loads((FIXTURES / "tf" / folder / "manifest.json").read_text())
    return loaded


def name_of(record: Record) -> str:
    if record.get("name") is not None:
        return str(record["name"])
    if "name_rule" in record:  # one name of half a megabyte, which the manifest only describes
        assert record["name_rule"] == "'b/' + 'x' * 530000"
        return "b/" + "x" * 530000
    return bytes.fromhex(record["name_hex"]).decode("utf-8", "surrogateescape")


def stored_bytes(array: np.ndarray[Any, Any]) -> bytes:
    """Return what a manifest's sha256 is of."""
    if array.dtype == object:
        return b"".join(len(element).to_bytes(8, "little") + element for element in array.ravel().tolist())
    return array.tobytes()


def check_tensor(reader: BundleReader, record: Record) -> None:
    name = name_of(record)
    stored = reader.index.tensor(name)
    assert stored.dtype.name == record["dtype"]
    assert stored.dtype.number == record["dtype_enum"]
    assert list(stored.shape) == record["shape"]
    if "slices" in record:
        listed = [str(item) for item in reader.index.entry(name.encode("utf-8", "surrogateescape")).slices]
        assert sorted(listed) == sorted(str(parse_spec(spec)[1]) for spec in record["slices"])
    if sum(piece.box.num_elements for piece in stored.pieces) < math.prod(stored.shape):
        check_parts(reader, record)
        return
    array = reader.read(name)
    assert list(array.shape) == record["shape"]
    data = stored_bytes(array)
    assert hashlib.sha256(data).hexdigest() == record["sha256"]
    if "raw_hex" in record:
        assert data.hex() == record["raw_hex"]
    if "strings_hex" in record:
        assert [element.hex() for element in array.ravel()] == record["strings_hex"]


def check_parts(reader: BundleReader, record: Record) -> None:
    """A tensor with gaps: the whole is refused, what is there is right."""
    name = name_of(record)
    with pytest.raises(NotFoundError):
        reader.read(name)
    if "raw_hex" not in record:
        return
    stored = reader.index.tensor(name)
    whole = np.frombuffer(bytes.fromhex(record["raw_hex"]), stored.dtype.array).reshape(stored.shape)
    for piece in stored.pieces:
        assert reader.read(name, piece.box).tobytes() == whole[piece.box.within(Box.whole(stored.shape))].tobytes()


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_tensor_reads_back_as_tensorflow_recorded_it(folder: str) -> None:
    checkpoints = manifest(folder)["checkpoints"]
    for checkpoint in checkpoints:
        reader = BundleReader(FIXTURES / "tf" / folder / checkpoint["prefix"])
        assert reader.index.num_shards == checkpoint["num_shards"]
        for record in checkpoint.get("tensors", ()):
            check_tensor(reader, record)


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_are_those_that_tensorflow_lists(folder: str) -> None:
    for checkpoint in manifest(folder)["checkpoints"]:
        index = BundleReader(FIXTURES / "tf" / folder / checkpoint["prefix"]).index
        if "tensors" in checkpoint:
            assert index.names() == sorted(map(name_of, checkpoint["tensors"]), key=names.tensor_key)
        shown = checkpoint.get("tf_reader", {})
        if "shape_map" in shown:
            assert {name: list(index.tensor(name).shape) for name in index} == shown["shape_map"]
        if "dtype_map" in shown:
            assert {name: index.tensor(name).dtype.name for name in index} == shown["dtype_map"]


@pytest.mark.parametrize("path", INDEXES, ids=lambda path: str(path.relative_to(FIXTURES / "tf")))
def test_an_index_written_again_from_its_entries_is_the_same_file(path: Path) -> None:
    data = path.read_bytes()
    index = Index.decode(data, str(path))
    entries = [(key, Entry.decode(value)) for key, value in index.raw_items() if key]
    assert encode_index(index.num_shards, reversed(entries)) == data


def test_there_are_fixtures() -> None:
    assert len(FOLDERS) >= 25
    assert len(INDEXES) >= 80
    assert len(STATE_FILES) >= 10


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if "slice_reads" in manifest(folder)])
def test_any_box_reads_as_tensorflow_restored_it(folder: str) -> None:
    recorded = manifest(folder)
    readers = [BundleReader(FIXTURES / "tf" / folder / item["prefix"]) for item in recorded["checkpoints"]]
    for read in recorded["slice_reads"]:
        reader = next(reader for reader in readers if read["name"] in reader.index)
        full_shape, tensor_slice = parse_spec(read["shape_and_slice"])
        array = reader.read(read["name"], tensor_slice.resolve(full_shape))
        if "values" in read:
            assert array.tolist() == read["values"]
        else:
            assert list(array.shape) == read["result_shape"]
            assert array.tobytes().hex() == read["raw_hex"]


def test_slice_keys_are_those_that_tensorflow_wrote() -> None:
    recorded = manifest("ordered_code")
    index = BundleReader(FIXTURES / "tf" / "ordered_code" / "ckpt").index
    assert [key.hex() for key, _ in index.raw_items() if key.startswith(b"\0")] == recorded["index_keys_hex_in_order"]
    made = [piece.key.hex() for name in index for piece in index.tensor(name).pieces]
    assert sorted(made) == sorted(recorded["index_keys_hex_in_order"])
    for key in map(bytes.fromhex, recorded["index_keys_hex_in_order"]):
        name, tensor_slice = parse_key(key)
        assert tensor_slice.key(name) == key
    assert {name_of(entry) for entry in recorded["full_entries"]} == set(index)


@pytest.mark.parametrize("path", STATE_FILES, ids=lambda path: str(path.relative_to(FIXTURES / "tf")))
def test_a_state_file_and_its_value_are_one_thing(path: Path) -> None:
    data = path.read_bytes()
    assert CheckpointState.decode(data, str(path)).encode() == data


@pytest.mark.parametrize("case", manifest("state_text")["parsing"], ids=lambda case: repr(case["text"])[:50])
def test_state_text_is_understood_as_tensorflow_understands_it(case: Record) -> None:
    data = case["text"].encode()
    expected = case["get_checkpoint_state"]
    if "unknown_field" in case["text"]:  # TensorFlow gives up on the whole file; we skip what we don't know
        expected = 'model_checkpoint_path: "d/b"\n'
    if expected is None:
        with pytest.raises(CorruptionError, match="line"):
            CheckpointState.decode(data)
        return
    state = CheckpointState.decode(data)
    if isinstance(expected, dict):  # TensorFlow: "Invalid checkpoint state"
        assert state.model_checkpoint_path == ""
        return

    def joined(path: str) -> str:
        return path if path.startswith("/") else f"d/{path}"

    read = CheckpointState(
        joined(state.model_checkpoint_path),
        tuple(map(joined, state.all_model_checkpoint_paths)),
        state.all_model_checkpoint_timestamps,
        state.last_preserved_timestamp,
    )
    assert read.encode().decode() == expected


@pytest.mark.parametrize(
    "case",
    [case for case in manifest("state_text")["generating"] if "text" in case],
    ids=lambda case: case["args"]["model_checkpoint_path"],
)
def test_state_text_is_written_as_tensorflow_writes_it(case: Record) -> None:
    data = case["text"].encode()
    assert CheckpointState.decode(data).encode() == data


# ── edited files ──────────────────────────────────────────────────────────────────────────────────────────────────────

BASE = {name_of(record): record for record in UNUSUAL["base"]["tensors"]}


@pytest.mark.parametrize("variant", UNUSUAL["variants"], ids=lambda variant: variant["id"])
def test_edited_files_are_accepted_or_refused_as_a_careful_reader_should(variant: Record) -> None:
    prefix = FIXTURES / "tf_unusual" / variant["id"] / "v"
    expect = variant["expect"]
    if expect["outcome"] == "fail_open":
        with pytest.raises(CorruptionError) as caught:
            BundleReader(prefix)
        assert caught.value.key == f"{prefix}.index"
        assert caught.value.offset is not None
        assert caught.value.reason
        return
    reader = BundleReader(prefix)
    records = {name_of(record): record for record in variant.get("tensors", BASE.values())}
    failing = set(expect.get("tensors", ()))
    assert set(records) >= failing
    for name, record in records.items():
        if name in failing:
            with pytest.raises(CorruptionError) as caught:
                reader.read(name)
            assert caught.value.key is not None
            assert caught.value.key.startswith(str(prefix))
            assert caught.value.offset is not None
        else:
            check_tensor(reader, record)


@pytest.mark.parametrize("prefix", UNUSUAL["base"]["prefixes"])
def test_the_base_of_the_edited_files_is_sound(prefix: str) -> None:
    reader = BundleReader(FIXTURES / "tf_unusual" / prefix)
    for name, record in BASE.items():
        if name in reader.index:
            check_tensor(reader, record)
    assert reader.index.names()


def test_damage_to_any_byte_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    source = FIXTURES / "tf_unusual" / "base"
    for path in source.glob("v.*"):
        shutil.copy(path, tmp_path / path.name)
    index = bytearray((tmp_path / "v.index").read_bytes())
    padding = range(len(index) - 48, len(index) - 8)  # nothing reads the footer's padding nor its metaindex handle
    metaindex = len(index) - 48 - 5
    noticed = 0
    for at in range(len(index)):
        damaged = index.copy()
        damaged[at] ^= 0x10
        (tmp_path / "v.index").write_bytes(damaged)
        try:
            reader = BundleReader(tmp_path / "v")
            same = all(
                hashlib.sha256(stored_bytes(reader.read(name))).hexdigest() == record["sha256"]
                for name, record in BASE.items()
            )
        except CkptdError:
            noticed += 1
        else:
            assert same, f"byte {at} changed a tensor silently"
            assert at in padding or at <= metaindex, f"byte {at} went unnoticed"
    assert noticed > len(index) - 48 - 13 - 40
