"""The safetensors format: a header in JSON, then the bytes of all tensors.

Layout: ``[header size: uint64][header: JSON object, padded with blanks][data]``; all numbers little-endian. The header
maps each name to ``{"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}``, offsets counting from the first
byte of the data, and may hold ``"__metadata__"``, texts under names. The data has no gaps and no overlaps.
Source: huggingface/safetensors ``README.md``, ``safetensors/src/tensor.rs``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ckptd.errors import CorruptionError, InvalidRequestError, NotFoundError
from ckptd.format import dtypes
from ckptd.format.foreign_files import HEAD_BYTES, hint
from ckptd.interchange.source import BLOCK_BYTES, Array, TensorFacts, is_possible, unsupported
from ckptd.storage.base import Objects

SUFFIX = ".safetensors"
MAX_HEADER_BYTES = 100_000_000
"""What the reference implementation accepts."""

_SIZE_BYTES = 8
_ALIGNMENT = 8
_METADATA = "__metadata__"
_MAX_INT64 = (1 << 63) - 1
_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "C64": "complex64",
}
_CODES = {name: code for code, name in _NAMES.items()}
_BITS_ELSEWHERE = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E8M0": 8}
"""Element types that only safetensors has, and their sizes: their tensors are listed, and not read."""


@dataclass(frozen=True, slots=True)
class Placed:
    """One tensor of a file: `offset` is of its first byte, from the start of the data."""

    facts: TensorFacts
    offset: int
    size: int


def code_of(facts: TensorFacts) -> str | None:
    """Return the safetensors name of a dtype; None if it has no such dtype."""
    return _CODES.get(facts.dtype_name) if facts.dtype is not None else None


def lay_out(tensors: Sequence[TensorFacts], metadata: Mapping[str, str]) -> tuple[bytes, list[Placed]]:
    """Return the bytes before the data, and where each tensor goes; wide elements first, so that all are aligned.

    Raises:
        InvalidRequestError: for a dtype that has no counterpart, a name that cannot be text, or too many tensors.
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    placed, offset = [], 0
    for facts in sorted(tensors, key=lambda one: (-(one.dtype.width if one.dtype else 0), one.name)):
        code = code_of(facts)
        if code is None:
            raise unsupported(facts, "safetensors")
        if facts.name == _METADATA:
            raise InvalidRequestError(f"a safetensors file cannot hold a tensor named {_METADATA!r}")
        size = facts.size_bytes
        header[facts.name] = {"dtype": code, "shape": list(facts.shape), "data_offsets": [offset, offset + size]}
        placed.append(Placed(facts, offset, size))
        offset += size
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequestError("the name of a tensor is not UTF-8, which safetensors requires") from error
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise InvalidRequestError(
            "too many tensors for a safetensors file", expected=MAX_HEADER_BYTES, actual=len(text)
        )
    return len(text).to_bytes(_SIZE_BYTES, "little") + text, placed


def decode_header(data: bytes, data_bytes: int, key: str = "") -> tuple[dict[str, Placed], dict[str, str]]:
    """Read a header: tensors and metadata. `data_bytes` is how much follows it, `key` the file's name, for errors.

    Raises:
        CorruptionError: for anything that the format does not allow, gaps and overlaps included.
    """
    try:
        return _decode_header(data, data_bytes)
    except CorruptionError as error:
        error.key = key or None
        raise


def _decode_header(data: bytes, data_bytes: int) -> tuple[dict[str, Placed], dict[str, str]]:
    try:
        header = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError, MemoryError) as error:
        raise CorruptionError("the header of this safetensors file is not JSON", offset=_SIZE_BYTES) from error
    if not isinstance(header, dict):
        raise CorruptionError("the header of this safetensors file is no JSON object", offset=_SIZE_BYTES)
    metadata = header.pop(_METADATA, None)
    metadata = {} if metadata is None else metadata  # null is none, as the reference implementation has it
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CorruptionError(f"{_METADATA} of this safetensors file holds more than texts", offset=_SIZE_BYTES)
    placed = [_placed(name, value) for name, value in header.items()]
    placed.sort(key=lambda one: (one.offset, one.size))
    end = 0
    for one in placed:
        if one.offset != end:
            raise CorruptionError(
                f"tensor {one.facts.name!r} does not begin where the one before it ends",
                expected=end,
                actual=one.offset,
            )
        end += one.size
    if end != data_bytes:
        raise CorruptionError("the tensors of this safetensors file do not fill it", expected=end, actual=data_bytes)
    return {one.facts.name: one for one in placed}, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that is there twice: readers would disagree about which one counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise CorruptionError("a name is twice in the header of this safetensors file", offset=_SIZE_BYTES)
    return found


