"""Boxes of a tensor: as recorded in a checkpoint, as written in a slice spec, and resolved against a shape.

A recorded slice gives, per dimension, a start and a length, or ``-`` for the whole dimension. ``0,4`` and ``-`` may
mean the same box and are still different keys: an index finds a slice only in the form in which it was recorded.
Source: TensorFlow ``tensorflow/core/framework/tensor_slice.cc``, ``tensorflow/core/util/saved_tensor_slice_util.cc``.
"""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.format import ordered_code
from ckptd.format.names import tensor_key, tensor_name

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

WHOLE = -1
"""How a whole dimension's length is coded in keys and in columns."""

_INT64_MAX = (1 << 63) - 1
_NUMBER = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Box:
    """A region of a tensor: where it starts and how far it reaches, per dimension."""

    start: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def whole(cls, full_shape: tuple[int, ...]) -> Self:
        """Return the box that is all of a tensor."""
        return cls((0,) * len(full_shape), tuple(full_shape))

    @property
    def num_elements(self) -> int:
        """How many elements are inside; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def stop(self) -> tuple[int, ...]:
        """The first position after the box, per dimension."""
        return tuple(start + length for start, length in zip(self.start, self.shape, strict=True))

    def intersect(self, other: Box) -> Box | None:
        """Return the elements that both have, or None if there are none. Both boxes have the same rank."""
        start = tuple(map(max, self.start, other.start))
        shape = tuple(
            min(s1 + n1, s2 + n2) - low
            for s1, n1, s2, n2, low in zip(self.start, self.shape, other.start, other.shape, start, strict=True)
        )
        return None if any(length <= 0 for length in shape) else Box(start, shape)

    def contains(self, other: Box) -> bool:
        """Say whether all of `other` is inside."""
        return all(
            s1 <= s2 and s2 + n2 <= s1 + n1
            for s1, n1, s2, n2 in zip(self.start, self.shape, other.start, other.shape, strict=True)
        )

    def within(self, outer: Box) -> tuple[slice, ...]:
        """Return the numpy index of this box in an array that holds `outer`, which contains it."""
        return tuple(
            slice(start - base, start - base + length)
            for start, length, base in zip(self.start, self.shape, outer.start, strict=True)
        )

    def __str__(self) -> str:
        return ":".join(f"{start},{length}" for start, length in zip(self.start, self.shape, strict=True))


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """A slice as a checkpoint records it; a length of None is the whole dimension, whose start is 0."""

    extents: tuple[tuple[int, int | None], ...]

    @classmethod
    def of_box(cls, box: Box) -> Self:
        """Return the slice that gives every extent in numbers."""
        return cls(tuple(zip(box.start, box.shape, strict=True)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``0,1:-``.

        Raises:
            InvalidRequestError: in TensorFlow's words.
        """
        extents: list[tuple[int, int | None]] = []
        for part in text.split(":") if text else ():
            if part == "-":
                extents.append((0, None))
                continue
            numbers = [_parse_number(field) for field in part.split(",")]
            start, length = numbers if len(numbers) == 2 else (None, None)
            if start is None or length is None:
                raise InvalidRequestError(f"Expected a pair of numbers or '-' but got '{part}': string = {text}")
            if start < 0 or length <= 0:
                raise InvalidRequestError(
                    f"Expected non-negative start and positive length but got start = {start}, "
                    f"length = {length}: string = {text}"
                )
            extents.append((start, length))
        return cls(tuple(extents))

    def __str__(self) -> str:
        return ":".join("-" if length is None else f"{start},{length}" for start, length in self.extents)

    def resolve(self, full_shape: tuple[int, ...]) -> Box:
        """Return the box that this slice is in a tensor of `full_shape`.

        Raises:
            InvalidRequestError: in TensorFlow's words, if ranks differ or an extent leaves its dimension.
        """
        if len(self.extents) != len(full_shape):
            raise InvalidRequestError(f"Mismatching ranks: shape = {_shown(full_shape)}, slice = {self}")
        for number, ((start, length), size) in enumerate(zip(self.extents, full_shape, strict=True)):
            if (
                start < 0
                or (length is None and start)
                or (length is not None and (length <= 0 or start + length > size))
            ):
                raise InvalidRequestError(
                    f"Extent in dimension {number} out of bounds: shape = {_shown(full_shape)}, slice = {self}"
                )
        return Box(
            tuple([start for start, _ in self.extents]),
            tuple(
                [size if length is None else length for (_, length), size in zip(self.extents, full_shape, strict=True)]
            ),
        )

    def is_whole(self, full_shape: tuple[int, ...]) -> bool:
        """Say whether this slice is the whole tensor, in either spelling: it is then stored as an ordinary entry."""
        return self.resolve(full_shape).shape == tuple(full_shape)

    def key(self, name: str) -> bytes:
        """Return the key of this slice of tensor `name` in an index."""
        return key_prefix(name, len(self.extents)) + self.key_suffix()

    def key_suffix(self) -> bytes:
        """Return what follows `key_prefix` in this slice's key."""
        snum = ordered_code.encode_snum
        return b"".join([snum(start) + snum(WHOLE if length is None else length) for start, length in self.extents])


