"""A glance at a tensor: the figures are numpy's, a large one is sampled, and no more is read than is allowed."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import ckptd
from ckptd.engine.reading import sampling
from ckptd.engine.reading.bundle import Bundle
from ckptd.engine.reading.glance import Glance, StringGlance, glance
from ckptd.errors import CorruptionError, InvalidRequestError, NotFoundError
from ckptd.format import dtypes
from ckptd.interchange.contrast import contrast
from ckptd.storage.locations import open_store

NUMBERS = [dtype for dtype in dtypes.ALL if dtype.width and not dtype.name.startswith(("qint", "quint"))]


def saved(folder: Path, name: str, arrays: dict[str, Any], **options: Any) -> Bundle:
    ckptd.save_checkpoint(f"{folder}/{name}", arrays, **options)
    return Bundle.open(open_store(str(folder)), name)


class CountedReads:
    """Objects that count what is read of data files."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.num_bytes = 0
        self.access = store.access
        self.get, self.stat, self.location = store.get, store.stat, store.location

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        self.num_bytes += sum(map(len, into))
        self._store.read_into(key, offset, *into)


def seen(bundle: Bundle, name: str, bounds: sampling.SampleBounds = sampling.USUAL) -> Glance:
    found = glance(bundle, name, bounds=bounds)
    assert isinstance(found, Glance)
    return found


@pytest.mark.parametrize("dtype", NUMBERS, ids=lambda dtype: dtype.name)
def test_the_figures_of_every_dtype_are_those_of_numpy(dtype: dtypes.DType, tmp_path: Path) -> None:
    values = (np.random.default_rng(3).normal(0, 1.4, (50, 7)) * 2).astype(dtype.array)
    found = seen(saved(tmp_path, "m", {"w": values}), "w")
    exact = np.abs(values) if values.dtype.kind == "c" else values
    wide = exact.astype(np.float64).reshape(-1)
    finite = wide[np.isfinite(wide)]
    figures = found.statistics
    assert not found.is_sampled
    assert found.read_bytes == values.nbytes
    assert figures.count == 350
    assert figures.zeros == np.count_nonzero(wide == 0)
    assert figures.nans + figures.infinities == 350 - finite.size
    assert (figures.minimum, figures.maximum) == (finite.min(), finite.max())
    assert figures.mean == pytest.approx(finite.mean(), rel=1e-6, abs=1e-6)
    assert figures.deviation == pytest.approx(finite.std(), rel=1e-5)
    assert found.histogram is not None
    assert sum(found.histogram.counts) == finite.size
    assert found.strip[0].first == 0
    assert found.strip[-1].stop == 350


def test_what_is_not_finite_is_counted_and_found_in_the_strip(tmp_path: Path) -> None:
    values = np.ones(6400, np.float32)
    values[3200], values[3201], values[6399] = np.nan, np.inf, -np.inf
    found = seen(saved(tmp_path, "m", {"w": values}), "w")
    assert (found.statistics.nans, found.statistics.infinities) == (1, 2)
    assert [each.first for each in found.strip if each.num_odd] == [3200, 6300]
    assert found.statistics.mean == 1.0


def test_nothing_finite_and_nothing_at_all_have_figures_too(tmp_path: Path) -> None:
    nowhere = np.full(3, np.nan, np.float32)
    bundle = saved(tmp_path, "m", {"nan": nowhere, "none": np.zeros((0, 4)), "huge": np.array([1e308, -1e308])})
    assert seen(bundle, "nan").histogram is None
    assert seen(bundle, "nan").statistics.nans == 3
    assert seen(bundle, "none").statistics.count == 0
    assert seen(bundle, "none").strip == ()
    assert seen(bundle, "huge").statistics.maximum == 1e308


def test_strings_have_lengths_and_beginnings(tmp_path: Path) -> None:
    words = np.array([b"", b"<script>", b"\xff" * 1000], object)
    found = glance(saved(tmp_path, "m", {"s": words}), "s")
    assert found == StringGlance(3, 1, 0, 1000, 336.0, (b"", b"<script>", b"\xff" * 200))


def test_a_tensor_that_is_not_there_or_is_damaged_is_named(tmp_path: Path) -> None:
    bundle = saved(tmp_path, "m", {"w": np.ones(100, np.float32)})
    with pytest.raises(NotFoundError, match="Key nobody not found"):
        glance(bundle, "nobody")
    (tmp_path / "m.data-00000-of-00001").write_bytes(b"\1" * 400)
    with pytest.raises(CorruptionError, match="checksum"):
        glance(bundle, "w")


