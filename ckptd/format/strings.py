"""String and variant tensors: elements of any length, with checksums of their own.

String tensors are three sections::

    varint64 length of each element | fixed32 masked lengths checksum | the bytes of each element

The lengths checksum, and after it the entry's, covers each length as a uint32 (as a uint64 if it does not fit), not
the varints; the entry's checksum goes on over the stored four bytes and the payload. The three sections
of several tensors can therefore be laid side by side under one entry and their checksums combined.

Variant tensors are, per element, ``varint64 length | message | fixed32 masked running checksum``, the running one
covering each length as a uint64, the message, and the four stored bytes.

In a big-endian file the fixed32 and the lengths that enter the checksums are big-endian.
Source: TensorFlow ``tensorflow/core/util/tensor_bundle/tensor_bundle.cc``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.format import coding, crc32c
from ckptd.format.dtypes import DType

Array = np.ndarray[Any, np.dtype[Any]]

CHECKSUM_BYTES = 4
"""Size of the checksum between the lengths and the payload of stored strings, and after each variant."""

_UINT32_END = 1 << 32


@dataclass(frozen=True, slots=True)
class StringSections:
    """What a string tensor, or one rank's part of it, contributes to each section of its shard.

    `lengths_crc32c` is the plain checksum of `lengths_crc_bytes` bytes (4 or 8 per element): combine the parts' ones
    with these counts.
    """

    lengths: bytes
    lengths_crc32c: int
    lengths_crc_bytes: int
    payload: bytes


def element_bytes(array: Array) -> list[bytes]:
    """Return the elements in row-major order; text becomes UTF-8.

    Raises:
        InvalidRequestError: if an element is neither bytes nor text.
    """
    elements: list[Any] = array.ravel().tolist()
    if array.dtype.kind == "S" or set(map(type, elements)) <= {bytes}:
        return elements
    out = []
    for position, element in enumerate(elements):
        if isinstance(element, str):
            try:
                out.append(element.encode("utf-8", "surrogateescape"))
            except UnicodeEncodeError as error:
                raise InvalidRequestError(f"element {position} of a string array cannot be encoded") from error
        elif isinstance(element, (bytes, bytearray, memoryview)):
            out.append(bytes(element))
        else:
            raise InvalidRequestError(f"element {position} of a string array is of type {type(element).__name__}")
    return out


def string_sections(array: Array) -> StringSections:
    """Lay a string array out in the sections that its shard holds, without the lengths checksum between them."""
    elements = element_bytes(array)
    sizes = np.fromiter(map(len, elements), np.uint64, len(elements))
    form = lengths_form(sizes, big_endian=False)
    return StringSections(_encode_varints(sizes), crc32c.crc32c(form), len(form), b"".join(elements))


def lengths_checksum(lengths_crc32c: int) -> bytes:
    """Return the four bytes between the lengths and the payload."""
    return coding.encode_fixed32(crc32c.mask(lengths_crc32c))


def string_crc32c(lengths_crc32c: int, payload_crc32c: int, payload_size: int) -> int:
    """Return an entry's plain checksum from those of its sections; `payload_size` is in bytes."""
    head = crc32c.extend(lengths_crc32c, lengths_checksum(lengths_crc32c))
    return crc32c.combine(head, payload_crc32c, payload_size)


def least_size(dtype: DType, num_elements: int) -> int:
    """Return the fewest bytes that this number of elements takes."""
    return num_elements * (1 + CHECKSUM_BYTES) if dtype.is_variant else num_elements + CHECKSUM_BYTES


def stored_crc32c(view: memoryview, dtype: DType, num_elements: int, big_endian: bool = False) -> int:
    """Return the plain checksum an entry should have for these bytes.

    Raises:
        CorruptionError: if the sections do not fit the bytes or an inner checksum does not match.
    """
    if dtype.is_variant:
        return _split_variants(view, num_elements, big_endian)[1]
    _, lengths_crc, at = _read_lengths(view, num_elements, big_endian)
    return crc32c.extend(lengths_crc, view[at - CHECKSUM_BYTES :])


