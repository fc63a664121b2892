"""The npy format: a header that is a Python literal, then an array's bytes. Nothing is evaluated or unpickled.

Layout: ``\\x93NUMPY [major][minor] [header size: uint16, from version 2 uint32] [header, padded with blanks]``, and the
elements. The header is a dict of ``descr`` (a dtype as numpy writes it), ``fortran_order`` and ``shape``.
Source: numpy ``numpy/lib/format.py``.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

import numpy as np

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.format import dtypes
from ckptd.format.dtypes import DType
from ckptd.interchange.source import TensorFacts, is_possible, unsupported

MAGIC = b"\x93NUMPY"
PREAMBLE_BYTES = len(MAGIC) + 2 + 4
"""Enough to know how long the header is, in every version."""

MAX_HEADER_BYTES = 10_000
"""The limit up to which numpy itself accepts a header by default."""

_ALIGNMENT = 64
_MAX_INT64 = (1 << 63) - 1
_DESCR = re.compile(r"[<>|=]?([?biufc][0-9]{0,2})", re.ASCII)


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """What a header says. `dtype` is None for elements that we do not have, which `descr` then names."""

    descr: str
    dtype: DType | None
    big_endian: bool
    fortran_order: bool
    shape: tuple[int, ...]
    header_bytes: int


def holds(dtype: DType | None) -> bool:
    """Return whether numpy alone can read such an array back: it knows neither bfloat16 nor float8 nor int4."""
    if dtype is None or dtype.array is None or dtype.array.kind not in "biufc" or dtype.array.isbuiltin != 1:
        return False
    # A quantized integer would be loaded as a plain one.
    return dtypes.of_array_dtype(dtype.array) == dtype


def encode_header(facts: TensorFacts) -> bytes:
    """Return the bytes before the elements, the same that numpy writes.

    Raises:
        InvalidRequestError: for a dtype that numpy does not have.
    """
    if facts.dtype is None or facts.dtype.array is None or not holds(facts.dtype):
        raise unsupported(facts, "npz")
    descr = np.lib.format.dtype_to_descr(facts.dtype.array)
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {facts.shape!r}, }}"
    if facts.shape:
        # Room to grow along the first axis, which numpy leaves for appending in place.
        text += " " * (21 - len(repr(facts.shape[0])))
    start = len(MAGIC) + 2 + 2
    text += " " * (_ALIGNMENT - (start + len(text) + 1) % _ALIGNMENT) + "\n"
    data = text.encode("latin1")
    if len(data) > MAX_HEADER_BYTES:
        raise InvalidRequestError(f"the shape of tensor {facts.name!r} is too long for npz")
    return MAGIC + b"\x01\x00" + len(data).to_bytes(2, "little") + data


def header_size(preamble: bytes) -> int:
    """Return how many bytes come before the elements, from the first `PREAMBLE_BYTES` of an array.

    Raises:
        CorruptionError: if they are not those of an array.
    """
    if len(preamble) < PREAMBLE_BYTES or not preamble.startswith(MAGIC):
        raise CorruptionError("this is no npy array", offset=0)
    major = preamble[len(MAGIC)]
    if major not in (1, 2, 3):
        raise CorruptionError("an npy array of an unknown version", offset=len(MAGIC), actual=major)
    start = len(MAGIC) + 2
    width = 2 if major == 1 else 4
    length = int.from_bytes(preamble[start : start + width], "little")
    if length > MAX_HEADER_BYTES:
        raise CorruptionError("the header of this npy array is too long", offset=start, actual=length)
    return start + width + length


def decode_header(data: bytes) -> NpyHeader:
    """Read all that comes before the elements.

    Raises:
        CorruptionError: for anything that numpy does not write.
        InvalidRequestError: for objects, which only pickle could read: they are never loaded.
    """
    start = len(MAGIC) + 2 + (2 if data[len(MAGIC)] == 1 else 4)
    try:
        found = ast.literal_eval(data[start:].decode("utf-8").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise CorruptionError("the header of this npy array cannot be read", offset=start) from error
    if not isinstance(found, dict) or set(found) != {"descr", "fortran_order", "shape"}:
        raise CorruptionError("the header of this npy array does not hold what it should", offset=start)
    descr, fortran_order, shape = found["descr"], found["fortran_order"], found["shape"]
    if not isinstance(fortran_order, bool) or not isinstance(shape, tuple):
        raise CorruptionError("the header of this npy array does not hold what it should", offset=start)
    if not all(type(size) is int and 0 <= size <= _MAX_INT64 for size in shape):
        raise CorruptionError("the shape of this npy array cannot be right", offset=start)
    if not isinstance(descr, str | list):
        raise CorruptionError("the dtype of this npy array cannot be read", offset=start)
    if isinstance(descr, str) and descr.lstrip("<>|=").startswith("O"):
        raise InvalidRequestError("an array of Python objects, which only pickle reads: it is not loaded")
    dtype, big_endian = _dtype(descr)
    if not is_possible(shape, dtype.width if dtype is not None else 1):
        raise CorruptionError("the shape of this npy array is too large", offset=start)
    return NpyHeader(str(descr), dtype, big_endian, fortran_order, shape, len(data))


def _dtype(descr: object) -> tuple[DType | None, bool]:
    if not isinstance(descr, str) or not _DESCR.fullmatch(descr):
        return None, False
    try:
        array = np.dtype(descr)
        return dtypes.of_array_dtype(array), array.byteorder == ">"
    except (TypeError, ValueError, InvalidRequestError):
        return None, False
