"""Copy a checkpoint elsewhere, perhaps into another number of shards.

The stored bytes move as they are, whatever their byte order and dtype, and so do their checksums: nothing is encoded
again. Every piece is compared with its checksum on its way, and a copy whose source is damaged is never committed.
Memory is bounded by one block, except for strings and variants, of which one piece at a time is held: their checksums
cover what the bytes mean.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ckptd.engine.catalog.commit import OnStep, ignore_step
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import Clock, SystemClock
from ckptd.engine.offline.placing import Placing, announce, read_meta, spread
from ckptd.engine.reading import indexes
from ckptd.engine.reading.blocks import BLOCK_BYTES
from ckptd.engine.reading.bundle import Bundle
from ckptd.engine.reading.checked_pieces import checked_blocks
from ckptd.engine.reading.verify import Progress
from ckptd.errors import CkptdError, CorruptionError, InvalidRequestError
from ckptd.format import table
from ckptd.format.bundle_pb2 import BundleEntryProto, BundleHeaderProto
from ckptd.format.index import HEADER_KEY, Index
from ckptd.format.names import index_key, step_of
from ckptd.format.stored import Piece, StoredTensor
from ckptd.storage.base import Objects, ObjectWriter, Store
from ckptd.storage.holds import hold


@dataclass(frozen=True, slots=True)
class Move:
    """One stored piece and where it goes: a shard and an offset in it."""

    tensor: StoredTensor
    piece: Piece
    shard: int
    offset: int


def copy_checkpoint(
    source: Objects,
    source_key: str,
    store: Store,
    key: str,
    *,
    num_shards: int | None = None,
    overwrite: bool = False,
    publish: bool = False,
    progress: Progress | None = None,
    clock: Clock | None = None,
    on_step: OnStep = ignore_step,
) -> Checkpoint:
    """Copy the checkpoint `source_key` of `source` to `key` of `store`; complete and durable on return.

    Without `num_shards` the files are the same, byte for byte; with it the pieces are laid out again in at most
    that many shards, and none is cut. The graph description is copied, too. An overwrite chooses a number of shards
    that the replaced checkpoint does not have, so that one of both is whole at any time.

    Args:
        source: where it is.
        source_key: its prefix there.
        store: where it goes.
        key: its prefix there.
        num_shards: how many shards the copy should have at most.
        overwrite: replace a checkpoint that is there.
        publish: let the state file beside the copy name it as the latest.
        progress: called with the number of bytes.
        clock: wall time for the state file and the result.
        on_step: called before each durable step with its name; for tests.

    Raises:
        NotFoundError: when there is no such checkpoint.
        ConflictError: when there is one at the destination and `overwrite` is False.
        CorruptionError: when a piece does not have the checksum that the index says. Nothing was put in place.
        InvalidRequestError: when source and destination are the same.
    """
    if num_shards is not None and num_shards < 1:
        raise InvalidRequestError("a checkpoint has one shard at least", actual=num_shards)
    if source.location(source_key) == store.location(key):
        raise InvalidRequestError("a checkpoint cannot be copied onto itself", key=store.location(key))
    clock = clock or SystemClock()
    began_at = time.monotonic()
    held = hold(source, index_key(source_key))
    index_bytes = source.get(index_key(source_key))
    bundle = Bundle(source, source_key, indexes.decode(index_bytes, index_key(source_key))).holding(held)
    pieces = _pieces(bundle)
    with Placing(store, key, overwrite=overwrite, on_step=on_step) as placement:
        as_it_is = num_shards is None
        layout = _as_stored(bundle, pieces) if num_shards is None else _laid_out(pieces, num_shards)
        count = placement.choose_num_shards(len(layout))
        if count != len(layout):
            # An overwrite whose number of shards is taken: the last ones stay empty.
            layout = [*layout, *([_Shard((), 0)] * (count - len(layout)))]
            as_it_is = False
        transfer = _Transfer(source, bundle, sum(shard.size_bytes for shard in layout), progress)
        for number, shard in enumerate(layout):
            with placement.shard(number, shard.size_bytes) as writer:
                transfer.carry_out(shard, writer)
        index = index_bytes if as_it_is else _index(bundle.index, layout)
        placement.commit(index, read_meta(source, source_key))
    saved_at = clock.wall_s()
    if publish:
        try:
            announce(store, key, saved_at)
        except CkptdError as error:
            error.add_note("the copy is complete; only the state file does not name it")
            raise
    return Checkpoint(
        prefix=store.location(key),
        step=step_of(key),
        size_bytes=sum(shard.size_bytes for shard in layout),
        num_shards=len(layout),
        saved_at=saved_at,
        duration_s=time.monotonic() - began_at,
        durability=store.durability,
    )


@dataclass(frozen=True, slots=True)
class _Shard:
    """One data file of the copy: its pieces by offset, and, when it is copied whole, the number of its source."""

    moves: tuple[Move, ...]
    size_bytes: int
    whole_of: int | None = None


def _pieces(bundle: Bundle) -> list[tuple[StoredTensor, Piece]]:
    """Return everything stored, in the order in which it is in the data files, after checking where that is."""
    found = []
    for name in bundle.names():
        tensor = bundle.index.tensor(name)
        for piece in tensor.pieces:
            bundle.check_place(tensor, piece)
            found.append((tensor, piece))
    found.sort(key=lambda one: (one[1].shard_id, one[1].offset, one[1].size))
    return found


def _as_stored(bundle: Bundle, pieces: Sequence[tuple[StoredTensor, Piece]]) -> list[_Shard]:
    moves: list[list[Move]] = [[] for _ in range(bundle.index.num_shards)]
    for tensor, piece in pieces:
        moves[piece.shard_id].append(Move(tensor, piece, piece.shard_id, piece.offset))
    return [_Shard(tuple(own), bundle.shard_size(shard), whole_of=shard) for shard, own in enumerate(moves)]


def _laid_out(pieces: Sequence[tuple[StoredTensor, Piece]], num_shards: int) -> list[_Shard]:
    """Lay the pieces out in shards of about equal bytes, each with at least one piece."""
    shards = []
    for number, run in enumerate(spread([piece.size for _, piece in pieces], num_shards)):
        moves, offset = [], 0
        for tensor, piece in (pieces[at] for at in run):
            moves.append(Move(tensor, piece, number, offset))
            offset += piece.size
        shards.append(_Shard(tuple(moves), offset))
    return shards


def _index(index: Index, layout: Sequence[_Shard]) -> bytes:
    """Return the index with every piece where it is now, everything else in it unchanged."""
    places = {move.piece.key: move for shard in layout for move in shard.moves}
    items: list[tuple[bytes, bytes]] = []
    for key, value in index.raw_items():
        if key == HEADER_KEY:
            header = BundleHeaderProto()
            header.ParseFromString(value)
            header.num_shards = len(layout)
            items.append((key, header.SerializeToString(deterministic=True)))
            continue
        entry = BundleEntryProto()
        entry.ParseFromString(value)
        move = places.get(key)
        # The full entry of a sliced tensor has no place of its own.
        entry.shard_id, entry.offset = (0, 0) if move is None else (move.shard, move.offset)
        items.append((key, entry.SerializeToString(deterministic=True)))
    return table.encode_table(items)


class _Transfer:
    """Moves bytes through one buffer, and compares checksums while they pass."""

    def __init__(self, source: Objects, bundle: Bundle, total_bytes: int, progress: Progress | None) -> None:
        self._source = source
        self._bundle = bundle
        self._buffer = memoryview(bytearray(BLOCK_BYTES))
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._progress = progress

    def carry_out(self, shard: _Shard, writer: ObjectWriter) -> None:
        """Fill one shard of the copy."""
        at = 0
        for move in shard.moves:
            if shard.whole_of is None or not move.piece.size:
                self._move(move, writer)  # the offset of a piece without bytes may be anything
                continue
            # A data file may hold what belongs to no tensor, and tensors may share bytes.
            self._copy_bytes(shard.whole_of, at, move.offset, writer)
            self._move(move, writer if move.offset >= at else None)
            if move.offset < at < move.offset + move.piece.size:
                self._copy_bytes(shard.whole_of, at, move.offset + move.piece.size, writer)
            at = max(at, move.offset + move.piece.size)
        if shard.whole_of is not None:
            self._copy_bytes(shard.whole_of, at, shard.size_bytes, writer)

    def _move(self, move: Move, writer: ObjectWriter | None) -> None:
        """Check one piece and write it; without a writer only check it."""
        try:
            for at, block in checked_blocks(self._source, self._bundle, move.tensor, move.piece, self._buffer):
                self._write(writer, move.offset + at, block)
        except CorruptionError as error:
            where = "" if error.tensor is not None else f"in tensor {move.tensor.name!r}; "
            error.add_note(f"{where}nothing was copied")
            raise

    def _copy_bytes(self, shard: int, start: int, stop: int, writer: ObjectWriter) -> None:
        for at, block in self._blocks(self._bundle.shard_key(shard), start, stop):
            self._write(writer, at, block)

    def _blocks(self, key: str, start: int, stop: int) -> Iterator[tuple[int, memoryview]]:
        """Yield stretches of an object and where they begin; each is valid until the next."""
        for at in range(start, stop, BLOCK_BYTES):
            block = self._buffer[: min(BLOCK_BYTES, stop - at)]
            self._source.read_into(key, at, block)
            yield at, block

    def _write(self, writer: ObjectWriter | None, offset: int, data: memoryview) -> None:
        if writer is None:
            return
        writer.write(offset, data)
        self._done_bytes += len(data)
        if self._progress is not None:
            self._progress(self._done_bytes, self._total_bytes)
