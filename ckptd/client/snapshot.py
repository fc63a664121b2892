"""A copy of the caller's arrays, so that training may go on while they are saved.

Numbers are copied into one buffer, in the byte order and layout of the file, so that every later step (checksums,
sending) only takes views of it. Strings are encoded at once; their encoding is the copy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptd.client.arrays import Array, to_array
from ckptd.client.buffers import Buffer, BufferPool
from ckptd.client.slice import Slice
from ckptd.engine.manifest import Manifest, Part
from ckptd.errors import InvalidRequestError
from ckptd.format import tensors
from ckptd.format.dtypes import DType
from ckptd.format.names import tensor_key
from ckptd.format.slices import Box

_ALIGN_BYTES = 64  # a cache line; every numpy type may start there
_STRIPE_BYTES = 16 << 20  # what one thread copies at a time
_PARALLEL_BYTES = 32 << 20  # below this, starting threads takes longer than it saves
_NUM_COPIERS = max(1, min(4, os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class _Given:
    """One part as the caller gave it, checked; the array is still the caller's memory."""

    name: str
    array: Array
    dtype: DType
    full_shape: tuple[int, ...]
    box: Box


class Snapshot:
    """What one rank saves, in memory of its own. Reading it is safe from any thread until `release`.

    Attributes:
        manifest: what there is: its rows are the items of this snapshot.
    """

    def __init__(
        self, manifest: Manifest, sections: list[tuple[memoryview, ...]], pool: BufferPool, buffer: Buffer | None
    ) -> None:
        self.manifest = manifest
        self._sections = sections
        self._pool = pool
        self._buffer = buffer

    @classmethod
    def take(cls, arrays: Mapping[str, Any], pool: BufferPool, like: Manifest | None = None) -> Snapshot:
        """Copy `arrays`; on return the caller may change them.

        `like` is the manifest of an earlier snapshot, which is used again when nothing but the values has changed.

        Raises:
            InvalidRequestError: naming the tensor that can't be saved. Nothing is kept then.
        """
        given = [part for name, value in _items(arrays) for part in _parts(name, value)]
        sizes = [part.array.size * part.dtype.width for part in given]
        offsets, total = _lay_out(sizes)
        buffer = pool.take(total) if total else None
        try:
            sections: list[tuple[memoryview, ...]] = []
            parts: list[Part] = []
            copies: list[tuple[Array, Array]] = []
            for part, offset, size in zip(given, offsets, sizes, strict=True):
                if part.dtype.is_string:
                    stored, described = _encode_strings(part)
                else:
                    stored, described = _reserve(part, buffer, offset, size, copies)
                sections.append(stored)
                parts.append(described)
            _copy(copies)
            manifest = Manifest.of(parts)
            if like is not None and like.digest == manifest.digest:
                manifest = like
        except BaseException:
            if buffer is not None:
                pool.give_back(buffer)
            raise
        return cls(manifest, sections, pool, buffer)

    @property
    def size_bytes(self) -> int:
        """Bytes that all parts take in the shards."""
        return self.manifest.size_bytes

    def views(self, item: int, offset: int, size: int) -> Iterator[memoryview]:
        """Yield the bytes of one part's stored form from `offset` on, `size` of them, in one or more views."""
        for section in self._sections[item]:
            if offset < len(section) and size:
                view = section[offset : offset + size]
                yield view
                size -= len(view)
                offset = 0
            else:
                offset -= len(section)

    def release(self) -> None:
        """Give the memory back to the pool. Harmless when repeated; what views show is arbitrary from then on."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._pool.give_back(buffer)


def _items(arrays: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if not isinstance(arrays, Mapping):
        raise InvalidRequestError(f"what is saved is a mapping of names to arrays, not a {type(arrays).__name__}")
    for name, value in arrays.items():
        if not isinstance(name, str):
            raise InvalidRequestError(f"the name of a tensor is a str, not {name!r}")
        if tensor_key(name).startswith(b"\0"):
            raise InvalidRequestError(f"tensor {name!r}: names that begin with a zero byte are kept for slices")
        yield name, value


def _parts(name: str, value: Any) -> Iterator[_Given]:
    """Yield the parts that `value` stands for: one, unless it is a sequence of slices."""
    slices: Sequence[Any] = value if isinstance(value, (list, tuple)) else (value,)
    if not slices or not all(isinstance(one, Slice) for one in slices):
        array, dtype = to_array(name, value)
        yield _Given(name, array, dtype, array.shape, Box.whole(array.shape))
        return
    for one in slices:
        array, dtype = to_array(name, one.part)
        full_shape, start = one.full_shape, one.start
        if not len(array.shape) == len(full_shape) == len(start):
            raise InvalidRequestError(
                f"tensor {name!r}: a slice of shape {list(array.shape)} at {list(start)} does not have the rank of its "
                f"full shape {list(full_shape)}"
            )
        if any(s < 0 or s + n > full for s, n, full in zip(start, array.shape, full_shape, strict=True)):
            raise InvalidRequestError(
                f"tensor {name!r}: a slice of shape {list(array.shape)} at {list(start)} leaves its full shape "
                f"{list(full_shape)}"
            )
        yield _Given(name, array, dtype, full_shape, Box(start, array.shape))


def _lay_out(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Return where each part begins in the buffer, and how long the buffer is."""
    offsets, at = [], 0
    for size in sizes:
        offsets.append(at)
        at += -(-size // _ALIGN_BYTES) * _ALIGN_BYTES
    return offsets, at


def _encode_strings(part: _Given) -> tuple[tuple[memoryview, ...], Part]:
    try:
        encoded = tensors.string_sections(part.array)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"tensor {part.name!r}: {error.reason}") from error
    head = encoded.lengths + tensors.lengths_checksum(encoded.lengths_crc32c)
    described = Part(
        name=part.name,
        dtype=part.dtype.number,
        full_shape=part.full_shape,
        box=part.box,
        size=len(head) + len(encoded.payload),
        lengths_size=len(encoded.lengths),
        lengths_crc=encoded.lengths_crc32c,
        lengths_covered=encoded.lengths_crc_bytes,
    )
    return (memoryview(head), memoryview(encoded.payload)), described


