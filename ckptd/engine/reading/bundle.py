"""Tensor or box → byte ranges → array, over any objects.

Any box of any tensor can be read, however it was sliced when it was saved and whatever its dtype. Only the bytes that a
box needs are read where that is cheaper (see `blocks`). A stored piece that is read whole is checked against its
checksum; of a piece that is read in part nothing can be checked here, because the checksum covers all of it. So a
restore reads pieces whole of which it wants a good part, see `MOST_TO_CHECK`; copies may check the others, see
`CheckingObjects`.

Everything is checked before it is used: the place of a piece is compared with the size of its data file before memory
is allocated for it, so an index of 100 bytes cannot claim 8 TiB.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.log import logger
from ckptd.engine.reading import indexes
from ckptd.engine.reading.blocks import BLOCK_BYTES, SHORT_BYTES, blocks, widen
from ckptd.engine.reading.piece_reads import Counted, Fetch, PieceRead
from ckptd.engine.reading.seen import SeenIndex
from ckptd.engine.reading.small_reads import MOST_BYTES as SMALL_BYTES
from ckptd.engine.reading.small_reads import SmallReads
from ckptd.errors import CorruptionError, InvalidRequestError, NotFoundError
from ckptd.format.dtypes import DType
from ckptd.format.foreign_files import HEAD_BYTES, hint
from ckptd.format.index import Index
from ckptd.format.names import index_key, shard_key
from ckptd.format.plain import plain_tensors
from ckptd.format.slices import Box, TensorSlice
from ckptd.format.stored import Piece, StoredTensor
from ckptd.storage.base import LayeredObjects, Objects
from ckptd.storage.capabilities import beneath
from ckptd.storage.holds import Hold, hold
from ckptd.storage.local.around_cache import LEAST_DIRECT_BYTES, UNIT_BYTES, empty_at

Array = NDArray[Any]

MOST_TO_CHECK = 4
"""A restore reads a whole piece, to check it, if it is short or at most this many times as large as the request."""

_MOST_AXES = 32  # supported by every numpy
_MANY = 64  # this many tensors are looked up together


class Wanted(NamedTuple):
    """One box of one stored tensor, and the array to fill with it, if there is one."""

    name: str
    box: Box | None = None
    into: Array | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """A request that can be met: the pieces that hold `box`, and the array that will."""

    tensor: StoredTensor
    box: Box
    pieces: list[Piece]
    out: Array


class Bundle:
    """One stored checkpoint opened for reading. Any thread may use it.

    On a local disk it holds the checkpoint (see `ckptd.storage.holds`): ckptd deletes none of its files before `close`,
    or before the last reference to the bundle is gone. That takes two descriptors.

    Attributes:
        key: the checkpoint's prefix below the objects' root.
        index: what its index says.
        progress: called with the bytes done and the total while much is read at once, from several threads; each read
            begins with 0. None: nothing is.
    """

    def __init__(self, objects: Objects, key: str, index: Index, seen: SeenIndex | None = None) -> None:
        self.key = key
        self.index = index
        self._objects = objects
        self._seen = seen
        self._holds: list[Hold] = []
        self._shard_sizes: dict[int, int] = {}
        self.progress: Callable[[int, int], None] | None = None

    @classmethod
    def open(cls, objects: Objects, key: str) -> Bundle:
        """Read and check the index of the checkpoint whose prefix is `key`.

        Raises:
            NotFoundError: when there is no index.
            CorruptionError: when it is damaged.
        """
        index = hold(objects, index_key(key))
        return cls(objects, key, indexes.decode(objects.get(index_key(key)), index_key(key))).holding(index)

    def holding(self, index: Hold | None) -> Bundle:
        """Take over a hold on the index, and hold the data as well; return the bundle.

        An index can be replaced, or be set aside, and its data is still read.
        """
        data = hold(self._objects, self.shard_key(0)) if self.index.num_shards else None
        self._holds = [each for each in (index, data) if each is not None]
        return self

    def close(self) -> None:
        """Let the checkpoint be deleted. It can still be read, for as long as it is there. May be repeated."""
        for each in self._holds:
            each.close()

    @classmethod
    def open_guarded(cls, objects: Objects, key: str) -> Bundle:
        """Do as `open`, so that `check_unchanged` can tell later whether the checkpoint is still the same."""
        held = hold(objects, index_key(key))
        seen = SeenIndex(objects, index_key(key))
        bundle = cls(objects, key, indexes.decode(seen.data, index_key(key)), seen)
        seen.data = b""
        return bundle.holding(held)

    def check_unchanged(self) -> None:
        """Raise `NotFoundError` if the checkpoint has been deleted or replaced since `open_guarded`."""
        assert self._seen is not None, "only what was opened guarded can be compared"
        self._seen.check()

    @property
    def location(self) -> str:
        """Where the checkpoint is, as people write its prefix."""
        return self._objects.location(self.key)

    def names(self) -> list[str]:
        """Return the names of the tensors, in key order."""
        return self.index.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the full shape of a tensor; `NotFoundError` if there is none of this name."""
        return self.index.tensor(name).shape

    def dtype(self, name: str) -> DType:
        """Return the dtype of a tensor; `NotFoundError` if there is none of this name."""
        return self.index.tensor(name).dtype

    def read(self, name: str, box: Box | None = None, into: Array | None = None) -> Array:
        """Read one box of a tensor, or all of it, into `into` or a new array; return that array.

        Checksums are verified for every stored piece that is read whole; for the rest use `verify`.
        A new array is C-ordered and owns its memory. After an error `into` may be partly filled.

        Raises:
            NotFoundError: no such tensor.
            InvalidRequestError: the box leaves the tensor; `into` has another shape or dtype, or is read-only.
            CorruptionError: naming file, byte and tensor.
        """
        return self.read_many([Wanted(name, box, into)])[0]

    def read_exactly(self, name: str, box: Box) -> Array:
        """Read one box, and of the stored pieces nothing but the box, although reading around it may be faster.

        Only a piece that is in the box as a whole is checked. See `read`.
        """
        return self._read_many([Wanted(name, box)], thorough=False, exactly=True)[0]

    def read_many(self, wanted: Iterable[Wanted], *, thorough: bool = False) -> list[Array]:
        """Read several boxes at once, in order; several threads share the work. See `read`.

        Where a copy in memory turns out to be wrong, everything is read again from what it was made of. `thorough`
        reads a piece whole of which a good part is wanted, to check it.
        """
        requests = list(wanted)
        try:
            return self._read_many(requests, thorough)
        except CorruptionError as error:
            if not isinstance(self._objects, LayeredObjects):
                raise
            logger.warning(
                "%s is read again from where it is stored, as its copy in memory is wrong: %s", self.key, error
            )
            self._objects = beneath(self._objects)
        return self._read_many(requests, thorough)

    def _read_many(self, requests: Sequence[Wanted], thorough: bool, exactly: bool = False) -> list[Array]:
        small = self._find_small(requests) if len(requests) >= _MANY else None
        arrays = {} if small is None else small.arrays
        found = {at: self._find(one) for at, one in enumerate(requests) if at not in arrays}
        if small is not None:
            small.carry_out()
        if found:
            counted = None
            if self.progress is not None:
                counted = Counted(sum(one.out.nbytes for one in found.values()), self.progress)
            fetch = Fetch(self._objects, self.shard_key, self.index.big_endian, counted)
            fetch.carry_out(read for one in found.values() for read in self._plan(one, thorough, exactly))
        return [arrays[at] if at in arrays else found[at].out for at in range(len(requests))]

    def shard_size(self, shard: int) -> int:
        """Return the size of a data file in bytes; requested from the store once.

        Raises:
            CorruptionError: when it is missing.
            NotFoundError: when the whole checkpoint has gone meanwhile.
        """
        known = self._shard_sizes.get(shard)
        if known is not None:
            return known
        key = self.shard_key(shard)
        try:
            size = self._objects.stat(key).size_bytes
        except NotFoundError as error:
            # Retention removes the index first: without it this is no damage, just a reader that came too late.
            self._objects.stat(index_key(self.key))
            raise CorruptionError("data file is missing", key=key) from error
        self._shard_sizes[shard] = size
        return size

    def shard_key(self, shard: int) -> str:
        """Return the key of one data file."""
        return shard_key(self.key, shard, self.index.num_shards)

    def check_place(self, tensor: StoredTensor, piece: Piece) -> None:
        """Refuse a piece that is not inside its data file; `CorruptionError` naming the tensor."""
        size = self.shard_size(piece.shard_id)
        # A piece without bytes may be anywhere; TensorFlow does not check it either.
        if piece.size and piece.offset + piece.size > size:
            head = bytearray(min(size, HEAD_BYTES))
            self._objects.read_into(self.shard_key(piece.shard_id), 0, memoryview(head))
            raise CorruptionError(
                f"tensor {tensor.name!r} reaches beyond the end of its data file{hint(bytes(head))}",
                key=self.shard_key(piece.shard_id),
                offset=piece.offset,
                expected=f"{piece.size} bytes",
                actual=f"a file of {size} bytes",
            )

    def _find_small(self, requests: Sequence[Wanted]) -> SmallReads | None:
        """Find those that are short, plain, undivided and wanted whole, into memory that is laid out like them.

        The others are left to `_find`, which refuses what is wrong.
        """
        if self.index.big_endian:
            return None
        whole = [at for at, one in enumerate(requests) if one.box is None]
        tensors = plain_tensors(self.index, [requests[at].name for at in whole])
        shards, place = np.unique(tensors.shard_id, return_inverse=True)
        fits = tensors.offset + tensors.size <= np.array(list(map(self.shard_size, shards.tolist())), np.int64)[place]
        tensors = tensors.take(np.flatnonzero(fits & (tensors.size > 0) & (tensors.size <= SMALL_BYTES)))
        rows: list[int] = []
        arrays: dict[int, Array] = {}
        for row, (number, form) in enumerate(zip(tensors.requested.tolist(), tensors.form.tolist(), strict=True)):
            at = whole[number]
            dtype, shape, _ = tensors.forms[form]
            into = requests[at].into
            if into is None:
                if len(shape) > _MOST_AXES:
                    continue
                into = np.empty(shape, dtype.array)
            elif into.shape != shape or not _is_filled_in_place(into, dtype):
                continue
            rows.append(row)
            arrays[at] = into

        def tensor_of(at: int) -> StoredTensor:
            return self.index.tensor(requests[at].name)

        taken = tensors.take(np.array(rows, np.int64))
        return SmallReads(self._objects, self.shard_key, tensor_of, taken, arrays) if arrays else None

    def _find(self, wanted: Wanted) -> _Found:
        """Find what a request needs, check that it is all there, and only then make room for it."""
        tensor = self.index.tensor(wanted.name, wanted.box)
        box = Box.whole(tensor.shape) if wanted.box is None else wanted.box
        _check_box(tensor, box)
        pieces = self._pieces(tensor, box)
        if wanted.into is not None:
            _check_into(tensor, box, wanted.into)
            return _Found(tensor, box, pieces, wanted.into)
        try:
            out = _room(tensor, box, pieces)
        except ValueError as error:
            raise InvalidRequestError(f"numpy cannot hold tensor {tensor.name!r} of shape {list(box.shape)}") from error
        return _Found(tensor, box, pieces, out)

    def _pieces(self, tensor: StoredTensor, box: Box) -> list[Piece]:
        """Return the stored pieces that hold elements of `box`, after checking that together they hold it all."""
        pieces, covered = [], 0
        taken: Counter[int] = Counter()
        for piece in tensor.pieces:
            common = piece.box.intersect(box)
            if common is None:
                continue
            self.check_place(tensor, piece)
            taken[piece.shard_id] += piece.size
            if taken[piece.shard_id] > self.shard_size(piece.shard_id):
                # Pieces of one tensor never share bytes; if they did, a small file could claim any amount of memory.
                raise CorruptionError(
                    f"slices of tensor {tensor.name!r} share bytes", key=self.shard_key(piece.shard_id)
                )
            covered += common.num_elements
            pieces.append(piece)
        if covered != box.num_elements:
            shown = "-" if not box.shape or box == Box.whole(tensor.shape) else TensorSlice.of_box(box)
            raise CorruptionError(
                f"Does not have sufficient slices for partitioned tensor {tensor.name} "
                f"to restore in slice_spec: {shown}",
                key=index_key(self.key),
            )
        return pieces

    def _plan(self, found: _Found, thorough: bool, exactly: bool) -> Iterator[PieceRead]:
        tensor, box, out = found.tensor, found.box, found.out
        width = tensor.dtype.width
        for piece in found.pieces:
            if not width:
                yield PieceRead(tensor, piece, out, box, [], is_whole=True)
                continue
            common = piece.box.intersect(box)
            assert common is not None  # `_pieces` took only those that have elements of the box
            start = tuple(n - base for n, base in zip(common.start, piece.box.start, strict=True))
            gap_bytes = 0 if exactly else self._objects.access.gap_bytes
            covering = widen(piece.box.shape, Box(start, common.shape), width, gap_bytes)
            if thorough and piece.size <= max(MOST_TO_CHECK * common.num_elements * width, SHORT_BYTES):
                covering = Box.whole(piece.box.shape)
            cut = list(blocks(piece.box.shape, covering, width, BLOCK_BYTES))
            yield PieceRead(tensor, piece, out, box, cut, is_whole=covering.shape == piece.box.shape)


