"""A verification finds what is wrong, says where, and goes on."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from ckptd.engine.reading.verify import verify
from ckptd.errors import NotFoundError
from ckptd.format import dtypes
from ckptd.storage.locations import open_store
from tests import seams
from tests.conformance.bundle_files import BundleWriter, halves, sample


@pytest.fixture
def prefix(tmp_path):
    """A checkpoint of two shards: `w` sliced over both, `s` strings, `z` without elements, `one` a scalar."""
    writer = BundleWriter(tmp_path / "m-1", num_shards=2)
    writer.add_boxes("w", np.arange(40, dtype=np.float32).reshape(8, 5), halves((8, 5)))
    writer.add("s", np.array([b"x", b"yy"], object))
    writer.add("z", np.zeros((0, 2), np.float64))
    writer.add("one", np.array(1, np.int64), shard=1)
    return writer.finish()


def check(prefix):
    return verify(open_store(str(prefix.parent)), prefix.name)


def test_a_sound_checkpoint_has_no_problems(prefix):
    report = check(prefix)
    assert report.ok
    assert report.problems == ()
    assert (report.num_tensors, report.num_shards) == (4, 2)
    assert report.size_bytes == 160 + 9 + 0 + 8
    assert report.prefix == str(prefix)


@pytest.mark.parametrize("dtype", [one for one in dtypes.ALL if one.array is not None], ids=lambda dtype: dtype.name)
def test_every_byte_of_every_dtype_counts(tmp_path, dtype):
    array = sample(dtype, (2, 3))
    writer = BundleWriter(tmp_path / "m")
    writer.add("t", array, dtype=dtype)
    prefix = writer.finish()
    assert check(prefix).ok
    shard = tmp_path / "m.data-00000-of-00001"
    data = shard.read_bytes()
    for at in range(len(data)):
        shard.write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
        report = check(prefix)
        assert not report.ok
        assert [problem.tensor for problem in report.problems] == ["t"]


def test_a_problem_says_file_offset_and_tensor_and_the_rest_is_still_checked(prefix):
    for shard, at in ((0, 79), (1, 85)):
        path = prefix.parent / f"m-1.data-0000{shard}-of-00002"
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
    problems = check(prefix).problems
    assert [(problem.key, problem.tensor, problem.offset) for problem in problems] == [
        ("m-1.data-00001-of-00002", "one", 80),
        ("m-1.data-00000-of-00002", "w", 0),
    ]
    assert str(problems[0]).startswith("m-1.data-00001-of-00002 at byte 80: tensor 'one': checksum does not match")


def test_a_missing_shard_is_reported_for_each_tensor_in_it(prefix):
    (prefix.parent / "m-1.data-00001-of-00002").unlink()
    report = check(prefix)
    assert not report.ok
    assert {problem.tensor for problem in report.problems} == {"one", "w"}
    assert {problem.key for problem in report.problems} == {"m-1.data-00001-of-00002"}
    assert "missing" in report.problems[0].reason


def test_a_missing_shard_that_no_tensor_uses_is_reported_too(tmp_path):
    writer = BundleWriter(tmp_path / "m", num_shards=2)
    writer.add("t", np.zeros(3))
    prefix = writer.finish()
    (tmp_path / "m.data-00001-of-00002").unlink()
    assert [(problem.key, problem.tensor) for problem in check(prefix).problems] == [("m.data-00001-of-00002", None)]


def test_a_short_shard_is_reported(prefix):
    path = prefix.parent / "m-1.data-00000-of-00002"
    path.write_bytes(path.read_bytes()[:-3])
    report = check(prefix)
    assert [problem.tensor for problem in report.problems] == ["s"]
    assert "beyond the end" in report.problems[0].reason


def test_gaps_between_slices_are_reported(tmp_path):
    writer = BundleWriter(tmp_path / "m")
    writer.add("partial", np.zeros(4, np.float32), spec="8 0,4")
    report = check(writer.finish())
    assert not report.ok
    assert "4 of 8 elements" in report.problems[0].reason


def test_leftovers_of_another_save_are_told_and_are_no_damage(prefix):
    (prefix.parent / "m-1.data-00000-of-00003").write_bytes(b"left over")
    (prefix.parent / "m-11.data-00000-of-00003").write_bytes(b"somebody else's")
    report = check(prefix)
    assert report.ok
    assert [problem.key for problem in report.problems] == ["m-1.data-00000-of-00003"]


def test_a_damaged_index_is_a_report_and_no_index_is_an_error(prefix):
    index = prefix.parent / "m-1.index"
    index.write_bytes(index.read_bytes()[:-1])
    report = check(prefix)
    assert not report.ok
    assert report.problems[0].key == "m-1.index"
    index.unlink()
    with pytest.raises(NotFoundError):
        check(prefix)


def test_progress_reaches_the_total(prefix):
    told = []
    verify(open_store(str(prefix.parent)), prefix.name, lambda done, total: told.append((done, total)))
    assert told[-1] == (177, 177)
    assert told == sorted(told)


def test_memory_does_not_grow_with_the_checkpoint(tmp_path, monkeypatch):
    seams.VERIFY_BLOCK_BYTES.put(monkeypatch, 1 << 16)
    writer = BundleWriter(tmp_path / "m")
    writer.add("t", np.zeros(24 << 20, np.uint8))
    prefix = writer.finish()
    del writer
    tracemalloc.start()
    try:
        assert check(prefix).ok
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
