from __future__ import annotations

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

import ckptd
from ckptd.engine.reading import statistics as measured
from ckptd.engine.reading.bundle import Bundle
from ckptd.errors import CorruptionError
from ckptd.storage.locations import split_prefix
from tests import seams

ARRAYS = {
    "plain": np.array([[1.5, -2.0], [0.0, 4.0]]),
    "odd": np.array([np.nan, np.inf, -np.inf, 2.0, 0.0], np.float32),
    "nothing finite": np.array([np.nan, np.inf]),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.float16(3.0),
    "large integers": np.array([2**63 - 1, -(2**63), 2**53 + 1], np.int64),
    "unsigned": np.array([2**64 - 1, 1], np.uint64),
    "flags": np.array([True, False, True]),
    "complex": np.array([3 + 4j, 0j], np.complex64),
    "brain": np.array([1.0, 2.0, 4.0], ml_dtypes.bfloat16),
    "nibbles": np.array([-8, 7, 0], ml_dtypes.int4),
    "eighths": np.array([0.5, -0.5], ml_dtypes.float8_e4m3fn),
    "far from zero": np.float64(1e9) + np.arange(1000) / 1000,
    "same": np.full(10, 7.0),
    "words": np.array([b"a"], object),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    prefix = str(tmp_path_factory.mktemp("statistics") / "m-1")
    ckptd.save_checkpoint(prefix, ARRAYS, num_shards=2)
    return Bundle.open(*split_prefix(prefix))


def as_numbers(array):
    array = np.asarray(array)
    if array.dtype.kind == "c":
        return np.abs(array)
    return array.astype(np.float64)


@pytest.mark.parametrize("name", [name for name in ARRAYS if name != "words"])
@pytest.mark.parametrize("tiny", [False, True])
def test_the_figures_are_numpys_however_the_tensor_is_cut(name, tiny, bundle, monkeypatch):
    if tiny:
        seams.STATISTICS_WHOLE_BYTES.put(monkeypatch, 8)
        seams.STATISTICS_ELEMENTS.put(monkeypatch, 2)
    found = measured.statistics(measured.parts_of(bundle, name))
    values = as_numbers(ARRAYS[name]).reshape(-1)
    finite = values[np.isfinite(values)]
    assert (found.count, found.num_finite) == (values.size, finite.size)
    assert found.nans == np.isnan(values).sum()
    assert found.infinities == np.isinf(values).sum()
    assert found.zeros == (values == 0).sum()
    if not finite.size:
        assert (found.minimum, found.maximum, found.mean, found.deviation) == (None, None, None, None)
        return
    exact = np.asarray(ARRAYS[name]).reshape(-1) if np.asarray(ARRAYS[name]).dtype.kind in "iu" else finite
    assert (found.minimum, found.maximum) == (exact.min(), exact.max())
    assert found.mean == pytest.approx(finite.mean(), rel=1e-12)
    assert found.deviation == pytest.approx(finite.std(), rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in ARRAYS if name not in ("words", "nothing finite", "empty")])
def test_every_finite_value_is_in_one_bin(name, bundle):
    figures = measured.statistics(measured.parts_of(bundle, name))
    drawn = measured.histogram(measured.parts_of(bundle, name), figures, num_bins=4)
    assert sum(drawn.counts) == figures.num_finite
    assert len(drawn.edges) == len(drawn.counts) + 1
    assert (drawn.edges[0], drawn.edges[-1]) == (float(figures.minimum), float(figures.maximum))


@pytest.mark.parametrize("name", ["nothing finite", "empty"])
def test_without_finite_values_there_is_no_histogram(name, bundle):
    assert (
        measured.histogram(measured.parts_of(bundle, name), measured.statistics(measured.parts_of(bundle, name)))
        is None
    )


def test_a_short_file_is_damage(tmp_path):
    ckptd.save_checkpoint(str(tmp_path / "m-1"), {"w": np.arange(100.0)})
    (tmp_path / "m-1.data-00000-of-00001").write_bytes(b"\0" * 8)
    bundle = Bundle.open(*split_prefix(str(tmp_path / "m-1")))
    with pytest.raises(CorruptionError):
        measured.statistics(measured.parts_of(bundle, "w"))


def test_memory_does_not_grow_with_the_tensor(tmp_path):
    array = np.ones(16 << 20, np.float32)
    array[-1] = 3.0
    ckptd.save_checkpoint(str(tmp_path / "m-1"), {"w": array})
    bundle = Bundle.open(*split_prefix(str(tmp_path / "m-1")))
    tracemalloc.start()
    try:
        found = measured.statistics(measured.parts_of(bundle, "w"))
        drawn = measured.histogram(measured.parts_of(bundle, "w"), found, num_bins=2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found.count, found.maximum, drawn.counts) == (array.size, 3.0, (array.size - 1, 1))
    assert peak < 56 << 20 < array.nbytes
