"""What each host owes to one save, and why the save cannot go on when a host does not come back. Pure.

A part is sealed by a receipt. A receipt counts only if it comes from the present life of the host's agent, for the
shard that this host was told to write; once it counts, that agent may die.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ckptd.engine.hosts.attendance import Attendance
from ckptd.engine.hosts.messages import AgentLife, PartSealed, Receipt
from ckptd.engine.wording import describe_bytes, describe_ranks, describe_seconds
from ckptd.errors import ConflictError


@dataclass(slots=True)
class HostPart:
    """One host's part of one save.

    Attributes:
        host: its stable name.
        ranks: on that host.
        shard: the one that it fills, None for a host that has nothing to write.
        key: of that shard.
        size_bytes: of that shard.
        owed_bytes: not written yet, as far as is known.
        progressed_at: when that last changed.
        receipts: None until it is sealed.
    """

    host: str
    ranks: tuple[int, ...]
    shard: int | None
    key: str
    size_bytes: int
    owed_bytes: int
    progressed_at: float
    receipts: tuple[Receipt, ...] | None = None

    @property
    def is_sealed(self) -> bool:
        """Whether nothing is owed any more."""
        return self.receipts is not None

    def __str__(self) -> str:
        owed = f"{describe_bytes(self.owed_bytes)} of {describe_bytes(self.size_bytes)}"
        return f"{describe_ranks(self.ranks)} owed {owed}"


class HostParts:
    """The parts of one save. Has one owner, which passes the time."""

    def __init__(self, save: str, parts: Iterable[HostPart], attendance: Attendance, stall_s: float = 30.0) -> None:
        """Begin with what is owed. `stall_s` is how long a host may write nothing while it owes."""
        self.save = save
        self._parts = {part.host: part for part in parts}
        self._attendance = attendance
        self._stall_s = stall_s

    def all(self) -> list[HostPart]:
        """Return the parts, by host."""
        return [self._parts[host] for host in sorted(self._parts)]

    def owing(self) -> list[HostPart]:
        """Return the parts that are not sealed."""
        return [part for part in self.all() if not part.is_sealed]

    def of(self, host: str) -> HostPart | None:
        """Return a host's part."""
        return self._parts.get(host)

    def progress(self, host: str, owed_bytes: int, now: float) -> None:
        """Note how much a host still owes."""
        part = self._parts.get(host)
        if part is not None and owed_bytes != part.owed_bytes:
            part.owed_bytes, part.progressed_at = owed_bytes, now

    def resume(self, host: str, now: float) -> None:
        """A later life of a host's agent begins anew: give it the whole time again."""
        part = self._parts.get(host)
        if part is not None and not part.is_sealed:
            part.owed_bytes, part.progressed_at = part.size_bytes, now

    def believes(self, agent: AgentLife) -> bool:
        """Whether a receipt of this agent counts: only those of a present life do."""
        return self._attendance.is_present(agent)

    def seal(self, sealed: PartSealed) -> HostPart | None:
        """Take the receipts of a host; return its part if that is sealed by them, None if it was before.

        Raises:
            ConflictError: they do not count, or are not for what this host was told to write.
        """
        part = self._parts.get(sealed.agent.host)
        if part is None or sealed.save != self.save:
            raise ConflictError(f"the {sealed.agent} has no part in save {self.save}")
        if part.is_sealed:
            return None
        for by in (sealed.agent, *(receipt.by for receipt in sealed.receipts)):
            if not self.believes(by):
                raise ConflictError(f"a receipt of a former life of the {by} is not believed", actual=by.incarnation)
        expected: Sequence[tuple[object, ...]] = []
        if part.shard is not None:
            expected = [(self.save, part.shard, part.key, part.size_bytes)]
        found = [(each.save, each.shard, each.key, each.size_bytes) for each in sealed.receipts]
        if found != list(expected):
            raise ConflictError(
                f"the {sealed.agent} has written something else than it was told to", expected=expected, actual=found
            )
        part.receipts, part.owed_bytes = sealed.receipts, 0
        return part

    def why_over(self, now: float) -> str | None:
        """Return why the save has to end now, None if it may go on. A host that owes nothing may go."""
        for part in self.owing():
            if self._attendance.is_lost(part.host, now):
                return f"{self._gone(part.host, now)}; {part}"
        for part in self.owing():
            idle_s = now - part.progressed_at
            if idle_s > self._stall_s:
                return f"the agent on {part.host} has written nothing for {describe_seconds(idle_s)}; {part}"
        return None

    def _gone(self, host: str, now: float) -> str:
        if self._attendance.present(host) is None:
            return f"agent on {host} has not attended"
        return f"agent on {host} is gone {describe_seconds(self._attendance.silent_s(host, now))}"

    def waiting_for(self, now: float) -> list[str]:
        """Say which hosts the save waits for."""
        return [
            f"{self._gone(part.host, now) if self._attendance.is_lost(part.host, now) else f'agent on {part.host}'}"
            f"; {part}"
            for part in self.owing()
        ]
