"""What a save writes: decided once every rank has declared, and noted in the catalog before the first byte.

The ranks' tensors give the layout, which equal saves share. What several ranks hold is compared first.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ckptd.engine import replicas
from ckptd.engine.catalog.records import Record
from ckptd.engine.identity import Declaration, SaveRef
from ckptd.engine.lanes.elsewhere import RemoteShard
from ckptd.engine.lanes.filled_shard import FilledShard
from ckptd.engine.lanes.host_share import crossing_bytes
from ckptd.engine.lanes.merge import merge
from ckptd.engine.lanes.shard import Debt, Shard
from ckptd.engine.layout import Assignment, Lane, LaneTransport, Layout
from ckptd.engine.log import log_crossing, log_differences, logger
from ckptd.engine.replicas import Difference
from ckptd.engine.saves.claim import Claim
from ckptd.engine.saves.surroundings import Surroundings
from ckptd.errors import CkptdError
from ckptd.format.crc32c import crc32c
from ckptd.storage.base import Buffer, ObjectStat, ObjectWriter, Store
from ckptd.storage.capabilities import ReservingStore
from ckptd.storage.limited import limited


class EmptyInPlace:
    """Writes an empty shard that is there already."""

    size_bytes = 0

    def __init__(self, store: Store, key: str) -> None:
        """See the class."""
        self.key, self._store = key, store

    def write(self, offset: int, data: Buffer) -> None:
        """There is nothing to write."""

    def finish(self) -> ObjectStat:
        """Return what is there."""
        return self._store.stat(self.key)

    def abort(self) -> None:
        """What is there goes with the save."""


class Plan:
    """The plan of one save. It is filled in step by step: if the save fails halfway, `remove` removes what exists.

    One thread at a time works on it; shards may be used by several.

    Attributes:
        layout: which bytes go to which shard.
        differences: between ranks, of what should be the same.
        crossing_bytes: how many go from a rank of one host to the shard of another.
        record: what the catalog notes about the save, from before its shards are there.
        shards: all of them, once they are there.
        index_crc32c: checksum of the index, once that was made.
    """

    def __init__(self, run: Surroundings) -> None:
        """Begin without a plan."""
        self.layout: Layout | None = None
        self.differences: tuple[Difference, ...] = ()
        self.record: Record | None = None
        self.crossing_bytes = 0
        self.shards: Sequence[Shard] = ()
        self.index_crc32c: int | None = None
        self._run = run
        self._begun: list[Shard] = []
        self._there: frozenset[str] = frozenset()  # empty shards that a former life of the coordinator has written
        self._calls = ""  # where other hosts write: a digest of the calls of `save` on all ranks

    def lay_out(self, ref: SaveRef, claims: Sequence[Claim]) -> Layout:
        """Lay out what the ranks save, after checking that what several of them hold is the same on all.

        Args:
            ref: the save.
            claims: of all ranks, in their order.

        Raises:
            InvalidRequestError: ranks differ, and one of them refuses that.
        """
        manifests = tuple(claim.manifest for claim in claims if claim.manifest is not None)
        hosts = tuple(claim.host for claim in claims) if any(claim.host for claim in claims) else ()
        layout = self._run.layouts.of(manifests, hosts=hosts)
        compared = {rank: claim.compared for rank, claim in enumerate(claims) if claim.compared is not None}
        remarks = {rank: claim.remarks for rank, claim in enumerate(claims) if claim.remarks}
        of_tensors = replicas.differences(layout, compared)
        self.differences = of_tensors + replicas.remarked(remarks, frozenset(layout.names) if remarks else ())
        if self.differences and any(claim.refuses_differences for claim in claims):
            raise replicas.refusal(self.differences)
        if self.differences:
            log_differences(ref, self.differences)
        if of_tensors:
            layout = self._run.layouts.of(manifests, frozenset(each.name for each in of_tensors), hosts)
        self.crossing_bytes = crossing_bytes(layout, hosts) if hosts else 0
        if self.crossing_bytes:
            log_crossing(ref, self.crossing_bytes, layout.size_bytes)
        return layout

    def revive(
        self, ref: SaveRef, first: Declaration, layout: Layout, claims: Sequence[Claim], meta_suffix: str | None
    ) -> Record | None:
        """Go on with what a former life of the coordinator noted for these very calls; None if there is nothing.

        It had told the agents what to write. They have declared again, and give their receipts again: what they have
        written is not written again.

        Args:
            ref: the save.
            first: the declaration that began it.
            layout: as `lay_out` returned it.
            claims: of all ranks, in their order.
            meta_suffix: what the name of the ``.meta`` object ends in; None for none.
        """
        if not layout.shard_hosts:
            return None
        self._calls = _calls_of(claims)
        stored = self._run.stored
        with stored.lock:
            waiting = stored.catalog.writers.waiting(first.name, ref.step, self._calls)
            alike = (each for each in waiting if _is_of(each, layout) and each.meta_suffix == (meta_suffix or "meta"))
            record = next(alike, None)
            if record is None:
                if waiting:
                    logger.warning("%s is planned otherwise than by the coordinator before, and begins anew", ref)
                return None
            own = [key for shard, key in enumerate(record.shard_keys) if not layout.host_of(shard)]
            there = stored.catalog.writers.revive(record, own, term=self._run.term())
            if there is None:
                logger.info("%s begins anew: the coordinator before had written a part of it, or aborted it", ref)
                return None
            self._there = there
        self.record = record
        return record

    def begin(
        self,
        ref: SaveRef,
        first: Declaration,
        layout: Layout,
        meta_suffix: str | None,
        *,
        number: int,
        on_end: Callable[[int, int], None],
        on_failure: Callable[[CkptdError], None],
    ) -> None:
        """Note the save in the catalog, unless it was revived, then create its shards.

        Args:
            ref: the save, with its id and attempt.
            first: the declaration that began it.
            layout: as `lay_out` returned it.
            meta_suffix: as for `revive`.
            number: its place among the saves of the run, given when it began: saves are planned side by side.
            on_end: called with rank and shard when all that the rank owes the shard has come.
            on_failure: called with what makes the save impossible.

        Raises:
            StorageFullError, UnavailableError: it is more than may be stored, or be under way, of this run.
        """
        reserves = self._run.admit(ref, sum(layout.shard_sizes))
        record = self.record or self._note(ref, first, layout, meta_suffix, number)
        # A key that an earlier attempt left behind is never written again: there are empty shards instead.
        padded = record.num_shards > layout.num_shards
        self.layout = layout = replace(layout, shard_sizes=record.shard_sizes) if padded else layout
        now = self._run.clock.boot_s
        for shard, (key, size) in enumerate(zip(record.shard_keys, record.shard_sizes, strict=True)):
            if layout.host_of(shard):
                durability = self._run.store.durability
                self._begun.append(RemoteShard(layout, shard, key, ref.save_id, durability=durability, now=now))
                continue
            made = (
                EmptyInPlace(self._run.store, key) if key in self._there else self._create(key, size, reserves=reserves)
            )
            writer = limited(made, self._run.settings.write_limit)
            filled = FilledShard(layout, shard, writer, now=now, on_end=on_end, on_failure=on_failure)
            self._begun.append(filled)
            filled.begin()
        self.shards = tuple(self._begun)

    def _note(self, ref: SaveRef, first: Declaration, layout: Layout, meta_suffix: str | None, number: int) -> Record:
        """Note a save that begins, before its first byte."""
        stored = self._run.stored
        writers = sorted({layout.host_of(shard) for shard in range(layout.num_shards)} - {""})
        with stored.lock:
            num_shards = stored.catalog.choose_num_shards(first.name, ref.step, layout.num_shards)
            self.record = stored.catalog.draft(
                first.name,
                ref.step,
                save_id=ref.save_id,
                shard_sizes=[*layout.shard_sizes, *[0] * (num_shards - layout.num_shards)],
                attempt=ref.attempt,
                epoch=ref.epoch,
                meta_graph=meta_suffix is not None,
                meta_suffix="meta" if meta_suffix is None else meta_suffix,
                write_state=first.write_state,
                keeps_replaced=first.append_only,
                writers=writers,
                layout_digest=layout.digest.hex() if writers else "",
                calls=self._calls if writers else "",
                term=self._run.term() if writers else 0,
                sequence=number,
            )
            stored.catalog.begin(self.record)
        return self.record

    def _create(self, key: str, size_bytes: int, *, reserves: bool) -> ObjectWriter:
        store = self._run.store
        if not reserves and isinstance(store, ReservingStore):
            return store.create_unreserved(key, size_bytes)
        return store.create(key, size_bytes)

    def assignment(self, ref: SaveRef, transport: LaneTransport, *, sends: bool) -> Assignment:
        """Return what `ref.rank` has to send, and where; nothing unless it `sends`: else its host's agent writes it."""
        assert self.layout is not None
        assert self.record is not None
        layout, lanes = self.layout, []
        for shard in layout.shards_of.get(ref.rank, ()) if sends else ():
            rows = layout.lane_segments[ref.rank, shard]
            lanes.append(
                Lane(
                    shard=shard,
                    key=self.shards[shard].key,
                    writers=self._run.writers(layout.host_of(shard)),
                    transport=transport,
                    size_bytes=int(layout.segment_size[rows].sum()),
                    items=layout.segment_item[rows],
                    item_offsets=layout.segment_item_offset[rows],
                    sizes=layout.segment_size[rows],
                )
            )
        return Assignment(ref, self.record.prefix_key, layout.num_shards, tuple(lanes))

    def index(self) -> bytes:
        """Return the index of a save that no rank owes anything."""
        assert self.layout is not None
        crcs = np.zeros(len(self.layout.segment_size), np.uint32)
        for shard in self.shards:
            crcs[shard.rows] = shard.crcs
        index = merge(self.layout, crcs)
        self.index_crc32c = crc32c(index)
        return index

    def remove(self, error: CkptdError) -> None:
        """Remove what was written, and the record, because of `error`; what can't be undone any more is completed."""
        for shard in self._begun:
            shard.close(error)
        for shard in self._begun:
            shard.abort()
        if self.record is not None:
            stored = self._run.stored
            with stored.lock:
                stored.catalog.abandon(self.record)
                stored.look()  # what could not be undone has been completed

    def progress(self) -> tuple[int, int]:
        """Return how many bytes of the save have arrived, and of how many; 0 of 0 before its shards are there."""
        debts = [debt for shard in self.shards for debt in shard.debts().values()]
        total = sum(debt.total_bytes for debt in debts)
        return total - sum(debt.owed_bytes for debt in debts), total

    def debts(self) -> dict[int, Debt]:
        """Return what each rank with bytes has still to send, over all shards; {} before they are there."""
        debts: dict[int, Debt] = {}
        for shard in self.shards:
            for rank, debt in shard.debts().items():
                before = debts.get(rank)
                debts[rank] = debt if before is None else before.plus(debt)
        return debts

    def forget(self) -> None:
        """Free what is large, as ended saves are remembered for a while."""
        self.layout, self.shards, self._begun = None, (), []


def _calls_of(claims: Sequence[Claim]) -> str:
    """Return a digest of the calls of `save` on all ranks: by it a save that was begun for them is known again.

    A rank that has called `save` again since, perhaps with other values, gives another one.
    """
    digest = hashlib.sha256(b"ckptd calls 1\0")
    for claim in claims:
        for word in (claim.request_id.encode(), claim.host.encode("utf-8", "surrogateescape"), claim.digest):
            digest.update(struct.pack("<q", len(word)) + word)
    return digest.hexdigest()


def _is_of(record: Record, layout: Layout) -> bool:
    sizes, padding = record.shard_sizes[: layout.num_shards], record.shard_sizes[layout.num_shards :]
    return record.layout_digest == layout.digest.hex() and sizes == layout.shard_sizes and not any(padding)
