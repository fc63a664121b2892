"""The saves of one run that a host has a part in, to be looked at; see `LiveSaves` of `ckptd.engine.front`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from ckptd.agent.host_call import HostCall
from ckptd.agent.machine import AgentMachine
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import Clock
from ckptd.engine.identity import Declaration, SaveRef
from ckptd.engine.replicas import Difference


class SavesHere:
    """See the module."""

    def __init__(self, calls: Sequence[HostCall], machine: AgentMachine, clock: Clock) -> None:
        """Look at what is under way."""
        self._calls, self._machine, self._clock = calls, machine, clock

    def is_under_way(self, declaration: Declaration) -> bool:
        """See `LiveSaves`."""
        return any(call.first.prefix == declaration.prefix for call in self._calls)

    def owed_bytes(self) -> dict[str, int | None]:
        """See `LiveSaves`."""
        return {call.go.save: call.owed_bytes for call in self._calls if call.go is not None}

    def differences(self, ref: SaveRef, request_id: str) -> tuple[Difference, ...]:
        """See `LiveSaves`: the coordinator logs them."""
        return ()

    def waiting_for_plan(self, ref: SaveRef, request_id: str) -> list[str]:
        """See `LiveSaves`."""
        return self._machine.waits(self._clock.boot_s())

    def waiting_for(self, save_id: str) -> list[str]:
        """See `LiveSaves`."""
        return self._machine.waits(self._clock.boot_s())

    def unattended(self) -> list[Future[Checkpoint]]:
        """See `LiveSaves`: those whose ranks have gone, and which go on."""
        return [
            call.outcome for call in self._calls if any(place.lost_at is not None for place in call.places.values())
        ]
