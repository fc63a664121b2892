"""Files that claim what cannot be: a command ends at once, with an error of its own."""

from __future__ import annotations

import json
import struct

import pytest

from ckptd.cli import main
from ckptd.errors import CorruptionError
from ckptd.format import table
from ckptd.format.bundle_pb2 import BundleEntryProto, BundleHeaderProto


@pytest.fixture
def tiny(tmp_path):
    """The prefix of an index of a hundred bytes that tells of two thousand million shards."""
    header = BundleHeaderProto(num_shards=(1 << 31) - 1)
    header.version.producer = 1
    entry = BundleEntryProto(dtype=1, size=4)
    entry.shape.dim.add(size=1)
    (tmp_path / "m-1.index").write_bytes(
        table.encode_table([(b"", header.SerializeToString()), (b"w", entry.SerializeToString())])
    )
    return tmp_path / "m-1"


@pytest.mark.parametrize("command", [["show"], ["verify"], ["cat"], ["rm", "--foreign"]])
def test_an_index_that_tells_of_too_many_shards_is_damaged(tiny, command, capsys):
    assert main.run([*command, str(tiny)]) == CorruptionError.exit_code
    assert "more shards than any checkpoint has" in "".join(capsys.readouterr())


def test_it_is_listed_with_its_problem(tiny, capsys):
    assert main.run(["ls", str(tiny.parent), "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["checkpoints"]
    assert found["problem"] == "its index cannot be decoded"


def test_an_empty_tensor_of_impossible_dimensions_is_damaged(tmp_path, capsys):
    header = json.dumps({"a": {"dtype": "F32", "shape": [0, 1 << 62], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "zero.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    for command in (["show"], ["cat"]):
        assert main.run([*command, str(tmp_path / "zero.safetensors")]) == CorruptionError.exit_code
        assert "too large" in capsys.readouterr().err
