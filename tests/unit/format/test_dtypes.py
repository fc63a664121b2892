from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.format import dtypes

QUANTIZED = {"qint8", "quint8", "qint16", "quint16", "qint32"}


def test_numbers_run_from_1_to_33() -> None:
    assert [dtype.number for dtype in dtypes.ALL] == list(range(1, 34))
    assert len({dtype.name for dtype in dtypes.ALL}) == 33


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=lambda dtype: dtype.name)
def test_number_name_and_numpy_dtype_lead_to_one_another(dtype: dtypes.DType) -> None:
    assert dtypes.by_number(dtype.number) is dtype
    assert dtypes.by_name(dtype.name) is dtype
    if dtype.array is not None and dtype.width and dtype.name not in QUANTIZED:
        assert dtypes.of_array_dtype(dtype.array) is dtype
        assert dtype.array.itemsize == dtype.width
    assert dtype.is_string == (dtype.name == "string")
    assert dtype.is_variant == (dtype.name == "variant")


@pytest.mark.parametrize("number", [0, -1, 34, 99, 100, 101, 133, 134, 1 << 30])
def test_a_number_that_no_file_may_hold_is_corrupt(number: int) -> None:
    with pytest.raises(CorruptionError, match=f"dtype {number} is"):
        dtypes.by_number(number)


SPELLINGS = [
    (">f4", "float32"),
    ("<i8", "int64"),
    (np.longlong, "int64"),
    (np.ulonglong, "uint64"),
    (bool, "bool"),
    (">c16", "complex128"),
    ("S5", "string"),
    ("U5", "string"),
    (object, "string"),
    (ml_dtypes.bfloat16, "bfloat16"),
    (ml_dtypes.int4, "int4"),
    ([("qint8", "i1")], "qint8"),
    ([("quint16", ">u2")], "quint16"),
]


@pytest.mark.parametrize(("spelling", "name"), SPELLINGS)
def test_every_spelling_of_a_numpy_dtype_is_understood(spelling: object, name: str) -> None:
    assert dtypes.of_array_dtype(np.dtype(spelling)).name == name  # type: ignore[call-overload]


@pytest.mark.parametrize("spelling", ["M8[s]", "m8[ns]", "V3", np.longdouble, [("a", "i1")], [("qint8", "i2")]])
def test_a_numpy_dtype_without_counterpart_is_refused_by_name(spelling: object) -> None:
    dtype = np.dtype(spelling)  # type: ignore[call-overload]
    with pytest.raises(InvalidRequestError) as caught:
        dtypes.of_array_dtype(dtype)
    assert str(dtype) in str(caught.value)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="float17"):
        dtypes.by_name("float17")


@pytest.mark.parametrize(
    ("name", "short", "debug"),
    [("float32", "float", "DT_FLOAT"), ("float16", "half", "DT_HALF"), ("int4", "int4", "DT_INT4")],
)
def test_tensorflows_three_names_of_a_dtype(name: str, short: str, debug: str) -> None:
    dtype = dtypes.by_name(name)
    assert (dtype.short, dtype.debug_name) == (short, debug)
