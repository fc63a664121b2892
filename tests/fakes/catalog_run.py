"""A run whose saves, restarts and files a test of the catalog drives in a line each."""

from __future__ import annotations

from collections.abc import Sequence

from ckptd.engine.catalog.catalog import Catalog
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.recovery import Recovery
from ckptd.engine.catalog.retention import RetentionPolicy, Rule
from ckptd.engine.checkpoint import Checkpoint
from ckptd.storage.memory import MemoryStore
from tests.fakes.clock import HandClock
from tests.fakes.small_checkpoint import index_bytes, shard_bytes


class Run:
    """One life of a coordinator over a run that may have had others."""

    def __init__(
        self,
        store: MemoryStore,
        clock: HandClock,
        *,
        max_to_keep: int | None = 2,
        hours: float | None = 10000.0,
        rule: Rule = Rule.SAVER,
        **options: object,
    ) -> None:
        self.store = store
        self.clock = clock
        policy = RetentionPolicy(max_to_keep, hours, rule)
        self.catalog = Catalog(store, "run", clock=clock, policy=policy, **options)  # type: ignore[arg-type]
        self.recovery: Recovery = self.catalog.upkeep.recover()

    def begin(
        self,
        step: int | None,
        seed: int = 0,
        *,
        shards: int = 2,
        name: str = "m",
        meta: bool = False,
        keeps_replaced: bool = False,
        writers: Sequence[str] = (),
    ) -> Record:
        count = self.catalog.choose_num_shards(name, step, shards)
        sizes = [len(shard_bytes(seed or step or 0, shard)) for shard in range(count)]
        save_id = f"{step}-{seed}-{count}"
        record = self.catalog.draft(
            name,
            step,
            save_id=save_id,
            shard_sizes=sizes,
            meta_graph=meta,
            epoch=4,
            keeps_replaced=keeps_replaced,
            writers=writers,
        )
        self.catalog.begin(record)
        for shard, key in enumerate(record.shard_keys):
            self.store.put(key, shard_bytes(seed or step or 0, shard))
        return record

    def commit(self, record: Record, seed: int = 0, **options: object) -> Checkpoint:
        index = index_bytes(seed or record.step or 0, record.num_shards)
        return self.catalog.commit(record, index, **options)  # type: ignore[arg-type]

    def save(
        self,
        *steps: int,
        seed: int = 0,
        overwrite: bool = False,
        keeps_replaced: bool = False,
        graph: bytes | None = None,
    ) -> Checkpoint:
        for step in steps:
            self.clock.advance(10)
            record = self.begin(step, seed, keeps_replaced=keeps_replaced, meta=graph is not None)
            done = self.commit(record, seed, overwrite=overwrite, meta_graph=graph)
            self.catalog.retire()
        return done

    def steps(self) -> list[int | None]:
        return [checkpoint.step for checkpoint in self.catalog.contents.checkpoints()]

    def files(self) -> dict[str, bytes]:
        return {each.key: self.store.get(each.key) for each in self.store.list("")}


def again(run: Run, **options: object) -> Run:
    return Run(run.store, run.clock, **options)  # type: ignore[arg-type]
