"""What exporting, importing and comparing read: named tensors, each as a stream of flat arrays.

A stream is the only form in which a checkpoint, a safetensors file and a compressed npz can all be read in bounded
memory, so nothing else is required.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

from numpy.typing import NDArray

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.format.dtypes import DType
from ckptd.storage.base import Objects

Array = NDArray[Any]

BLOCK_BYTES = 8 << 20
"""About how long the parts of a stream are; those of strings are as long as they must be."""

MAX_READ_BYTES = 256 << 20
_MAX_INT64 = (1 << 63) - 1
_MOST_AXES = 254


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """A tensor as its container describes it. A dtype of None is one that we do not have; `dtype_name` is its own."""

    name: str
    dtype: DType | None
    dtype_name: str
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        """How many elements it has; 1 for a scalar."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of its elements; 0 where elements have no fixed width."""
        return self.num_elements * self.dtype.width if self.dtype is not None else 0


def is_possible(shape: Sequence[int], width_bytes: float) -> bool:
    """Say whether an array of this shape can exist; even of empty ones numpy makes none with more bytes than 2**63.

    `width_bytes` is of an element, and counts as one at least.
    """
    return len(shape) <= _MOST_AXES and prod(size for size in shape if size) * max(width_bytes, 1) <= _MAX_INT64


class TensorSource(Protocol):
    """A container of named tensors, opened for reading."""

    @property
    def location(self) -> str:
        """Where it is, as users write it."""

    def names(self) -> list[str]:
        """Return the names, in the order of their UTF-8 bytes."""

    def facts(self, name: str) -> TensorFacts:
        """Describe one tensor without reading it."""

    def check(self, name: str) -> None:
        """Check what can be checked without reading a tensor: before room is made for it.

        Raises:
            CorruptionError: when its bytes cannot be there.
            InvalidRequestError: when it is more than a container of this size may hold.
        """

    def stream(self, name: str) -> Iterator[Array]:
        """Yield the elements in row-major order as flat little-endian arrays, each valid until the next.

        Raises:
            CorruptionError: at the end at the latest, when the container holds a checksum and it does not match:
                what was yielded may be used only when the stream has ended.
            InvalidRequestError: for a dtype that we do not have.
        """


def unsupported(facts: TensorFacts, where: str) -> InvalidRequestError:
    """Return the error that says of a tensor that a kind of file cannot hold its elements."""
    return InvalidRequestError(
        f"tensor {facts.name!r} is of dtype {facts.dtype_name}, which {where} does not have; "
        "leave such tensors out with --skip-unsupported"
    )


class ObjectFile(io.RawIOBase):
    """An object as a file to read, for libraries that need one; not for reading much at once."""

    def __init__(self, objects: Objects, key: str) -> None:
        super().__init__()
        self._objects = objects
        self._key = key
        self._at = 0
        self.size_bytes = objects.stat(key).size_bytes

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place, which may be behind the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size_bytes}[whence]
        if base + offset < 0:
            raise CorruptionError("a position before the start", key=self._key, offset=0, actual=base + offset)
        self._at = base + offset
        return self._at

    def readinto(self, into: Any) -> int:
        """Fill `into` as far as the object reaches."""
        view = memoryview(into).cast("B")
        view = view[: max(0, min(len(view), self.size_bytes - self._at))]
        if len(view) > MAX_READ_BYTES:
            # A file's directory may claim to be as long as the file, and its readers trust it.
            raise CorruptionError("this file claims too much data at once", key=self._key, offset=self._at)
        if len(view):
            self._objects.read_into(self._key, self._at, view)
            self._at += len(view)
        return len(view)