def key_prefix(name: str, rank: int) -> bytes:
    """Return what the keys of all slices of one rank of a tensor begin with."""
    return name_prefix(name) + ordered_code.encode_num(rank)


def name_prefix(name: str) -> bytes:
    """Return what the keys of all slices of a tensor, and of no other one, begin with."""
    return b"\0" + ordered_code.encode_string(tensor_key(name))


def parse_key(key: bytes) -> tuple[str, TensorSlice]:
    """Read a slice key. Nothing in a key marks it as one: an ordinary name may happen to have this form.

    Raises:
        CorruptionError: if the bytes are not the encoding of a name and a slice.
    """
    zero, at = ordered_code.decode_num(key)
    if zero != 0:
        raise CorruptionError("not a slice key")
    name, at = ordered_code.decode_string(key, at)
    rank, at = ordered_code.decode_num(key, at)
    if not name or rank > len(key):
        raise CorruptionError("not a slice key")
    extents: list[tuple[int, int | None]] = []
    for _ in range(rank):
        start, at = ordered_code.decode_snum(key, at)
        length, at = ordered_code.decode_snum(key, at)
        extents.append((start, None if length == WHOLE else length))
    if at != len(key):
        raise CorruptionError("slice key goes on after its last dimension", offset=at)
    return tensor_name(name), TensorSlice(tuple(extents))


def parse_spec(spec: str) -> tuple[tuple[int, ...], TensorSlice]:
    """Read ``3 2 0,1:-``: the full shape, then the slice, which is inside it.

    The empty string, which stands for a whole tensor of any shape, is the caller's case.

    Raises:
        InvalidRequestError: in TensorFlow's words.
    """
    *dimensions, extents = spec.split(" ")
    if not dimensions:
        raise InvalidRequestError(f"Need least two elements in shape_and_slice specification: {spec}")
    shape = []
    for field in dimensions:
        size = _parse_number(field)
        if size is None or size < 0:
            raise InvalidRequestError(f"Non numerical dimension in shape_and_slice: {spec}")
        shape.append(size)
    tensor_slice = TensorSlice.parse(extents)
    tensor_slice.resolve(tuple(shape))
    return tuple(shape), tensor_slice


def format_spec(full_shape: tuple[int, ...], tensor_slice: TensorSlice) -> str:
    """Return the text that `parse_spec` reads back."""
    return " ".join([*map(str, full_shape), str(tensor_slice)])


def _parse_number(text: str) -> int | None:
    """Return a number that fits 64 bits, or None if the text is not one."""
    if not _NUMBER.fullmatch(text):
        return None
    value = int(text)
    return value if -_INT64_MAX - 1 <= value <= _INT64_MAX else None


def _shown(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"
