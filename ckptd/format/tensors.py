"""Encode arrays as the bytes of a shard, and decode them.

Fixed-width types are row-major, little-endian, one after the other; four- and two-bit types take one byte per
element, as in `ml_dtypes`. Strings and variants, whose elements vary in length, are in `strings`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.format import crc32c as checksum
from ckptd.format import dtypes, strings
from ckptd.format.dtypes import DType
from ckptd.format.strings import StringSections, lengths_checksum, string_crc32c, string_sections

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "Encoded",
    "StringSections",
    "check_stored",
    "decode",
    "decode_into",
    "encode",
    "expected_size",
    "lengths_checksum",
    "string_crc32c",
    "string_sections",
]

Array = np.ndarray[Any, np.dtype[Any]]

MAX_RANK = 254
_MAX_ELEMENTS = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tensor as a shard will hold it: `parts` end to end, `size` bytes in all, of plain checksum `crc32c`.

    The parts of a fixed-width tensor are views of the caller's array where it was already laid out as the format
    wants it: they are valid until the array is changed.
    """

    dtype: DType
    shape: tuple[int, ...]
    parts: tuple[memoryview, ...]
    size: int
    crc32c: int


def encode(array: Array, dtype: DType | None = None) -> Encoded:
    """Lay an array out as a shard holds it, copying only what is not C-contiguous and little-endian.

    `dtype` overrides what the array's own dtype stands for, at the same width: a quantized type for plain integers,
    or variant for an object array of serialized messages.

    Raises:
        InvalidRequestError: if the format has no such dtype, or an element of an object array is no string.
    """
    natural = dtypes.of_array_dtype(array.dtype)
    if dtype is None:
        dtype = natural
    elif dtype.width != natural.width or (dtype.array is None):
        raise InvalidRequestError(f"arrays of dtype {array.dtype} cannot be stored as {dtype.name}")
    if dtype.is_variant:
        data, crc = strings.encode_variants(array)
        return Encoded(dtype, array.shape, (memoryview(data),), len(data), crc)
    if dtype.is_string:
        sections = string_sections(array)
        lengths = memoryview(sections.lengths + lengths_checksum(sections.lengths_crc32c))
        payload = memoryview(sections.payload)
        crc = string_crc32c(sections.lengths_crc32c, checksum.crc32c(payload), len(payload))
        return Encoded(dtype, array.shape, (lengths, payload), len(lengths) + len(payload), crc)
    data_view = _bytes_of(_little_endian(array))
    return Encoded(dtype, array.shape, (data_view,), len(data_view), checksum.crc32c(data_view))


def _little_endian(array: Array) -> Array:
    if array.dtype.byteorder == ">" or (array.dtype.names and array.dtype.newbyteorder("<") != array.dtype):
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.ascontiguousarray(array)


def _bytes_of(array: Array) -> memoryview:
    """View a C-contiguous array's memory as bytes; numpy cannot hand out `ml_dtypes` as buffers itself."""
    # The cast is for older Pythons, on which numpy's stubs do not say that arrays are buffers.
    return memoryview(cast("Buffer", array.reshape(-1).view(np.uint8)))


def check_shape(shape: tuple[int, ...]) -> None:
    """Refuse a shape from a file that no tensor can have.

    Raises:
        CorruptionError: for a negative dimension, more than 254 of them, or more than 2**63 - 1 elements, which
            may not hide behind a dimension of zero.
    """
    if len(shape) > MAX_RANK:
        raise CorruptionError(f"shape has {len(shape)} dimensions; at most {MAX_RANK} are allowed")
    if any(size < 0 for size in shape):
        raise CorruptionError(f"shape {list(shape)} has a negative dimension")
    if math.prod(size for size in shape if size) > _MAX_ELEMENTS:
        raise CorruptionError(f"shape {list(shape)} is too large")


def expected_size(dtype: DType, shape: tuple[int, ...]) -> int | None:
    """Return how many bytes a fixed-width tensor takes in a shard, None for other dtypes."""
    return math.prod(shape) * dtype.width if dtype.width else None