def _is_filled_in_place(into: Array, dtype: DType) -> bool:
    """Say whether stored bytes can be read straight into an array; if not, it is refused later, or copied to."""
    return into.dtype == dtype.array and into.flags.c_contiguous and into.flags.writeable


def _room(tensor: StoredTensor, box: Box, pieces: list[Piece]) -> Array:
    """Return a new array for `box`; a large one lies to the pages of memory as its first piece does to the file's.

    Then its bytes can come straight from the disk, around the page cache. `ValueError` if numpy cannot hold it.
    """
    dtype = tensor.dtype
    size = box.num_elements * dtype.width
    common = pieces[0].box.intersect(box) if size >= LEAST_DIRECT_BYTES else None
    if common is not None and dtype.array is not None:
        in_file = pieces[0].offset + _position(common, pieces[0].box) * dtype.width
        phase = (in_file - _position(common, box) * dtype.width) % UNIT_BYTES
        if phase % dtype.array.alignment == 0:
            return empty_at(size, phase).view(dtype.array).reshape(box.shape)
    return np.empty(box.shape, dtype.array)


def _position(box: Box, outer: Box) -> int:
    """Return how many elements of `outer` come before the first of `box`, which is inside."""
    position = 0
    for start, base, length in zip(box.start, outer.start, outer.shape, strict=True):
        position = position * length + start - base
    return position