SHAPES = [
    (300_000_000,),
    (20_000, 30_000),
    (30_000, 20_000),
    (7, 11, 13, 400_000),
    (1_000_000_000, 3),
    (1, 1, 1_000_000_000),
    (4, 5, 262_145 * 3),
]


@pytest.mark.parametrize("width", [1, 2, 4, 16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parts_of_a_large_tensor_keep_within_the_bounds_and_reach_both_ends(shape: tuple[int, ...], width: int) -> None:
    parts = list(sampling.parts(shape, width))
    if sampling.fits(shape, width):
        assert [part.stop for part in parts] == [math.prod(shape)]
        return
    assert 1 < len(parts) <= sampling.NUM_BLOCKS
    assert sum(part.box.num_elements for part in parts) * width <= sampling.USUAL.size_bytes
    assert sum(part.box.num_elements for part in parts) <= sampling.USUAL.num_elements
    assert all(part.stop <= after.first for part, after in itertools.pairwise(parts))
    assert parts[0].first == 0
    assert parts[-1].stop == math.prod(shape)
    for part in parts:
        assert np.ravel_multi_index(part.box.start, shape) == part.first
        last = tuple(stop - 1 for stop in part.box.stop)
        assert np.ravel_multi_index(last, shape) == part.stop - 1  # so it is contiguous


def test_a_large_tensor_is_sampled_and_no_more_is_read_than_the_bound(
    tmp_path: Path,
) -> None:
    values = np.arange(40 * 3000, dtype=np.float32).reshape(40, 3000)
    ckptd.save_checkpoint(f"{tmp_path}/m", {"w": values})
    objects = CountedReads(open_store(str(tmp_path)))
    bundle = Bundle.open(objects, "m")
    found = seen(bundle, "w", sampling.SampleBounds(64 * 4 * 100))
    assert found.is_sampled
    assert found.read_bytes == objects.num_bytes <= 64 * 4 * 100
    assert (found.statistics.minimum, found.statistics.maximum) == (0.0, 119_999.0)
    assert found.statistics.mean == pytest.approx(60_000, rel=0.05)
    assert [each.rms for each in found.strip] == sorted(each.rms or 0 for each in found.strip)


def test_once_it_is_late_the_parts_read_so_far_are_spread_over_the_tensor(tmp_path: Path) -> None:
    bundle = saved(tmp_path, "m", {"w": np.arange(120_000, dtype=np.float32)})
    turns = iter([False, False, False, True])
    found = glance(bundle, "w", is_late=lambda: next(turns), bounds=sampling.SampleBounds(64 * 4 * 100))
    assert isinstance(found, Glance)
    assert found.is_sampled
    firsts = [each.first for each in found.strip]
    assert firsts[0] == 0
    assert 25_000 < firsts[len(firsts) // 4] < 35_000
    assert 85_000 < firsts[-1] < 95_000


def test_a_difference_has_the_figures_of_numpy(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    before = rng.normal(size=(100, 30)).astype(np.float32)
    after = before.copy()
    after[:10] += rng.normal(size=(10, 30)).astype(np.float32)
    after[50, 0] = np.nan
    older = saved(tmp_path, "m-1", {"w": before})
    newer = saved(tmp_path, "m-2", {"w": after.astype(ml_dtypes.bfloat16).astype(np.float32)})
    found = contrast(newer, older, "w")
    apart = np.abs(newer.read("w").astype(np.float64) - before)
    finite = apart[np.isfinite(apart)]
    assert not found.is_sampled
    assert found.num_different == np.count_nonzero(apart != 0)
    assert found.num_nan == 1
    assert found.max_abs == finite.max()
    assert found.rms == pytest.approx(np.sqrt((finite**2).mean()))


def test_a_large_difference_is_sampled_at_the_same_places(tmp_path: Path) -> None:
    values = np.arange(120_000, dtype=np.int32)
    older = saved(tmp_path, "m-1", {"w": values})
    newer = saved(tmp_path, "m-2", {"w": values.astype(np.float64) + 2})
    found = contrast(newer, older, "w", bounds=sampling.SampleBounds(64 * 8 * 100))
    assert found.is_sampled
    assert found.num_elements <= 6400
    assert (found.num_different, found.max_abs, found.rms) == (found.num_elements, 2.0, 2.0)


def test_what_cannot_be_compared_says_why(tmp_path: Path) -> None:
    older = saved(tmp_path, "m-1", {"a": np.ones(3), "b": np.ones(3)})
    newer = saved(tmp_path, "m-2", {"a": np.ones(4), "b": np.array([b"x"] * 3, object)})
    with pytest.raises(InvalidRequestError, match="another shape"):
        contrast(newer, older, "a")
    with pytest.raises(InvalidRequestError, match="another kind"):
        contrast(newer, older, "b")