def check_stored(dtype: DType, shape: tuple[int, ...], size: int) -> None:
    """Refuse a shape or a size in bytes that no stored tensor of this dtype can have.

    Raises:
        CorruptionError: also for dtypes that cannot be stored at all.
    """
    if dtype.array is None:
        raise CorruptionError(f"dtype {dtype.name} cannot be stored")
    check_shape(shape)
    wanted = expected_size(dtype, shape)
    if wanted is not None:
        if size != wanted:
            raise CorruptionError("size does not match dtype and shape", expected=wanted, actual=size)
        return
    least = strings.least_size(dtype, math.prod(shape))
    if size < least:
        raise CorruptionError("size is too small for the elements", expected=f"at least {least}", actual=size)


def decode(
    data: Buffer,
    dtype: DType,
    shape: tuple[int, ...],
    *,
    big_endian: bool = False,
    crc32c: int | None = None,
    key: str = "",
    offset: int = 0,
) -> Array:
    """Read one stored tensor or slice from its bytes; the array owns its memory.

    Strings and variants give an object array of `bytes`. `crc32c` is the entry's plain checksum, unchecked if None.
    `key` and `offset` say in errors where the bytes were; no allocation exceeds what `data` justifies.

    Raises:
        CorruptionError: for a wrong size, a broken string section, or a checksum that does not match.
    """
    view = memoryview(data).cast("B")
    try:
        check_stored(dtype, shape, len(view))
    except CorruptionError as error:
        raise _located(error, key, offset) from None
    if dtype.width == 0:
        try:
            return strings.decode(view, dtype, shape, big_endian=big_endian, expected_crc32c=crc32c)
        except CorruptionError as error:
            raise _located(error, key, offset) from error.__cause__
    _check_crc(view, crc32c, key, offset)
    try:
        array: Array = np.empty(shape, dtype.array)
    except ValueError as error:  # numpy holds fewer dimensions than the format
        raise CorruptionError(f"numpy cannot hold shape {list(shape)}", key=key or None, offset=offset) from error
    _bytes_of(array)[:] = view
    if big_endian:
        _swap(array)
    return array


def decode_into(
    target: Array,
    dtype: DType,
    data: Buffer | None = None,
    *,
    big_endian: bool = False,
    crc32c: int | None = None,
    key: str = "",
    offset: int = 0,
) -> None:
    """Fill a C-contiguous array of fixed-width dtype `dtype` with one stored tensor.

    With `data` None, the stored bytes already are in the memory of `target` (see `memory_of`), and are checked and,
    if need be, swapped there: nothing is copied. After an error the contents of `target` are undefined.

    Raises:
        InvalidRequestError: if `target` is not laid out as this dtype is stored.
        CorruptionError: as `decode`.
    """
    memory = memory_of(target, dtype)
    view = memory if data is None else memoryview(data).cast("B")
    if len(view) != len(memory):
        raise CorruptionError(
            "size does not match dtype and shape",
            key=key or None,
            offset=offset,
            expected=len(memory),
            actual=len(view),
        )
    _check_crc(view, crc32c, key, offset)
    if data is not None:
        memory[:] = view
    if big_endian:
        _swap(target)


def memory_of(target: Array, dtype: DType) -> memoryview:
    """Return the writable bytes of an array that is laid out exactly as fixed-width dtype `dtype` is stored.

    Raises:
        InvalidRequestError: if it is of another dtype or byte order, not C-contiguous, or read-only.
    """
    laid_out = target.flags.c_contiguous and target.dtype.byteorder != ">" and target.dtype.names is None
    if dtype.width == 0 or dtypes.of_array_dtype(target.dtype).array != dtype.array or not laid_out:
        raise InvalidRequestError("array is not laid out as stored", expected=dtype.name, actual=target.dtype)
    if not target.flags.writeable:
        raise InvalidRequestError("array is read-only")
    return _bytes_of(target)


def _swap(array: Array) -> None:
    """Turn each number's bytes round in place; complex numbers swap each part."""
    part_size = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
    if part_size > 1:
        array.reshape(-1).view(f"u{part_size}").byteswap(inplace=True)


def _check_crc(view: memoryview, expected: int | None, key: str, offset: int) -> None:
    if expected is None:
        return
    actual = checksum.crc32c(view)
    if actual != expected:
        raise CorruptionError(
            "checksum does not match", key=key or None, offset=offset, expected=expected, actual=actual
        )


def _located(error: CorruptionError, key: str, offset: int) -> CorruptionError:
    """Return the error with the tensor's place in its file; an offset inside the tensor becomes one in the file."""
    return CorruptionError(
        error.reason,
        key=key or None,
        offset=offset + (error.offset or 0),
        expected=error.expected,
        actual=error.actual,
    )
