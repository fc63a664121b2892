"""What was found out about arrays is used again while nothing but their values has changed."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ckptd.client.capture.inventory import EncodedStrings, Inventory
from ckptd.client.slice import Slice

ARRAYS = {
    "w": np.zeros((4, 3), np.float32),
    "b": np.zeros(5, ml_dtypes.bfloat16),
    "parts": [Slice(np.zeros((2, 3)), (4, 3), (0, 0)), Slice(np.zeros((2, 3)), (4, 3), (2, 0))],
    "one": Slice(np.zeros(3), (9,), (6,)),
    "note": "abc",
    "lr": 0.5,
}


def changed(**values):
    return {**ARRAYS, **values}


def test_other_values_give_the_same_manifest():
    first = Inventory.of(ARRAYS)
    again = first.again(changed(w=np.ones((4, 3), np.float32), note="xyz", lr=0.25))
    assert again is not None
    assert again.manifest is first.manifest
    assert again.sources[0].tolist() == np.ones((4, 3)).tolist()
    assert isinstance(again.sources[5], EncodedStrings)
    assert again.sources[5].payload == b"xyz"


OTHERS = [
    pytest.param(changed(w=np.zeros((3, 4), np.float32)), id="shape"),
    pytest.param(changed(w=np.zeros((4, 3), np.float64)), id="dtype"),
    pytest.param(changed(w=np.zeros((4, 3), ">f4")), id="byte order"),
    pytest.param(changed(more=1), id="one more"),
    pytest.param({name: ARRAYS[name] for name in list(ARRAYS)[:-1]}, id="one less"),
    pytest.param({name: ARRAYS[name] for name in reversed(ARRAYS)}, id="order"),
    pytest.param(changed(one=Slice(np.zeros(3), (9,), (3,))), id="start"),
    pytest.param(changed(one=Slice(np.zeros(3), (8,), (5,))), id="full shape"),
    pytest.param(changed(one=np.zeros(3)), id="no slice any more"),
    pytest.param(changed(parts=ARRAYS["parts"][:1]), id="one slice less"),
    pytest.param(changed(lr=np.float32(0.5)), id="scalar of another type"),
    pytest.param([], id="no mapping"),
]


@pytest.mark.parametrize("arrays", OTHERS)
def test_anything_else_is_looked_at_anew(arrays):
    assert Inventory.of(ARRAYS).again(arrays) is None


PLAIN = {"w": np.zeros((4, 3), np.float32), "b": np.zeros(3), "n": np.array(7)}


def test_arrays_that_need_only_be_compared_are_taken_as_they_are():
    first = Inventory.of(PLAIN).without_arrays()
    given = {"w": np.ones((4, 3), np.float32), "b": np.ones(3)[::1], "n": np.array(8)}
    again = first.again(given)
    assert again is not None
    assert again.manifest is first.manifest
    assert all(source is array for source, array in zip(again.sources, given.values(), strict=True))
    assert again.is_native.tolist() == [True] * 3
    number = first.again({**given, "n": 8})  # no array, and still the same to save
    assert number is not None
    assert number.manifest is first.manifest


@pytest.mark.parametrize(
    "arrays",
    [
        pytest.param({**PLAIN, "w": np.zeros((3, 4), np.float32)}, id="shape"),
        pytest.param({**PLAIN, "b": np.zeros(3, np.int64)}, id="dtype"),
        pytest.param({**PLAIN, "b": np.zeros(3, ">f8")}, id="byte order"),
        pytest.param({**PLAIN, "more": np.zeros(3)}, id="one more"),
        pytest.param({"w": PLAIN["w"], "b": PLAIN["b"]}, id="one less"),
        pytest.param({"b": PLAIN["b"], "w": PLAIN["w"], "n": PLAIN["n"]}, id="order"),
        pytest.param({"w": PLAIN["w"], "c": PLAIN["b"], "n": PLAIN["n"]}, id="name"),
        pytest.param({**PLAIN, "b": Slice(np.zeros(3), (9,), (6,))}, id="slice"),
    ],
)
def test_arrays_that_differ_in_more_than_values_are_looked_at_anew(arrays):
    assert Inventory.of(PLAIN).again(arrays) is None


def test_strings_of_other_lengths_change_their_rows_alone():
    first = Inventory.of(ARRAYS).without_arrays()
    again = first.again(changed(note="something longer"))
    assert again is not None
    assert again.manifest.digest == Inventory.of(changed(note="something longer")).manifest.digest
    assert first.manifest.digest != again.manifest.digest


def test_what_is_kept_does_not_keep_the_arrays():
    assert Inventory.of(ARRAYS).without_arrays().sources == ()
