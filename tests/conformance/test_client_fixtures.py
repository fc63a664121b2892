"""Our reader and TensorFlow's agree on what TensorFlow wrote: values, maps, listings, slices."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

import ckptd
from ckptd.errors import CorruptionError
from ckptd.format import dtypes
from ckptd.format.slices import parse_spec
from tests.conformance.bundle_files import FIXTURES


def load_manifests():
    found = []
    for path in sorted((FIXTURES / "tf").glob("*/manifest.json")):
        for checkpoint in json.loads(path.read_text()).get("checkpoints", []):
            if "tf_reader" in checkpoint:
                found.append(pytest.param(path.parent, checkpoint, id=f"{path.parent.name}/{checkpoint['prefix']}"))
    assert found
    return found


def name_of(record):
    if "name" in record:
        return record["name"]
    return bytes.fromhex(record["name_hex"]).decode("utf-8", "surrogateescape")


def digest(array):
    """What the manifests hold: the bytes of numbers; of strings, each with its length."""
    array = np.asarray(array, object) if isinstance(array, bytes) else np.asarray(array)
    if array.dtype != np.dtype(object):
        return hashlib.sha256(array.tobytes()).hexdigest()
    total = hashlib.sha256()
    for element in array.ravel().tolist():
        total.update(len(element).to_bytes(8, "little") + element)
    return total.hexdigest()


@pytest.mark.parametrize(("folder", "checkpoint"), load_manifests())
def test_our_reader_tells_what_tensorflows_told(folder, checkpoint):
    prefix = str(folder / checkpoint["prefix"])
    reader = ckptd.load_checkpoint(prefix)
    told = checkpoint["tf_reader"]
    if "debug_string" in told or "debug_string_hex" in told:
        expected = (
            bytes.fromhex(told["debug_string_hex"]) if "debug_string_hex" in told else told["debug_string"].encode()
        )
        assert reader.debug_string() == expected
    if "shape_map" in told:
        assert reader.get_variable_to_shape_map() == told["shape_map"]
    if "dtype_map" in told:
        expected_dtypes = {name: dtypes.by_name(dtype).array for name, dtype in told["dtype_map"].items()}
        assert reader.get_variable_to_dtype_map() == expected_dtypes
    # Parts of a sharded save that were not merged yet, and tensors saved with gaps, are sound but not complete.
    assert all("its slices hold" in problem.reason for problem in ckptd.verify(prefix).problems)


@pytest.mark.parametrize(("folder", "checkpoint"), load_manifests())
def test_our_reader_reads_every_tensor_also_those_tensorflow_cannot_join(folder, checkpoint):
    reader = ckptd.load_checkpoint(str(folder / checkpoint["prefix"]))
    for record in checkpoint.get("tensors", []):
        if "name" not in record and "name_hex" not in record:
            continue
        name = name_of(record)
        if "sufficient slices" in record.get("tf_full_read", ""):
            with pytest.raises(CorruptionError, match="Does not have sufficient slices"):
                reader.get_tensor(name)
        elif "sha256" in record:
            value = reader.get_tensor(name)
            assert list(np.shape(value)) == record["shape"]
            assert digest(value) == record["sha256"], name


def load_slice_reads():
    found = []
    for path in sorted((FIXTURES / "tf").glob("*/manifest.json")):
        manifest = json.loads(path.read_text())
        for checkpoint in manifest.get("checkpoints", []):
            reads = checkpoint.get("slice_reads", manifest.get("slice_reads", []))
            if reads:
                found.append(pytest.param(path.parent / checkpoint["prefix"], reads, id=path.parent.name))
    assert found
    return found


@pytest.mark.parametrize(("prefix", "reads"), load_slice_reads())
def test_our_reader_reads_the_slices_tensorflow_read(prefix, reads):
    reader = ckptd.load_checkpoint(str(prefix))
    for read in reads:
        if not read["shape_and_slice"]:
            value = reader.get_tensor(read["name"])
        else:
            full_shape, part = parse_spec(read["shape_and_slice"])
            box = part.resolve(full_shape)
            value = reader.get_slice(read["name"], box.start, box.shape)
        if "raw_hex" in read:
            assert list(np.shape(value)) == read["result_shape"]
            assert np.asarray(value).tobytes().hex() == read["raw_hex"]
        else:
            assert np.asarray(value).tolist() == read["values"]


UNUSUAL = json.loads((FIXTURES / "tf_unusual" / "manifest.json").read_text())
BASE = {name_of(record): record for record in UNUSUAL["base"]["tensors"]}


@pytest.mark.parametrize("variant", UNUSUAL["variants"], ids=lambda variant: variant["id"])
def test_unusual_files_are_read_or_refused_as_a_careful_reader_would(variant):
    prefix = str(FIXTURES / "tf_unusual" / variant["id"] / "v")
    expect = variant["expect"]
    if expect["outcome"] == "fail_open":
        with pytest.raises(CorruptionError):
            ckptd.load_checkpoint(prefix)
        assert not ckptd.verify(prefix).ok
        return
    reader = ckptd.load_checkpoint(prefix)
    failing = set(expect.get("tensors", ()))
    report = ckptd.verify(prefix)
    assert report.ok == (not failing)
    assert {problem.tensor for problem in report.problems if problem.is_fatal} == failing
    for record in variant.get("tensors", BASE.values()):
        name = name_of(record)
        if name in failing:
            with pytest.raises(CorruptionError):
                reader.get_tensor(name)
        else:
            assert digest(reader.get_tensor(name)) == record["sha256"], name
