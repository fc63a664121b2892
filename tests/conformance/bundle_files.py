"""Whole checkpoints in a directory, with nothing but `ckptd.format`: what the conformance tests read and write with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ckptd.errors import CorruptionError, NotFoundError
from ckptd.format import names, tensors
from ckptd.format.dtypes import DType
from ckptd.format.entry import Entry
from ckptd.format.index import Index, encode_index
from ckptd.format.slices import Box, TensorSlice, parse_spec
from ckptd.format.stored import StoredTensor

FIXTURES = Path(__file__).parent / "fixtures"


class BundleReader:
    """Reads any box of any tensor of one checkpoint, piece by piece."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        key = names.index_key(str(prefix))
        self.index = Index.decode(Path(key).read_bytes(), key)

    def read(self, name: str, box: Box | None = None) -> np.ndarray[Any, Any]:
        stored = self.index.tensor(name)
        box = box or Box.whole(stored.shape)
        if not stored.is_sliced:
            return (
                self._piece(stored, 0)[box.within(Box.whole(stored.shape))] if stored.shape else self._piece(stored, 0)
            )
        result = np.zeros(box.shape, stored.dtype.array)
        covered = 0
        for number, piece in enumerate(stored.pieces):
            common = piece.box.intersect(box)
            if common is not None:
                result[common.within(box)] = self._piece(stored, number)[common.within(piece.box)]
                covered += common.num_elements
        if covered != box.num_elements:
            raise NotFoundError(f"slices of {name} do not cover {box}")
        return result

    def _piece(self, stored: StoredTensor, number: int) -> np.ndarray[Any, Any]:
        piece = stored.pieces[number]
        key = names.shard_key(str(self.prefix), piece.shard_id, self.index.num_shards)
        with open(key, "rb") as file:
            # TensorFlow reads a tensor without elements from past the end, too.
            if piece.size and piece.offset + piece.size > file.seek(0, 2):
                raise CorruptionError("tensor reaches past the end of its file", key=key, offset=piece.offset)
            file.seek(piece.offset)
            data = file.read(piece.size)
        return tensors.decode(
            data,
            stored.dtype,
            piece.box.shape,
            big_endian=self.index.big_endian,
            crc32c=piece.crc32c,
            key=key,
            offset=piece.offset,
        )


class BundleWriter:
    """Writes one checkpoint: `add` puts a tensor or a slice at the end of a shard."""

    def __init__(self, prefix: Path, num_shards: int = 1) -> None:
        self.prefix = prefix
        self.shards = [bytearray() for _ in range(num_shards)]
        self.entries: dict[bytes, Entry] = {}

    def add(
        self, name: str, array: np.ndarray[Any, Any], *, shard: int = 0, spec: str = "", dtype: DType | None = None
    ) -> None:
        encoded = tensors.encode(array, dtype)
        entry = Entry(encoded.dtype.number, encoded.shape, shard, len(self.shards[shard]), encoded.size, encoded.crc32c)
        for part in encoded.parts:
            self.shards[shard] += part
        key = names.tensor_key(name)
        if spec:
            full_shape, tensor_slice = parse_spec(spec)
            if not tensor_slice.is_whole(full_shape):
                before = self.entries.get(key)
                listed = (*(before.slices if before else ()), tensor_slice)
                self.entries[key] = Entry(encoded.dtype.number, full_shape, slices=listed)
                key = tensor_slice.key(name)
        self.entries[key] = entry

    def add_boxes(self, name: str, array: np.ndarray[Any, Any], boxes: list[Box], dtype: DType | None = None) -> None:
        """Add an array cut into boxes, which go to the shards in turn."""
        for number, box in enumerate(boxes):
            part = np.ascontiguousarray(array[box.within(Box.whole(array.shape))])
            spec = " ".join([*map(str, array.shape), str(TensorSlice.of_box(box))])
            self.add(name, part, shard=number % len(self.shards), spec=spec, dtype=dtype)

    def finish(self) -> Path:
        for number, data in enumerate(self.shards):
            Path(names.shard_key(str(self.prefix), number, len(self.shards))).write_bytes(data)
        Path(names.index_key(str(self.prefix))).write_bytes(encode_index(len(self.shards), self.entries.items()))
        return self.prefix


def halves(shape: tuple[int, ...], axis: int = 0) -> list[Box]:
    """Cut a shape in two along an axis, unevenly if it is odd."""
    middle = max(1, shape[axis] // 2)
    boxes = []
    for start, stop in ((0, middle), (middle, shape[axis])):
        starts, lengths = [0] * len(shape), list(shape)
        starts[axis], lengths[axis] = start, stop - start
        boxes.append(Box(tuple(starts), tuple(lengths)))
    return boxes


def sample(dtype: DType, shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, Any]:
    """Return an array of any storable dtype whose elements take many values, each legal for the dtype."""
    random = np.random.default_rng([seed, dtype.number])
    count = math.prod(shape)
    if dtype.is_string or dtype.is_variant:
        elements = np.empty(count, object)
        elements[:] = [random.bytes(int(size)) for size in random.integers(0, 300, count)]
        return elements.reshape(shape)
    assert dtype.array is not None
    bits = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2, "bool": 1}.get(dtype.name, 8)
    data = random.integers(0, 1 << bits, count * dtype.width, np.uint8)
    return data.view(dtype.array).reshape(shape) if count else np.zeros(shape, dtype.array)
