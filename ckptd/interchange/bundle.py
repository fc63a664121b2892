"""A checkpoint as a source of streams: whole tensors, their slices joined, checked against their checksums."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ckptd.engine.reading.blocks import blocks
from ckptd.engine.reading.bundle import Bundle
from ckptd.engine.reading.checked_pieces import checked_blocks
from ckptd.format.slices import Box
from ckptd.format.stored import Piece, StoredTensor
from ckptd.interchange.source import BLOCK_BYTES, Array, TensorFacts
from ckptd.storage.base import Objects

WHOLE_BYTES = 16 << 20
"""Up to here a tensor in slices is joined in memory; above, its slices are checked first and then read in parts."""


class BundleSource:
    """Reads one checkpoint."""

    def __init__(self, objects: Objects, bundle: Bundle) -> None:
        self._objects = objects
        self._bundle = bundle
        self._facts: dict[str, TensorFacts] = {}

    @property
    def location(self) -> str:
        """The checkpoint's prefix."""
        return self._bundle.location

    def names(self) -> list[str]:
        """See `TensorSource`."""
        return self._bundle.names()

    def facts(self, name: str) -> TensorFacts:
        """See `TensorSource`."""
        if name not in self._facts:  # describing a tensor of many slices takes a while
            tensor = self._bundle.index.tensor(name)
            self._facts[name] = TensorFacts(name, tensor.dtype, tensor.dtype.name, tensor.shape)
        return self._facts[name]

    def check(self, name: str) -> None:
        """See `TensorSource`: the data files are there, and long enough."""
        tensor = self._bundle.index.tensor(name)
        for piece in tensor.pieces:
            self._bundle.check_place(tensor, piece)

    def stream(self, name: str) -> Iterator[Array]:
        """See `TensorSource`. A tensor of strings or variants comes at once, as an object array."""
        tensor = self._bundle.index.tensor(name)
        size = sum(piece.size for piece in tensor.pieces)
        if not tensor.dtype.width or (size <= WHOLE_BYTES and (tensor.is_sliced or self._bundle.index.big_endian)):
            yield self._bundle.read(name).reshape(-1)
        elif tensor.is_sliced or self._bundle.index.big_endian:
            yield from self._in_parts(tensor)
        else:
            yield from self._whole(tensor, tensor.pieces[0])

    def _whole(self, tensor: StoredTensor, piece: Piece) -> Iterator[Array]:
        """Read one stored piece from its first byte to its last."""
        self._bundle.check_place(tensor, piece)
        assert tensor.dtype.array is not None  # the index has refused others
        width = tensor.dtype.width
        buffer = np.empty(min(piece.size, BLOCK_BYTES // width * width), np.uint8)
        for _, block in checked_blocks(self._objects, self._bundle, tensor, piece, buffer.data):
            yield buffer[: len(block)].view(tensor.dtype.array)

    def _in_parts(self, tensor: StoredTensor) -> Iterator[Array]:
        """Join slices, or swap bytes, part by part: parts can't be checked, so the check comes first."""
        buffer = np.empty(BLOCK_BYTES, np.uint8)
        for piece in tensor.pieces:
            self._bundle.check_place(tensor, piece)
            for _ in checked_blocks(self._objects, self._bundle, tensor, piece, buffer.data):
                pass
        del buffer
        whole = Box.whole(tensor.shape)
        for block in blocks(tensor.shape, whole, tensor.dtype.width, WHOLE_BYTES):
            yield self._bundle.read(tensor.name, block.box).reshape(-1)
