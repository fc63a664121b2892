"""Checkpoints as streams: whole, in slices, in the other byte order, damaged."""

from __future__ import annotations

import numpy as np
import pytest

from ckptd.errors import CorruptionError
from tests import seams
from tests.conformance.bundle_files import FIXTURES, BundleReader, BundleWriter, halves
from tests.unit.interchange.containers import arrays_of, opened

FOLDERS = [
    *(FIXTURES / "tf" / name for name in ("dtypes", "shapes", "strings", "sharded_saver", "object_max_shard")),
    FIXTURES / "tf" / "partitioned_grid",
    FIXTURES / "tf_unusual" / "big_endian",
]
PREFIXES = sorted(path.with_suffix("") for folder in FOLDERS for path in folder.glob("*.index"))


@pytest.mark.parametrize("whole_bytes", [100, 1 << 20])
@pytest.mark.parametrize("prefix", PREFIXES, ids=lambda prefix: prefix.parent.name)
def test_streams_hold_what_the_reader_reads(prefix, whole_bytes, monkeypatch):
    """With a low limit what is in slices or turned round goes the way that large tensors go."""
    seams.STREAM_WHOLE_BYTES.put(monkeypatch, whole_bytes)
    seams.STREAM_BLOCK_BYTES.put(monkeypatch, 4096)
    source, reader = opened(prefix), BundleReader(prefix)
    assert source.names() == reader.index.names()
    for name, array in arrays_of(source).items():
        expected = reader.read(name)
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        assert array.tolist() == expected.tolist() or array.tobytes() == expected.tobytes()


def in_slices(prefix, gap=False):
    writer = BundleWriter(prefix, num_shards=2)
    array = np.arange(400, dtype=np.float32).reshape(20, 20)
    writer.add_boxes("w", array, halves(array.shape, 1)[: 1 if gap else 2])
    return writer.finish()


@pytest.mark.parametrize("whole_bytes", [0, 1 << 20])
def test_a_damaged_slice_is_found_before_the_stream_ends(tmp_path, whole_bytes, monkeypatch):
    seams.STREAM_WHOLE_BYTES.put(monkeypatch, whole_bytes)
    in_slices(tmp_path / "m-1")
    shard = tmp_path / "m-1.data-00001-of-00002"
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptionError, match="'w'"):
        list(opened(tmp_path / "m-1").stream("w"))


@pytest.mark.parametrize("whole_bytes", [0, 1 << 20])
def test_a_missing_slice_is_no_zeros(tmp_path, whole_bytes, monkeypatch):
    seams.STREAM_WHOLE_BYTES.put(monkeypatch, whole_bytes)
    in_slices(tmp_path / "m-1", gap=True)
    with pytest.raises(CorruptionError, match="sufficient slices"):
        list(opened(tmp_path / "m-1").stream("w"))
