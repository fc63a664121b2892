"""The codec against the reference implementation, and against files that nobody should write."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptd.errors import CkptdError, ConflictError, CorruptionError, InvalidRequestError, NotFoundError
from ckptd.interchange.exporting import export
from ckptd.interchange.importing import import_checkpoint
from ckptd.interchange.safetensors import SafetensorsSource, decode_header
from ckptd.storage.local.local_store import LocalStore
from ckptd.storage.memory import MemoryStore
from tests.unit.interchange.containers import (
    NARROW_KINDS,
    NUMPY_KINDS,
    WITHOUT_COUNTERPART,
    arrays_of,
    assert_same,
    checkpoint,
)

ALL_KINDS = {**NUMPY_KINDS, **NARROW_KINDS}
CODES = {"bf16": "BF16", "e4m3": "F8_E4M3", "e5m2": "F8_E5M2", "c64": "C64"}


def source_of(data: bytes) -> SafetensorsSource:
    store = MemoryStore("file")
    store.put("x.safetensors", data)
    return SafetensorsSource(store, "x.safetensors")


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def one(**changes: object) -> dict[str, object]:
    return {"t": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2], **changes}}


def test_the_reference_implementation_reads_what_we_export(tmp_path):
    source = checkpoint(tmp_path / "m-1", ALL_KINDS)
    done = export(source, LocalStore(str(tmp_path)), "m.safetensors", metadata={"format": "pt"})
    assert done.exported == tuple(sorted(ALL_KINDS, key=str.encode))
    data = (tmp_path / "m.safetensors").read_bytes()
    assert done.size_bytes == len(data)
    theirs = dict(safetensors.deserialize(data))
    assert sorted(theirs) == sorted(ALL_KINDS)
    for name, array in ALL_KINDS.items():
        assert bytes(theirs[name]["data"]) == array.tobytes()
        assert theirs[name]["shape"] == list(array.shape)
        assert theirs[name]["dtype"] == CODES.get(name, theirs[name]["dtype"])
    with safetensors.safe_open(tmp_path / "m.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
        assert_same({name: file.get_tensor(name) for name in NUMPY_KINDS}, NUMPY_KINDS)


def test_we_read_what_the_reference_implementation_writes(tmp_path):
    safetensors.numpy.save_file(NUMPY_KINDS, tmp_path / "m.safetensors", metadata={"by": "them"})
    source = SafetensorsSource(LocalStore(str(tmp_path)), "m.safetensors")
    assert source.names() == sorted(NUMPY_KINDS, key=str.encode)
    assert_same(arrays_of(source), NUMPY_KINDS)


def test_an_export_reads_back_as_it_was(tmp_path):
    export(checkpoint(tmp_path / "m-1", ALL_KINDS), LocalStore(str(tmp_path)), "m.safetensors")
    assert_same(arrays_of(SafetensorsSource(LocalStore(str(tmp_path)), "m.safetensors")), ALL_KINDS)


@pytest.mark.parametrize("name", WITHOUT_COUNTERPART)
@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_what_has_no_counterpart_is_named_or_left_out(tmp_path, name, suffix):
    if (name, suffix) == ("wide complex", "npz"):
        return  # numpy has complex128
    source = checkpoint(tmp_path / "m-1", {name: WITHOUT_COUNTERPART[name], "w": np.ones(2)})
    store = LocalStore(str(tmp_path))
    with pytest.raises(InvalidRequestError, match=repr(name)):
        export(source, store, f"m.{suffix}")
    assert not (tmp_path / f"m.{suffix}").exists()
    done = export(source, store, f"m.{suffix}", skip_unsupported=True)
    assert (done.exported, done.skipped) == (("w",), (name,))


def test_a_file_is_replaced_only_when_that_is_asked_for(tmp_path):
    source, store = checkpoint(tmp_path / "m-1", {"w": np.ones(2)}), LocalStore(str(tmp_path))
    store.put("m.safetensors", b"precious")
    with pytest.raises(ConflictError, match="--force"):
        export(source, store, "m.safetensors")
    assert store.get("m.safetensors") == b"precious"
    export(source, store, "m.safetensors", overwrite=True)
    assert_same(arrays_of(SafetensorsSource(store, "m.safetensors")), {"w": np.ones(2)})


def test_elements_that_only_safetensors_has_are_listed_and_not_read():
    source = source_of(file_of({"t": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}, b"ab"))
    assert source.facts("t").dtype_name == "F4"
    with pytest.raises(InvalidRequestError, match="'t' is of dtype F4"):
        next(source.stream("t"))
    with pytest.raises(NotFoundError):
        source.facts("u")


MALFORMED = {
    "nothing": b"",
    "too short": b"\0" * 7,
    "a header beyond the end": (1 << 40).to_bytes(8, "little") + b"{}",
    "an enormous header": (1 << 63).to_bytes(8, "little"),
    "no JSON": file_of(b"{"),
    "no UTF-8": file_of(b'{"\xff": 1}'),
    "no object": file_of([]),
    "absurd depth": file_of(b"[" * 100_000),
    "metadata of numbers": file_of({"__metadata__": {"a": 1}}),
    "a tensor that is a number": file_of({"t": 1}),
    "no dtype": file_of({"t": {"shape": [], "data_offsets": [0, 0]}}),
    "a list for a dtype": file_of(one(dtype=["U8"]), b"ab"),
    "an unknown dtype": file_of(one(dtype="U9"), b"ab"),
    "a negative dimension": file_of(one(shape=[-2]), b"ab"),
    "a fractional dimension": file_of(one(shape=[2.0]), b"ab"),
    "a true dimension": file_of(one(shape=[True]), b"a"),
    "too many elements": file_of(one(shape=[1 << 40, 1 << 40]), b"ab"),
    "three offsets": file_of(one(data_offsets=[0, 1, 2]), b"ab"),
    "offsets turned round": file_of(one(data_offsets=[2, 0]), b"ab"),
    "a size that is not the shape's": file_of(one(shape=[3]), b"ab"),
    "a tensor beyond the end": file_of(one(), b"a"),
    "bytes left over": file_of(one(), b"abc"),
    "a gap": file_of(one(data_offsets=[1, 3]), b"abc"),
    "an overlap": file_of({**one(), "u": one()["t"]}, b"ab"),
    "a name twice": file_of(b'{"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
                            b'"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "half a character in a name": file_of(b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_corruption(case):
    with pytest.raises(CorruptionError) as caught:
        source_of(MALFORMED[case])
    assert "x.safetensors" in str(caught.value)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_header_gives_tensors_or_corruption(data):
    text = bytearray(json.dumps({**one(), "u": {"dtype": "F32", "shape": [2, 1], "data_offsets": [2, 10]}}).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        found, _ = decode_header(bytes(text), 10)
    except CorruptionError:
        return
    assert sum(placed.size for placed in found.values()) == 10


@pytest.mark.parametrize("name", ["__metadata__", "\udcff"])
def test_names_that_the_format_cannot_hold_are_refused(tmp_path, name):
    source = checkpoint(tmp_path / "m-1", {name: np.ones(1)})
    with pytest.raises(InvalidRequestError):
        export(source, LocalStore(str(tmp_path)), "m.safetensors")


def test_a_damaged_checkpoint_gives_no_file(tmp_path):
    source = checkpoint(tmp_path / "m-1", {"w": np.arange(1000.0)})
    shard = tmp_path / "m-1.data-00000-of-00001"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    for key in ("m.safetensors", "m.npz"):
        with pytest.raises(CkptdError, match="checksum of tensor 'w'"):
            export(source, LocalStore(str(tmp_path)), key)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".data-00000-of-00001", ".index"]


def test_metadata_that_is_null_is_none_for_both():
    data = file_of({"__metadata__": None, **one()}, b"ab")
    assert safetensors.deserialize(data)[0][0] == "t"
    source = source_of(data)
    assert source.names() == ["t"]
    assert source.metadata == {}


def tensor(**changes):
    return {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}}


OTHER = {"b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}
ODD_FILES = {
    "only metadata": file_of({"__metadata__": {"a": "b"}}),
    "metadata of numbers": file_of({"__metadata__": {"a": 1}, **tensor()}, b"1234"),
    "metadata of null": file_of({"__metadata__": {"a": None}, **tensor()}, b"1234"),
    "metadata as list": file_of({"__metadata__": [], **tensor()}, b"1234"),
    "nothing": file_of({}),
    "zero length": b"",
    "no header": file_of(b""),
    "field twice": file_of(b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"1234"),
    "field of later": file_of(tensor(later=1), b"1234"),
    "overlap": file_of({**tensor(), "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}}, b"123456"),
    "same bytes": file_of({**tensor(), "b": tensor()["a"]}, b"1234"),
    "gap": file_of({**tensor(), "b": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}}, b"123456789012"),
    "more": file_of(tensor(), b"12345"),
    "less": file_of(tensor(), b"123"),
    "empty tensor": file_of(tensor(shape=[0, 3], data_offsets=[0, 0])),
    "empty between": file_of(
        {**tensor(), **OTHER, "e": {"dtype": "U8", "shape": [0], "data_offsets": [4, 4]}}, b"12345678"
    ),
    "scalar": file_of(tensor(shape=[]), b"1234"),
    "names": file_of({"a/b": tensor()["a"], "": OTHER["b"]}, b"12345678"),
    "tab at the end": file_of(json.dumps(tensor()).encode() + b"\t", b"1234"),
    "NUL at the end": file_of(json.dumps(tensor()).encode() + b"\0", b"1234"),
    "byte order mark": file_of(b"\xef\xbb\xbf" + json.dumps(tensor()).encode(), b"1234"),
    "float offset": file_of(tensor(data_offsets=[0, 4.0]), b"1234"),
    "negative": file_of(tensor(shape=[-1]), b"1234"),
    "unknown dtype": file_of(tensor(dtype="F99"), b"1234"),
    "half a byte": file_of(tensor(dtype="F4", shape=[7]), b"1234"),
    **{
        code: file_of(tensor(dtype=code, shape=[1], data_offsets=[0, size]), bytes(size))
        for code, size in {
            "U16": 2,
            "U32": 4,
            "U64": 8,
            "BF16": 2,
            "C64": 8,
            "F8_E8M0": 1,
            "F8_E4M3FNUZ": 1,
            "C128": 16,
        }.items()
    },
    "page": b"<!DOCTYPE html><html></html>",
}


@pytest.mark.parametrize("odd", ODD_FILES)
def test_an_odd_file_is_taken_or_refused_as_by_the_reference_implementation(odd):
    try:
        theirs = {name: facts["shape"] for name, facts in safetensors.deserialize(ODD_FILES[odd])}
    except safetensors.SafetensorError:
        with pytest.raises(CorruptionError):
            source_of(ODD_FILES[odd])
        return
    source = source_of(ODD_FILES[odd])
    assert {name: list(source.facts(name).shape) for name in source.names()} == theirs


def test_a_file_that_is_another_one_is_told_what_it_is():
    with pytest.raises(CorruptionError, match="it is a pointer of Git LFS; `git lfs pull`"):
        source_of(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")


def test_the_name_of_a_note_is_refused_at_import_or_left_out():
    source = source_of(file_of({"_CKPTD_OUTLINE": tensor()["a"], **OTHER}, b"12345678"))
    store = MemoryStore("root")
    with pytest.raises(InvalidRequestError, match="'_CKPTD_OUTLINE' has a name that ckptd keeps for its own notes"):
        import_checkpoint(source, store, "m-1")
    done = import_checkpoint(source, store, "m-1", skip_unsupported=True)
    assert (done.imported, done.skipped) == (("b",), ("_CKPTD_OUTLINE",))