def _reserve(
    part: _Given, buffer: Buffer | None, offset: int, size: int, copies: list[tuple[Array, Array]]
) -> tuple[tuple[memoryview, ...], Part]:
    """Give a part of numbers its place in the buffer, and note what has to be copied there."""
    described = Part(part.name, part.dtype.number, part.full_shape, part.box, size)
    if not size or buffer is None:
        return (), described
    place = buffer[offset : offset + size]
    # A quantized array comes as a structured one with a single field; its numbers are what is stored.
    source = part.array[part.array.dtype.names[0]] if part.array.dtype.names else part.array
    assert part.dtype.array is not None  # what `to_array` returns can be stored
    copies.append((place.view(part.dtype.array).reshape(source.shape), source))
    return (place.data,), described


def _copy(copies: Sequence[tuple[Array, Array]]) -> None:
    """Carry out the copies; large ones in stripes on several threads, as numpy lets go of the interpreter meanwhile."""
    total = sum(to.nbytes for to, _ in copies)
    if total < _PARALLEL_BYTES or _NUM_COPIERS == 1:
        for to, source in copies:
            np.copyto(to, source, casting="equiv")
        return
    stripes = [stripe for to, source in copies for stripe in _stripes(to, source)]
    with ThreadPoolExecutor(_NUM_COPIERS, thread_name_prefix="ckptd-snapshot") as pool:
        for _ in pool.map(lambda stripe: np.copyto(stripe[0], stripe[1], casting="equiv"), stripes):
            pass


def _stripes(to: Array, source: Array) -> Iterator[tuple[Array, Array]]:
    """Cut a copy into stripes of bounded size along the first dimension that has more than one element."""
    while to.ndim and to.shape[0] == 1:
        to, source = to[0, ...], source[0, ...]
    if not to.ndim or to.nbytes <= _STRIPE_BYTES:
        yield to, source
        return
    rows = max(1, _STRIPE_BYTES // (to.nbytes // to.shape[0]))
    for at in range(0, to.shape[0], rows):
        yield to[at : at + rows], source[at : at + rows]
