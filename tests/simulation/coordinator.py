"""What the coordinator of the simulation does: the real sessions and the real catalog, in one thread."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ckptd.engine.catalog.records import Record
from ckptd.engine.hosts.messages import (
    Go,
    SaveEnded,
)
from ckptd.engine.identity import SaveRef
from ckptd.engine.lanes.elsewhere import RemoteShard
from ckptd.engine.lanes.merge import merge
from ckptd.engine.lanes.plan import plan
from ckptd.engine.saves import session as machine
from ckptd.engine.saves.committing import put_in_place
from ckptd.engine.saves.session import Phase
from ckptd.errors import CkptdError, SessionAbortedError, UnavailableError
from ckptd.storage.base import Durability
from tests.simulation.judge import NAME, RUN
from tests.simulation.reception import LiveSave, Reception, manifest_of


def digest_of(texts: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(texts).encode()).hexdigest()


class Coordinator(Reception):
    """One life of a coordinator."""

    # Events and effects

    def fail(self, live: LiveSave, reason: str) -> None:
        self.apply(live, machine.Failed(SessionAbortedError(f"step {live.step} was aborted: {reason}")))

    def apply(self, live: LiveSave, event: machine.Event) -> None:
        if live.session.is_over or self.is_dead:
            return
        live.session, effects = machine.step(live.session, event)
        for effect in effects:
            match effect:
                case machine.MakePlan():
                    self.plan(live)
                case machine.Seal(shard):
                    self.apply(live, machine.ShardSealed(shard))
                case machine.AwaitTurn():
                    self.take_turns()
                case machine.Commit():
                    self.commit(live)
                case machine.Announce():
                    self.guarded(lambda: self.catalog.retire(()))
                case machine.Drop(error):
                    self.drop(live, error)

    def num_shards(self, step: int, wanted: int) -> int:
        """Choose how many shards an attempt has: what no attempt at this step had."""
        return self.catalog.choose_num_shards(NAME, step, wanted)

    def plan(self, live: LiveSave) -> None:
        hosts = sorted(live.declarations, key=lambda host: live.declarations[host].ranks)
        calls = digest_of(live.declarations[host].request_id for host in hosts)
        try:
            record = live.record = next(iter(self.catalog.writers.waiting(NAME, live.step, calls)), None)
            there = (
                None
                if record is None
                else self.catalog.writers.revive(record, record.shard_keys[len(hosts) :], term=self.term.number)
            )
            if record is not None and there is not None:
                self.judge.num_revived += 1
                self.world.log(f"{self.name} goes on with {record.save_id}")
            else:
                record = live.record = self.draft(live, hosts, calls)
                self.catalog.begin(record)
            for key in (key for key in record.shard_keys[len(hosts) :] if key not in (there or ())):
                self.store.create(key, 0).finish()
        except CkptdError as error:
            self.apply(live, machine.Failed(SessionAbortedError(f"step {live.step} of {' '.join(hosts)}: {error}")))
            return
        self.begin_filling(live, hosts)

    def draft(self, live: LiveSave, hosts: list[str], calls: str) -> Record:
        num_shards = self.num_shards(live.step, len(hosts))
        sizes = [live.declarations[host].size_bytes for host in hosts] + [0] * (num_shards - len(hosts))
        return self.catalog.draft(
            NAME,
            live.step,
            save_id=f"{self.world.rng.getrandbits(64):016x}",
            shard_sizes=sizes,
            writers=hosts,
            layout_digest=digest_of(map(str, sizes)),
            calls=calls,
            term=self.term.number,
        )

    def begin_filling(self, live: LiveSave, hosts: list[str]) -> None:
        record = live.record
        assert record is not None
        # Each host has one rank here, and they are in the order of their ranks.
        layout = plan([manifest_of(live.declarations[host]) for host in hosts], 1, hosts=hosts)
        live.layout = replace(layout, shard_sizes=record.shard_sizes)
        for shard, host in enumerate(hosts):
            key, size = record.shard_keys[shard], record.shard_sizes[shard]
            live.shards[host] = RemoteShard(
                live.layout,
                shard,
                key,
                record.save_id,
                durability=Durability.OBJECT_STORE,
                now=lambda: self.world.now,
            )
            request_id = live.declarations[host].request_id
            live.goes[host] = Go(
                self.term.number, request_id, record.save_id, record.num_shards, shard, key, size, layout.digest
            )
        self.apply(live, machine.Planned(record.num_shards, frozenset(layout.lane_segments)))
        for host in hosts:
            self.tell(host, live.goes[host])

    def take_turns(self) -> None:
        """Let the earliest save that is under way commit, if it is sealed."""
        under_way = [each for each in self.live.values() if each.record is not None and not each.session.is_over]
        first = min(under_way, key=lambda each: each.record.sequence if each.record else 0, default=None)
        if first is not None and first.session.phase is Phase.SEALED and not first.session.committing:
            self.apply(first, machine.TurnCame())

    def commit(self, live: LiveSave) -> None:
        record, layout = live.record, live.layout
        assert record is not None
        assert layout is not None
        crcs = np.zeros(len(layout.segment_size), np.uint32)
        for shard in live.shards.values():
            crcs[shard.rows] = shard.crcs
        index = merge(layout, crcs)
        ref = SaveRef(RUN, 0, live.step, record.save_id)
        try:
            put_in_place(self.catalog, record, index, None, ref=ref, overwrite=False, duration_s=0.0)
        except CkptdError as error:
            self.not_committed(live, error)
            return
        self.apply(live, machine.Committed())
        self.apply(live, machine.Published())
        self.end(live, prefix=record.prefix)

    def not_committed(self, live: LiveSave, error: CkptdError) -> None:
        """End a save whose commit failed; what cannot be told is told as that."""
        if self.term.is_fenced or self.catalog.upkeep.is_fenced:
            self.end_fenced()
        elif isinstance(error, UnavailableError):
            live.session = machine.step(live.session, machine.CommitFailed(error))[0]
            self.end(live, reason=f"{error} (hosts {' '.join(sorted(live.declarations))})")
        else:
            self.apply(live, machine.CommitFailed(error))

    def drop(self, live: LiveSave, error: CkptdError) -> None:
        self.guarded(self.term.confirm)  # the next may go on with it, as a former life of an agent told it
        if self.is_dead:
            return
        if live.record is not None:
            record = live.record
            self.guarded(lambda: self.catalog.abandon(record))
            if self.is_dead:
                return
            if self.catalog.contents.record_of(record.save_id) is not None:
                self.end(live, prefix=record.prefix)
                return
        hosts = ", ".join(sorted(live.declarations))
        self.end(live, reason=f"{error} (hosts {hosts})", is_known=True)

    def end(self, live: LiveSave, *, prefix: str = "", reason: str = "", is_known: bool = False) -> None:
        for host, declaration in live.declarations.items():
            is_told = bool(prefix) or (is_known and declaration.is_new_in(self.term.number))
            ended = SaveEnded(self.term.number, declaration.request_id, live.save, prefix, reason, is_told)
            self.ended[declaration.request_id] = ended
            self.tell(host, ended)
        self.remove(live)

    def remove(self, live: LiveSave) -> None:
        if self.live.get(live.step) is live:
            del self.live[live.step]
        self.take_turns()