def _placed(name: str, value: object) -> Placed:
    wrong = CorruptionError(f"tensor {name!r} is not described as safetensors describes one", offset=_SIZE_BYTES)
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= set(value):
        raise wrong
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise wrong
    begin, end = offsets
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise wrong from error
    dtype = dtypes.by_name(_NAMES[code]) if code in _NAMES else None
    if dtype is None and code not in _BITS_ELSEWHERE:
        raise CorruptionError(f"tensor {name!r} is of an unknown dtype {code!r}", offset=_SIZE_BYTES)
    bits = dtype.width * 8 if dtype is not None else _BITS_ELSEWHERE[code]
    # Also of an empty tensor: numpy makes none whose other dimensions would be too many bytes.
    if not is_possible(shape, bits / 8):
        raise CorruptionError(f"the shape of tensor {name!r} is too large", offset=_SIZE_BYTES)
    if end < begin or (end - begin) * 8 != prod(shape) * bits:
        raise CorruptionError(
            f"tensor {name!r} does not have the size of its shape",
            offset=_SIZE_BYTES,
            expected=prod(shape) * bits // 8,
            actual=end - begin,
        )
    return Placed(TensorFacts(name, dtype, dtype.name if dtype else code, tuple(shape)), begin, end - begin)


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size <= _MAX_INT64 for size in value)


class SafetensorsSource:
    """Reads one safetensors file. The format has no checksums: what is cut short or misplaced is noticed, no more.

    Attributes:
        metadata: the texts that its header carries beside the tensors.
    """

    def __init__(self, objects: Objects, key: str) -> None:
        """Read and check the header.

        Raises:
            NotFoundError: when there is no such object.
            CorruptionError: when it is no safetensors file.
        """
        self._objects = objects
        self._key = key
        location = objects.location(key)
        size = objects.stat(key).size_bytes
        if size < _SIZE_BYTES:
            raise CorruptionError("too short for a safetensors file", key=location, actual=size)
        head = bytearray(min(size, HEAD_BYTES))
        objects.read_into(key, 0, memoryview(head))
        length = int.from_bytes(head[:_SIZE_BYTES], "little")
        if length > MAX_HEADER_BYTES or length > size - _SIZE_BYTES:
            raise CorruptionError(
                f"this is no safetensors file: its header would not fit{hint(bytes(head))}", key=location, actual=length
            )
        header = bytearray(length)
        objects.read_into(key, _SIZE_BYTES, memoryview(header))
        self._base = _SIZE_BYTES + length
        self._placed, self.metadata = decode_header(bytes(header), size - self._base, location)

    @property
    def location(self) -> str:
        """The file's path or URL."""
        return self._objects.location(self._key)

    def names(self) -> list[str]:
        """See `TensorSource`."""
        return sorted(self._placed, key=lambda name: name.encode("utf-8"))

    def facts(self, name: str) -> TensorFacts:
        """See `TensorSource`."""
        return self._find(name).facts

    def size_bytes(self, name: str) -> int:
        """Return how many bytes of the file a tensor takes."""
        return self._find(name).size

    def check(self, name: str) -> None:
        """See `TensorSource`: the header was compared with the file's size."""
        self._find(name)

    def stream(self, name: str) -> Iterator[Array]:
        """See `TensorSource`."""
        placed = self._find(name)
        dtype = placed.facts.dtype
        if dtype is None or dtype.array is None:
            raise unsupported(placed.facts, "a checkpoint")
        buffer = np.empty(min(placed.size, BLOCK_BYTES // dtype.width * dtype.width), np.uint8)
        for at in range(0, placed.size, max(1, len(buffer))):
            part = buffer[: min(len(buffer), placed.size - at)]
            self._objects.read_into(self._key, self._base + placed.offset + at, part.data)
            yield part.view(dtype.array)

    def _find(self, name: str) -> Placed:
        found = self._placed.get(name)
        if found is None:
            raise NotFoundError(f"there is no tensor {name!r} in {self.location}")
        return found
