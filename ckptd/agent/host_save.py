"""One save as the agent of one host sees it: what its ranks declared, and how far its part has come."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from ckptd.engine.hosts.messages import AgentLife, CarriedSave, Go, HostDeclaration, PartFailed, Receipt
from ckptd.engine.wording import describe_bytes, describe_ranks, describe_seconds
from ckptd.errors import CkptdError, NotPermittedError, StorageFullError


class PartPhase(Enum):
    """How far a host's part of a save has come. It moves down this list, unless a later coordinator begins anew."""

    DECLARED = "declared"  # the coordinator has not said yet what to write
    FILLING = "filling"
    SEALED = "sealed"  # durable; the coordinator commits
    FAILED = "failed"  # it will not come; the coordinator ends the save
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class HostOutcome:
    """How a save ended for the ranks of a host.

    Attributes:
        prefix: of the published checkpoint, "" when there is none.
        reason: why there is none, or why that is not known; names the host and its ranks.
        is_known: False when the coordinator did not say how it ended: it may be committed, now or later.
    """

    prefix: str = ""
    reason: str = ""
    is_known: bool = True


@dataclass(slots=True)
class HostSave:
    """What is known of one save. Belongs to the agent's machine.

    Attributes:
        declaration: of this host's ranks.
        began_at: when they declared.
        phase: how far it has come.
        go: what the coordinator told to write, None before that.
        owed_bytes: what is still to be written, or passed on to other hosts.
        owed_by_rank: of what is to be written here, also of ranks of other hosts.
        awaited: what it waits for while it fills, in words; "" for the store.
        receipts: once it is sealed.
        sealed: the receipts of earlier attempts, by save: a later coordinator may go on with one of them.
        failure: why it will not come, once that is so.
        failed_rank: the rank that gave it up; None if that was not a rank.
        error: of the store that refused it, where its kind says who has to act.
        since_term: in which term a coordinator was told of it first, 0 if that may have been before this life; None if
            it was told to none.
        told_at: when the coordinator was last told of it by itself; None if it never was.
        again_s: how long after that it is told again.
        outcome: once it has ended.
    """

    declaration: HostDeclaration
    began_at: float
    phase: PartPhase = PartPhase.DECLARED
    go: Go | None = None
    owed_bytes: int = 0
    owed_by_rank: tuple[tuple[int, int], ...] = ()
    awaited: str = ""
    receipts: tuple[Receipt, ...] | None = None
    sealed: dict[str, tuple[Receipt, ...]] = field(default_factory=dict)
    failure: str = ""
    failed_rank: int | None = None
    error: CkptdError | None = None
    since_term: int | None = None
    told_at: float | None = None
    again_s: float = 0.0
    outcome: HostOutcome | None = None

    @property
    def save(self) -> str:
        """The id that the coordinator gave it, "" before that."""
        return "" if self.go is None else self.go.save

    @property
    def all_saves(self) -> set[str]:
        """The ids of all attempts at it that wrote something."""
        return {self.save, *self.sealed} - {""}

    def fail(self, why: str | CkptdError, rank: int | None) -> None:
        """It will not come: `rank` gave it up, or something else is the reason."""
        self.phase, self.failure, self.failed_rank = PartPhase.FAILED, str(why), rank
        self.error = why if isinstance(why, StorageFullError | NotPermittedError) else None

    def failed(self, by: AgentLife, term: int) -> PartFailed:
        """Return what the coordinator is told of one that will not come."""
        return PartFailed(by, term, self.declaration.request_id, self.save, self.failure, self.failed_rank, self.error)

    def is_due(self, now: float) -> bool:
        """Whether the coordinator has to be told of it again, as it did not answer."""
        if self.phase is PartPhase.FILLING:
            return False
        return self.told_at is None or now - self.told_at >= self.again_s

    def told(self, now: float, again_s: float, most_s: float) -> None:
        """Note that the coordinator is told. `most_s`: each time it waits twice as long, up to that.

        Thousands of hosts repeat themselves while one is late.
        """
        self.told_at, self.again_s = now, max(again_s, min(2 * self.again_s, most_s))

    def told_in(self, term: int) -> HostDeclaration:
        """Return the declaration as it is told in this term."""
        if self.since_term is None:
            self.since_term = term
        return replace(self.declaration, since_term=self.since_term)

    def carried(self, term: int) -> CarriedSave:
        """Return what a coordinator that does not know of it must be told in this term."""
        digest = b"" if self.go is None else self.go.layout_digest
        return CarriedSave(self.told_in(term), self.save, digest, self.receipts)

    def waits_for(self, host: str, silent_s: float | None) -> str:
        """Say what it waits for, with the host and its ranks.

        `silent_s` is how long the coordinator said nothing, None if it never said anything.
        """
        step = "a save" if self.declaration.step is None else f"step {self.declaration.step}"
        ours = f"{host}, {describe_ranks(self.declaration.ranks)}, {step}"
        match self.phase:
            case PartPhase.FILLING:
                assert self.go is not None
                if self.awaited:
                    return f"{ours}: {self.awaited}"
                owed = f"{describe_bytes(self.owed_bytes)} of {describe_bytes(self.go.size_bytes)}"
                return f"{ours}: the store, which has still to take {owed}"
            case PartPhase.SEALED:
                what = "the coordinator, which commits it"
            case PartPhase.FAILED:
                what = f"the coordinator, which ends it, as {self.failure}"
            case _:
                what = "the coordinator, which has not said what to write"
        since = "yet" if silent_s is None else f"for {describe_seconds(silent_s)}"
        return f"{ours}: {what} (nothing was heard from it {since})"


def why_replaced(host: str) -> str:
    """Say why an agent that another one of the same host has replaced saves nothing."""
    return (
        f"another agent of {host} has attended since, and this one does nothing any more; "
        "end it, or if they are on two hosts, give each a --name of its own"
    )


def describe_other(later: AgentLife) -> str:
    """Say which agent has the place of one that does nothing any more."""
    by = f", started by {later.started_by}," if later.started_by else ""
    return f"another agent of the name {later.host}{by} attends: if it is on another node, give each its --name"
