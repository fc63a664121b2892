"""Import a source of tensors as a checkpoint, in bounded memory, complete or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import Clock, SystemClock
from ckptd.engine.offline.placing import Placing, spread
from ckptd.engine.reading.verify import Progress
from ckptd.errors import InvalidRequestError
from ckptd.format import crc32c
from ckptd.format.entry import Entry
from ckptd.format.index import encode_index
from ckptd.format.names import is_note, step_of, tensor_key
from ckptd.interchange.flow import Flow
from ckptd.interchange.source import Array, TensorFacts, TensorSource, unsupported
from ckptd.storage.base import ObjectWriter, Store


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import: the checkpoint, and the tensors that are in it and that are not."""

    checkpoint: Checkpoint
    imported: tuple[str, ...]
    skipped: tuple[str, ...]


def import_checkpoint(
    source: TensorSource,
    store: Store,
    key: str,
    *,
    num_shards: int = 1,
    skip_unsupported: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> Imported:
    """Write all tensors of `source` as the checkpoint `key`, in at most `num_shards` shards; durable on return.

    Raises:
        InvalidRequestError: naming the first tensor whose dtype ckptd does not have, or that has the name of one of its
            notes; or there is no tensor at all.
        ConflictError: when there is a checkpoint and `overwrite` is False.
        CorruptionError: when the source is damaged. Nothing was put in place.
    """
    if num_shards < 1:
        raise InvalidRequestError("a checkpoint has one shard at least", actual=num_shards)
    clock = clock or SystemClock()
    began_at = time.monotonic()
    taken, skipped = [], []
    for name in source.names():
        facts = source.facts(name)
        if is_note(name) and not skip_unsupported:
            raise InvalidRequestError(
                f"tensor {name!r} has a name that ckptd keeps for its own notes; rename it in the file, or leave it "
                "out with --skip-unsupported"
            )
        if facts.dtype is not None and facts.dtype.width and not is_note(name):
            tensor_key(name)
            source.check(name)
            taken.append(facts)
        elif skip_unsupported:
            skipped.append(name)
        else:
            raise unsupported(facts, "a checkpoint")
    if not taken:
        raise InvalidRequestError(f"{source.location} holds no tensor to import")
    total = sum(facts.size_bytes for facts in taken)
    flow = Flow(source, total, progress)
    entries: list[tuple[bytes, Entry]] = []
    with Placing(store, key, overwrite=overwrite) as placement:
        shards = spread([facts.size_bytes for facts in taken], num_shards)
        count = placement.choose_num_shards(len(shards))
        shards += [[]] * (count - len(shards))  # an overwrite whose number of shards is taken
        for number, tensors in enumerate([taken[at] for at in shard] for shard in shards):
            with placement.shard(number, sum(facts.size_bytes for facts in tensors)) as writer:
                entries += _fill(flow, writer, number, tensors)
        placement.commit(encode_index(count, entries))
    checkpoint = Checkpoint(
        prefix=store.location(key),
        step=step_of(key),
        size_bytes=total,
        num_shards=count,
        saved_at=clock.wall_s(),
        duration_s=time.monotonic() - began_at,
        durability=store.durability,
    )
    return Imported(checkpoint, tuple(facts.name for facts in taken), tuple(skipped))


def _fill(
    flow: Flow, writer: ObjectWriter, shard: int, tensors: Sequence[TensorFacts]
) -> Iterator[tuple[bytes, Entry]]:
    """Write one shard; yield its entries."""
    offset = 0
    for facts in tensors:
        assert facts.dtype is not None  # the others were left out
        checksum = _Checksum()
        flow.write(facts, writer, offset, checksum.take)
        entry = Entry(facts.dtype.number, facts.shape, shard, offset, facts.size_bytes, checksum.crc)
        yield tensor_key(facts.name), entry
        offset += facts.size_bytes


class _Checksum:
    """The checksum of all bytes that it receives."""

    def __init__(self) -> None:
        self.crc = 0

    def take(self, data: Array) -> None:
        """Go on with these bytes."""
        self.crc = crc32c.extend(self.crc, data.data)
