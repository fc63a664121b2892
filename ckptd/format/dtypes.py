"""Map TensorFlow's dtypes to numpy's and back.

Numbers and names are those of TensorFlow's enum DataType; the element types that numpy lacks come from `ml_dtypes`.
Quantized integers are read as plain integers of their width, as TensorFlow's reader gives them; to write them, pass
the one-field structured dtype that TensorFlow uses for them (``np.dtype([("qint8", "i1")])``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from ckptd.errors import CorruptionError, InvalidRequestError


@dataclass(frozen=True, slots=True)
class DType:
    """One element type of the format.

    `name` is TensorFlow's Python name (float32), `short` the one in its error messages (float). `width` is bytes per
    element, 0 where elements vary (string, variant) or cannot be stored (resource). `array` is little-endian, and
    object for strings and variants. `joinable` says that TensorFlow itself can cut and join stored slices.
    """

    number: int
    name: str
    short: str
    array: np.dtype[Any] | None
    width: int
    joinable: bool

    @property
    def debug_name(self) -> str:
        """The enum's name, as `debug_string` of TensorFlow's reader prints it."""
        return f"DT_{self.short.upper()}"

    @property
    def is_string(self) -> bool:
        """Whether elements are byte strings of any length."""
        return self.number == STRING_NUMBER

    @property
    def is_variant(self) -> bool:
        """Whether elements are serialized variant messages, which we return raw."""
        return self.number == VARIANT_NUMBER


STRING_NUMBER = 7
RESOURCE_NUMBER = 20
VARIANT_NUMBER = 21
_FIRST_REFERENCE = 101  # references to the types above; they are never in a file

# number, name, short name, numpy type, joinable
_TABLE: tuple[tuple[int, str, str, Any, bool], ...] = (
    (1, "float32", "float", "<f4", True),
    (2, "float64", "double", "<f8", True),
    (3, "int32", "int32", "<i4", True),
    (4, "uint8", "uint8", "u1", True),
    (5, "int16", "int16", "<i2", True),
    (6, "int8", "int8", "i1", True),
    (7, "string", "string", object, False),
    (8, "complex64", "complex64", "<c8", True),
    (9, "int64", "int64", "<i8", True),
    (10, "bool", "bool", "?", True),
    (11, "qint8", "qint8", "i1", True),
    (12, "quint8", "quint8", "u1", True),
    (13, "qint32", "qint32", "<i4", True),
    (14, "bfloat16", "bfloat16", ml_dtypes.bfloat16, True),
    (15, "qint16", "qint16", "<i2", False),
    (16, "quint16", "quint16", "<u2", False),
    (17, "uint16", "uint16", "<u2", False),
    (18, "complex128", "complex128", "<c16", True),
    (19, "float16", "half", "<f2", False),
    (20, "resource", "resource", None, False),
    (21, "variant", "variant", object, False),
    (22, "uint32", "uint32", "<u4", False),
    (23, "uint64", "uint64", "<u8", False),
    (24, "float8_e5m2", "float8_e5m2", ml_dtypes.float8_e5m2, False),
    (25, "float8_e4m3fn", "float8_e4m3fn", ml_dtypes.float8_e4m3fn, False),
    (26, "float8_e4m3fnuz", "float8_e4m3fnuz", ml_dtypes.float8_e4m3fnuz, False),
    (27, "float8_e4m3b11fnuz", "float8_e4m3b11fnuz", ml_dtypes.float8_e4m3b11fnuz, False),
    (28, "float8_e5m2fnuz", "float8_e5m2fnuz", ml_dtypes.float8_e5m2fnuz, False),
    (29, "int4", "int4", ml_dtypes.int4, True),
    (30, "uint4", "uint4", ml_dtypes.uint4, True),
    (31, "int2", "int2", ml_dtypes.int2, False),
    (32, "uint2", "uint2", ml_dtypes.uint2, False),
    (33, "float4_e2m1fn", "float4_e2m1fn", ml_dtypes.float4_e2m1fn, False),
)


def _dtype(number: int, name: str, short: str, array: Any, joinable: bool) -> DType:
    if array is None or array is object:
        return DType(number, name, short, None if array is None else np.dtype(object), 0, joinable)
    dtype = np.dtype(array)
    return DType(number, name, short, dtype, dtype.itemsize, joinable)


ALL: tuple[DType, ...] = tuple(_dtype(*row) for row in _TABLE)
_BY_NUMBER = {dtype.number: dtype for dtype in ALL}
_BY_NAME = {dtype.name: dtype for dtype in ALL}
_QUANTIZED = frozenset(dtype.name for dtype in ALL if dtype.name.startswith(("qint", "quint")))
_BY_KIND = {
    (dtype.array.kind, dtype.width): dtype
    for dtype in ALL
    if dtype.array is not None and dtype.array.kind in "biufc" and dtype.name not in _QUANTIZED and dtype.number < 24
}
_BY_ML_DTYPE = {
    dtype.array: dtype for dtype in ALL if dtype.array is not None and (dtype.number >= 24 or dtype.name == "bfloat16")
}


def by_number(number: int) -> DType:
    """Return the dtype of an entry.

    Raises:
        CorruptionError: for 0, an unknown number, or a reference type.
    """
    dtype = _BY_NUMBER.get(number)
    if dtype is not None:
        return dtype
    if number == 0:
        raise CorruptionError("dtype 0 is invalid")
    if number >= _FIRST_REFERENCE and number - _FIRST_REFERENCE + 1 in _BY_NUMBER:
        raise CorruptionError(f"dtype {number} is a reference type, which cannot be stored")
    raise CorruptionError(f"dtype {number} is unknown")


def by_name(name: str) -> DType:
    """Return the dtype that TensorFlow's Python names so; unknown names raise `InvalidRequestError`."""
    dtype = _BY_NAME.get(name)
    if dtype is None:
        raise InvalidRequestError(f"no dtype is named {name!r}")
    return dtype


def of_array_dtype(dtype: np.dtype[Any]) -> DType:
    """Return how an array of this numpy dtype, in any byte order, is stored.

    Object arrays and numpy's byte and text strings are stored as strings.

    Raises:
        InvalidRequestError: naming the dtype, if the format has no counterpart.
    """
    if dtype.kind in "OSU":
        return _BY_NUMBER[STRING_NUMBER]
    found = _BY_KIND.get((dtype.kind, dtype.itemsize))
    if found is None:
        found = _BY_ML_DTYPE.get(dtype)
    if found is None and dtype.names is not None and len(dtype.names) == 1 and dtype.names[0] in _QUANTIZED:
        quantized = _BY_NAME[dtype.names[0]]
        if dtype[0].newbyteorder("<") == quantized.array:
            found = quantized
    if found is None:
        way = _WAYS.get(dtype.kind if dtype.names is None else "fields", "")
        raise InvalidRequestError(f"arrays of dtype {dtype} cannot be stored{way}")
    return found


_WAYS = {
    "M": ": store x.view(numpy.int64), and the unit beside it",
    "m": ": store x.view(numpy.int64), and the unit beside it",
    "f": ": store x.astype(numpy.float64)",
    "c": ": store x.astype(numpy.complex128)",
    "fields": ": store each field as an array of its own",
}
"""What a program can do with arrays that have no counterpart, by numpy's kinds; extensions have no single way."""
