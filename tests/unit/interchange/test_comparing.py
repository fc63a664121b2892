"""What a comparison says, checked against numpy where numpy can say it."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from ckptd.errors import CorruptionError
from ckptd.format import dtypes
from ckptd.interchange.comparing import Values, compare
from ckptd.interchange.source import TensorFacts
from tests import seams
from tests.unit.interchange.containers import checkpoint


class Arrays:
    """A source of arrays in memory, in parts of odd lengths."""

    location = "memory"

    def __init__(self, part: int = 7, **arrays):
        self.arrays = {name: np.asarray(array) for name, array in arrays.items()}
        self.part = part

    def names(self):
        return sorted(self.arrays)

    def facts(self, name):
        array = self.arrays[name]
        dtype = dtypes.of_array_dtype(array.dtype)
        return TensorFacts(name, dtype, dtype.name, array.shape)

    def stream(self, name):
        flat = self.arrays[name].reshape(-1)
        for at in range(0, len(flat), self.part):
            yield flat[at : at + self.part].copy()


def values(a, b):
    found = compare(Arrays(x=a), Arrays(5, x=b))
    return found.changed[0].values if found.changed else None


def test_what_is_added_removed_changed_and_equal_is_told_apart():
    a = Arrays(same=np.ones(3), gone=np.ones(1), shape=np.ones((2, 3)), dtype=np.ones(2, np.float32), value=np.zeros(9))
    b = Arrays(same=np.ones(3), new=np.ones(2), shape=np.ones((3, 2)), dtype=np.ones(2), value=np.arange(9.0))
    found = compare(a, b)
    assert [facts.name for facts in found.added] == ["new"]
    assert [facts.name for facts in found.removed] == ["gone"]
    assert {change.name: change.what for change in found.changed} == {
        "dtype": ("dtype",),
        "shape": ("shape",),
        "value": ("values",),
    }
    assert found.num_equal == 1
    assert not found.is_equal
    assert compare(a, a).is_equal


def test_the_figures_are_numpys():
    random = np.random.default_rng(1)
    a, b = random.normal(size=1000).astype(np.float32), random.normal(size=1000).astype(np.float32)
    b[::3] = a[::3]
    found = values(a, b)
    apart = np.abs(a.astype(float) - b.astype(float))
    assert (found.num_elements, found.num_different, found.num_nan) == (1000, int((a != b).sum()), 0)
    assert found.max_abs == apart.max()
    assert found.mean_abs == pytest.approx(apart.mean())


CASES = [
    ([1.0, math.nan], [1.0, math.nan], None),
    ([0.0], [-0.0], None),
    ([math.inf, -math.inf], [math.inf, -math.inf], None),
    ([1.0, math.nan, 3.0], [2.0, 2.0, math.nan], Values(3, 3, 2, 1.0, 1.0)),
    ([math.nan], [0.0], Values(1, 1, 1, 0.0, 0.0)),
    ([math.inf, 1.0], [1.0, 1.0], Values(2, 1, 0, math.inf, math.inf)),
    ([math.inf], [-math.inf], Values(1, 1, 0, math.inf, math.inf)),
    ([True, False], [True, True], Values(2, 1, 0, 1.0, 0.5)),
    ([3 + 4j, 0j], [0j, 0j], Values(2, 1, 0, 5.0, 2.5)),
]


@pytest.mark.parametrize(("a", "b", "expected"), CASES)
def test_what_is_no_plain_number_counts_as_it_should(a, b, expected):
    assert values(a, b) == expected


def test_integers_differ_exactly_up_to_the_widest():
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    assert values(np.array([low, high]), np.array([high, high - 1])).max_abs == float(2**64 - 1)
    assert values(np.array([high]), np.array([high - 1])) == Values(1, 1, 0, 1.0, 1.0)
    assert values(np.array([-128], np.int8), np.array([127], np.int8)).max_abs == 255
    assert values(np.array([2**64 - 1], np.uint64), np.array([0], np.uint64)).max_abs == float(2**64 - 1)


def test_other_dtypes_are_compared_by_value():
    found = compare(Arrays(x=np.array([1.5, 2])), Arrays(x=np.array([1.5, 2.5], ml_dtypes.bfloat16)))
    assert found.changed[0].what == ("dtype", "values")
    assert found.changed[0].values == Values(2, 1, 0, 0.5, 0.25)
    found = compare(Arrays(x=np.array([2**63], np.uint64)), Arrays(x=np.array([2**63 - 1])))
    assert found.changed[0].values.num_different == 1
    for narrow in (ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3b11fnuz):
        assert values(np.array([1, 2], narrow), np.array([1, 4], narrow)) == Values(2, 1, 0, 2.0, 1.0)


def test_strings_are_compared_one_by_one(tmp_path):
    a = checkpoint(tmp_path / "a-1", {"s": np.array([b"one", b"two"], object)})
    b = checkpoint(tmp_path / "b-1", {"s": np.array([b"one", b"three"], object)})
    found = compare(a, b)
    assert found.changed[0].values == Values(2, 1, 0, None, None)
    assert compare(a, a).is_equal
    numbers = compare(a, Arrays(s=np.array([1, 2])))
    assert (numbers.changed[0].what, numbers.changed[0].values) == (("dtype",), None)


def test_without_values_nothing_is_read():
    class Unreadable(Arrays):
        def stream(self, name):
            raise AssertionError(name)

    found = compare(Unreadable(x=[1.0]), Unreadable(x=[2.0], y=[1.0]), values=False)
    assert (found.num_equal, len(found.added), found.changed) == (1, 1, ())


def test_parts_do_not_show_in_the_figures(monkeypatch):
    random = np.random.default_rng(2)
    a, b = random.normal(size=100), random.normal(size=100)
    whole = compare(Arrays(100, x=a), Arrays(100, x=b)).changed[0].values
    seams.COMPARED_ELEMENTS.put(monkeypatch, 3)
    parts = compare(Arrays(7, x=a), Arrays(11, x=b)).changed[0].values
    assert (parts.num_different, parts.max_abs) == (whole.num_different, whole.max_abs)
    assert parts.mean_abs == pytest.approx(whole.mean_abs)


def test_a_stream_that_ends_early_is_corruption_and_not_a_difference():
    class Short(Arrays):
        def stream(self, name):
            yield from list(super().stream(name))[:-1]

    with pytest.raises(CorruptionError, match="'x'"):
        compare(Arrays(x=np.ones(20)), Short(x=np.ones(20)))


def test_damage_is_noticed_although_the_values_seem_to_be_compared(tmp_path):
    a = checkpoint(tmp_path / "a-1", {"w": np.zeros(100)})
    b = checkpoint(tmp_path / "b-1", {"w": np.zeros(100)})
    shard = tmp_path / "b-1.data-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x80")
    with pytest.raises(CorruptionError, match="checksum"):
        compare(a, b)
