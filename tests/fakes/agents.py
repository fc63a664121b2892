"""Agents of several hosts over a coordinator in this process: each declares for its ranks and writes its shard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.hosts.messages import AgentLife, Receipt
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.lanes.filled_shard import FilledShard
from ckptd.engine.lanes.plan import plan
from ckptd.engine.layout import Assignment
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.format.names import shard_key
from ckptd.storage.base import Lock
from ckptd.storage.memory import MemoryStore
from tests.fakes.ranks import Ranks

RUN = "runs/r"
WAIT_S = 60.0


class SharedBucket:
    """A bucket in memory, in which a lock keeps nobody out: several owners may use it, as from several hosts."""

    def __init__(self, wall_s: Callable[[], float]) -> None:
        self._inner = MemoryStore(has_locks=False, verifies_writes=True, wall_s=wall_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def lock(self, key: str, **how: Any) -> Lock:
        return MemoryStore("elsewhere", has_locks=False).lock(key, **how)


class HostJob:
    """The ranks of several hosts, and an agent on each, in its first life. Agents write to `store`."""

    def __init__(self, coordinator: Coordinator, ranks: Ranks, hosts: list[str], store: Any = None) -> None:
        self.coordinator, self.ranks, self.hosts = coordinator, ranks, hosts
        self.store = store or coordinator.store
        self.lives = {host: AgentLife(host, f"{host}-1") for host in hosts}
        coordinator.agents.is_present = lambda life: self.lives.get(life.host) == life
        self.members = [Member(rank, len(hosts), f"r{rank}", host) for rank, host in enumerate(hosts)]
        for member in self.members:
            self.epoch = coordinator.join(RUN, member, RunOptions())

    def declare(
        self, step: int, *, attempt: int = 1, is_repeated: bool = False, call: int = 0, ranks: Sequence[int] = ()
    ) -> list[Future[Assignment | Checkpoint]]:
        declared = []
        for member, manifest in zip(self.members, self.ranks.manifests, strict=True):
            if ranks and member.rank not in ranks:
                continue
            self.coordinator.manifests.add(manifest)
            ref = SaveRef(RUN, self.epoch, step, rank=member.rank, incarnation=member.incarnation)
            declaration = Declaration(
                ref,
                f"q{step}.{attempt}.{member.rank}",
                len(self.hosts),
                manifest.digest,
                host=member.host,
                is_repeated=is_repeated,
                call=call,
            )
            declared.append(self.coordinator.declare(declaration))
        return declared

    def planned(self, step: int) -> Assignment:
        planned = self.declare(step)[0].result(WAIT_S)
        assert isinstance(planned, Assignment)
        return planned

    def ranks_of(self, host: str) -> list[int]:
        return [rank for rank, each in enumerate(self.hosts) if each == host]

    def send(self, planned: Assignment, shard: int) -> None:
        """Let the ranks that have bytes for a shard of the coordinator's own send them there."""
        layout = plan(self.ranks.manifests, 1, hosts=self.hosts)
        for rank in layout.senders_of[shard]:
            ref = replace(planned.save, rank=rank, incarnation=self.members[rank].incarnation)
            self.ranks.fill(layout, [self.coordinator.lane(ref, shard)])

    def write(self, planned: Assignment, host: str) -> Receipt:
        """Write a host's shard, and return its receipt, which is not given yet."""
        store = self.store
        share = self.coordinator.agents.share(planned.save, host)
        key = shard_key(planned.key, share.shard, planned.num_shards)
        writer = store.create(key, share.layout.shard_sizes[share.shard])
        filled = FilledShard(
            share.layout, share.shard, writer, now=lambda: 0.0, on_end=lambda *_: None, on_failure=lambda _: None
        )
        filled.begin()
        self.ranks.fill(share.layout, filled.lanes.values())
        assert filled.finish()
        return Receipt(
            planned.save.save_id,
            self.lives[host],
            share.shard,
            key,
            writer.size_bytes,
            store.stat(key).version,
            store.durability,
            np.asarray(filled.crcs, "<u4").tobytes(),
        )
