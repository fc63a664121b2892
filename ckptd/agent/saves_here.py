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
from ckptd.engine.lanes.shard import furthest_behind
from ckptd.engine.replicas import Difference
from ckptd.engine.saves.views import SaveProgress, SaveView
from ckptd.engine.wording import describe_ranks


@dataclass(frozen=True, slots=True)
class SavesHere:
    """See the module.

    Attributes:
        calls: returns those under way.
        machine: of the agent.
        clock: the time.
        lock: guards both.
        connected: returns the ranks of the run that are connected on this host.
    """

    calls: Callable[[], Sequence[HostCall]]
    machine: AgentMachine
    clock: Clock
    lock: threading.RLock
    connected: Callable[[], Iterable[int]]

    def is_under_way(self, declaration: Declaration) -> bool:
        """See `LiveSaves`."""
        return any(call.first.prefix == declaration.prefix for call in self.calls())

    def owed_bytes(self) -> dict[str, int | None]:
        """See `LiveSaves`."""
        with self.lock:
            return {
                f"{call.first.prefix}, not planned" if call.go is None else call.go.save: None
                if call.go is None
                else call.owed_bytes
                for call in self.calls()
            }

    def differences(self, ref: SaveRef, request_id: str) -> tuple[Difference, ...]:
        """See `LiveSaves`: the coordinator logs them."""
        return ()

    def waiting_for_plan(self, ref: SaveRef, request_id: str) -> list[str]:
        """See `LiveSaves`."""
        with self.lock:
            claims = ((call, call.claims.get(ref.rank)) for call in self.calls())
            ours = (call for call, claim in claims if claim is not None and claim.is_by(ref, request_id))
            return [what for call in ours for what in self._waits(call)]

    def waiting_for(self, save_id: str) -> list[str]:
        """See `LiveSaves`."""
        with self.lock:
            ours = (call for call in self.calls() if call.go is not None and call.go.save == save_id)
            return [what for call in ours for what in self._waits(call)]

    def progress(self, save_id: str) -> SaveProgress | None:
        """See `LiveSaves`: of the ranks of this host."""
        with self.lock:
            call = next((each for each in self.calls() if each.go is not None and each.go.save == save_id), None)
            if call is None:
                return None
            debts = call.debts()
            total = sum(debt.total_bytes for debt in debts.values())
            owed = sum(debt.owed_bytes for debt in debts.values())
            return SaveProgress(total - owed, total, furthest_behind(debts))

    def _waits(self, call: HostCall) -> list[str]:
        owed = call.debts()
        sending = [f"rank {rank}: {debt}" for rank, debt in sorted(owed.items()) if debt.owed_bytes]
        if sending:
            return sending
        if missing := self._missing(call):
            ranks = describe_ranks(missing, call.first.world_size)
            return [f"{ranks} to declare, on {self.machine.life.host}"]
        if call.go is None and call.why_not_yet:
            return [f"the coordinator, which does not take it yet: {call.why_not_yet}"]
        return self.machine.waits_of(call.request_id, self.clock.boot_s())

    def _missing(self, call: HostCall) -> list[int]:
        """Return the ranks of this host that have not declared the save that a call is a part of."""
        if call.go is not None:
            return []
        alike = (each for each in self.calls() if each.first.prefix == call.first.prefix)
        declared = {rank for each in alike for rank in each.claims}
        return sorted(set(self.connected()) - declared)

    def unattended(self) -> list[Future[Checkpoint]]:
        """See `LiveSaves`: those whose ranks have gone, and which go on."""
        return [
            call.outcome for call in self.calls() if any(place.lost_at is not None for place in call.places.values())
        ]

    def views(self) -> tuple[SaveView, ...]:
        """Describe them for operators, as far as they are known here."""
        with self.lock:
            return tuple(map(self._view, self.calls()))

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
            tuple(sorted(needed.union(self._missing(call)))),
            frozenset(claim.transport for claim in call.claims.values()),
        )