def _check_box(tensor: StoredTensor, box: Box) -> None:
    shown = ",".join(map(str, tensor.shape))
    if len(box.start) != len(tensor.shape) or len(box.shape) != len(tensor.shape):
        raise InvalidRequestError(f"tensor {tensor.name!r}: Mismatching ranks: shape = [{shown}], slice = {box}")
    for axis, (start, length, size) in enumerate(zip(box.start, box.shape, tensor.shape, strict=True)):
        if start < 0 or length < 0 or start + length > size:
            raise InvalidRequestError(
                f"tensor {tensor.name!r}: Extent in dimension {axis} out of bounds: shape = [{shown}], slice = {box}"
            )


def _check_into(tensor: StoredTensor, box: Box, into: Array) -> None:
    if tuple(into.shape) != box.shape:
        raise InvalidRequestError(
            f"the array given for tensor {tensor.name!r} has another shape",
            expected=list(box.shape),
            actual=list(into.shape),
        )
    stored = tensor.dtype.array
    if stored is None or into.dtype.newbyteorder("=") != stored.newbyteorder("="):
        raise InvalidRequestError(
            f"the array given for tensor {tensor.name!r} of shape {list(box.shape)} has another dtype",
            expected=tensor.dtype.name,
            actual=str(into.dtype),
        )
    if not into.flags.writeable:
        raise InvalidRequestError(f"the array given for tensor {tensor.name!r} is read-only")