def decode(
    view: memoryview, dtype: DType, shape: tuple[int, ...], *, big_endian: bool, expected_crc32c: int | None
) -> Array:
    """Read a string or variant tensor into an object array of `bytes`, checking everything.

    Raises:
        CorruptionError: with offsets inside `view`.
    """
    num_elements = math.prod(shape)
    if dtype.is_variant:
        elements, crc = _split_variants(view, num_elements, big_endian)
    else:
        sizes, lengths_crc, at = _read_lengths(view, num_elements, big_endian)
        crc = crc32c.extend(lengths_crc, view[at - CHECKSUM_BYTES :])
        payload = bytes(view[at:])
        stops = np.cumsum(sizes).tolist()
        elements = [payload[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
    if expected_crc32c is not None and crc != expected_crc32c:
        raise CorruptionError("checksum does not match", offset=0, expected=expected_crc32c, actual=crc)
    try:
        array: Array = np.empty(shape, dtype=object)
    except ValueError as error:  # numpy holds fewer dimensions than the format
        raise CorruptionError(f"numpy cannot hold shape {list(shape)}") from error
    flat = np.empty(num_elements, dtype=object)
    flat[:] = elements
    array[...] = flat.reshape(shape)
    return array


def lengths_form(sizes: Array, big_endian: bool) -> bytes:
    """Return the bytes of the lengths as they enter the checksum."""
    order = ">" if big_endian else "<"
    if not len(sizes) or int(sizes.max()) < _UINT32_END:
        return sizes.astype(f"{order}u4").tobytes()
    byteorder: Literal["big", "little"] = "big" if big_endian else "little"
    return b"".join(size.to_bytes(4 if size < _UINT32_END else 8, byteorder) for size in sizes.tolist())


def _encode_varints(values: Array) -> bytes:
    if not len(values):
        return b""
    width = coding.varint_size(int(values.max()))
    if width == 1:
        return values.astype(np.uint8).tobytes()
    shifted = values[:, None] >> (np.arange(width, dtype=np.uint64) * np.uint64(7))
    more = np.zeros(shifted.shape, bool)
    more[:, :-1] = shifted[:, 1:] > 0
    present = np.ones(shifted.shape, bool)
    present[:, 1:] = more[:, :-1]
    coded = (shifted & np.uint64(0x7F)).astype(np.uint8) | (more.astype(np.uint8) << 7)
    flat: bytes = coded[present].tobytes()
    return flat


def _decode_varints(view: memoryview, count: int) -> tuple[Array, int]:
    """Read `count` varint64 from the start of `view`; return them and the position after them."""
    if not count:
        return np.zeros(0, np.uint64), 0
    coded = np.frombuffer(view[: count * coding.MAX_VARINT64_BYTES], np.uint8)
    last = np.flatnonzero(coded < 0x80)[:count]
    if len(last) < count:
        raise CorruptionError("string lengths run past the end", offset=len(view))
    end = int(last[-1]) + 1
    first = np.concatenate(([0], last[:-1] + 1))
    widths = last - first + 1
    if int(widths.max()) > coding.MAX_VARINT64_BYTES:
        raise CorruptionError("string length longer than ten bytes", offset=int(first[widths.argmax()]))
    shifts = (np.arange(end) - np.repeat(first, widths)).astype(np.uint64) * np.uint64(7)
    groups = (coded[:end] & 0x7F).astype(np.uint64) << shifts
    return np.add.reduceat(groups, first), end


def _read_lengths(view: memoryview, count: int, big_endian: bool) -> tuple[Array, int, int]:
    """Read and check the lengths; return them, their plain checksum, and where the payload starts."""
    sizes, at = _decode_varints(view, count)
    payload_size = len(view) - at - CHECKSUM_BYTES
    # The sum could wrap around in 64 bits, so no single length may exceed what is there.
    if payload_size < 0 or (count and int(sizes.max()) > payload_size) or int(sizes.sum()) != payload_size:
        raise CorruptionError("string lengths do not add up to the size", offset=at)
    crc = crc32c.crc32c(lengths_form(sizes, big_endian))
    stored = int.from_bytes(view[at : at + CHECKSUM_BYTES], "big" if big_endian else "little")
    if crc32c.unmask(stored) != crc:
        raise CorruptionError("lengths checksum does not match", offset=at, expected=crc32c.unmask(stored), actual=crc)
    return sizes, crc, at + CHECKSUM_BYTES


def encode_variants(array: Array) -> tuple[bytes, int]:
    """Lay serialized variant messages out as their shard holds them; return that and the plain checksum."""
    out = bytearray()
    crc = 0
    for message in element_bytes(array):
        crc = crc32c.extend(crc, coding.encode_fixed64(len(message)))
        crc = crc32c.extend(crc, message)
        checksum = coding.encode_fixed32(crc32c.mask(crc))
        crc = crc32c.extend(crc, checksum)
        out += coding.encode_varint(len(message))
        out += message
        out += checksum
    return bytes(out), crc


def _split_variants(view: memoryview, count: int, big_endian: bool) -> tuple[list[bytes], int]:
    byteorder: Literal["big", "little"] = "big" if big_endian else "little"
    elements = []
    crc, at = 0, 0
    for _ in range(count):
        size, at = coding.decode_varint64(view, at)
        stop = at + size
        if stop + CHECKSUM_BYTES > len(view):
            raise CorruptionError("variant runs past the end", offset=at)
        elements.append(bytes(view[at:stop]))
        checksum = view[stop : stop + CHECKSUM_BYTES]
        crc = crc32c.extend(crc, size.to_bytes(8, byteorder))
        crc = crc32c.extend(crc, elements[-1])
        if crc32c.unmask(int.from_bytes(checksum, byteorder)) != crc:
            raise CorruptionError("variant checksum does not match", offset=stop)
        crc = crc32c.extend(crc, checksum)
        at = stop + CHECKSUM_BYTES
    if at != len(view):
        raise CorruptionError("bytes left over after the last variant", offset=at)
    return elements, crc
