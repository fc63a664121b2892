"""The saves of one run that a host has a part in, to be looked at; see `LiveSaves` of `ckptd.engine.front`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from ckptd.agent.host_call import HostCall
from ckptd.agent.machine import AgentMachine
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import Clock
from ckptd.engine.identity import Declaration, SaveRef
from ckptd.engine.replicas import Difference
from ckptd.engine.saves.views import SaveView
from ckptd.engine.wording import describe_ranks


@dataclass(frozen=True, slots=True)
class SavesHere:
    """See the module.

    Attributes:
        calls: those under way.
        machine: of the agent.
        clock: the time.
        lock: guards both.
        awaited: returns the ranks of the run that save together on this host.
    """

    calls: Sequence[HostCall]
    machine: AgentMachine
    clock: Clock
    lock: threading.RLock
    awaited: Callable[[], Iterable[int]]

    def is_under_way(self, declaration: Declaration) -> bool:
        """See `LiveSaves`."""
        return any(call.first.prefix == declaration.prefix for call in self.calls)

    def owed_bytes(self) -> dict[str, int | None]:
        """See `LiveSaves`."""
        return {call.go.save: call.owed_bytes for call in self.calls if call.go is not None}

    def differences(self, ref: SaveRef, request_id: str) -> tuple[Difference, ...]:
        """See `LiveSaves`: the coordinator logs them."""
        return ()

    def waiting_for_plan(self, ref: SaveRef, request_id: str) -> list[str]:
        """See `LiveSaves`."""
        with self.lock:
            claims = ((call, call.claims.get(ref.rank)) for call in self.calls)
            ours = (call for call, claim in claims if claim is not None and claim.is_by(ref, request_id))
            return [what for call in ours for what in self._waits(call)]

    def waiting_for(self, save_id: str) -> list[str]:
        """See `LiveSaves`."""
        with self.lock:
            ours = (call for call in self.calls if call.go is not None and call.go.save == save_id)
            return [what for call in ours for what in self._waits(call)]

    def _waits(self, call: HostCall) -> list[str]:
        if call.request_id:
            owed = {} if call.shard is None else call.shard.debts()
            sending = [f"rank {rank}: {debt}" for rank, debt in sorted(owed.items()) if debt.owed_bytes]
            return sending or self.machine.waits_of(call.request_id, self.clock.boot_s())
        missing = call.missing(self.awaited())
        if missing:
            return [f"{describe_ranks(missing)}, on {self.machine.life.host}, to declare"]
        return ["ranks of other hosts, which have not joined yet"]

    def unattended(self) -> list[Future[Checkpoint]]:
        """See `LiveSaves`: those whose ranks have gone, and which go on."""
        return [call.outcome for call in self.calls if any(place.lost_at is not None for place in call.places.values())]

    def views(self) -> tuple[SaveView, ...]:
        """Describe them for operators, as far as they are known here."""
        with self.lock:
            return tuple(map(self._view, self.calls))

    def _view(self, call: HostCall) -> SaveView:
        save, go = call.first.save, call.go
        size_bytes = 0 if go is None else go.size_bytes
        needed = {rank for rank, claim in call.claims.items() if not claim.is_safe} if call.owed_bytes else set()
        return SaveView(
            SaveRef(call.run, save.epoch, save.step, "" if go is None else go.save, 0 if go is None else go.attempt),
            call.phase,
            size_bytes,
            size_bytes - call.owed_bytes,
            self.clock.boot_s() - call.began_at,
            tuple(self._waits(call)),
            tuple(sorted(needed.union([] if call.request_id else call.missing(self.awaited())))),
            frozenset(claim.transport for claim in call.claims.values()),
        )
