"""What ranks of a host declared together: a part of one save, the shard that is filled from it, and how it ended."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from ckptd.agent.passing_on import PassingOn, lane_of
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.hosts.messages import Go, HostDeclaration, RankPart
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.lanes.filled_shard import FilledShard
from ckptd.engine.lanes.lane_writer import LaneWriter
from ckptd.engine.lanes.shard import Debt
from ckptd.engine.lanes.standstill import Standstill
from ckptd.engine.layout import Assignment
from ckptd.engine.saves.answers import settled_by_engine
from ckptd.engine.saves.claim import Claim
from ckptd.engine.saves.session import Phase
from ckptd.engine.settings import Settings
from ckptd.engine.wording import describe_bytes, describe_ranks, describe_seconds
from ckptd.errors import CkptdError, ConflictError, NotFoundError, SessionAbortedError

_LONG_BYTES = 256 << 10  # one rank may add 3 MiB to it, and a message has 4


@dataclass(slots=True)
class Place:
    """One rank's place in a run, as the coordinator gave it."""

    member: Member
    options: RunOptions
    epoch: int
    lost_at: float | None = None


@dataclass(eq=False, slots=True)
class HostCall:
    """See the module. The agent's lock guards it.

    Ranks that declare about the same time are one call; those of the host that come later are another, of the same save
    and, once that is planned, of the same shard.
    """

    run: str
    first: Declaration
    began_at: float
    claims: dict[int, Claim] = field(default_factory=dict)
    declarations: dict[int, Declaration] = field(default_factory=dict)
    places: dict[int, Place] = field(default_factory=dict)
    request_id: str = ""  # once it is declared; then no rank is added
    why_not_yet: str = ""  # why the coordinator has not taken it, if it said so
    is_given_up: bool = False  # what is left is to hear its end
    go: Go | None = None
    shard: FilledShard | None = None
    passing: PassingOn | None = None
    error: CkptdError | None = None
    checkpoint: Checkpoint | None = None
    outcome: Future[Checkpoint] = field(default_factory=settled_by_engine)

    @property
    def is_over(self) -> bool:
        """Whether it has ended, well or not."""
        return self.error is not None or self.checkpoint is not None

    @property
    def phase(self) -> Phase:
        """How far it has come, as far as is known here."""
        if self.error is not None:
            return Phase.ABORTED
        if self.checkpoint is not None:
            return Phase.PUBLISHED
        if self.go is None:
            return Phase.DECLARING
        return Phase.FILLING if self.owed_bytes else Phase.SEALED

    @property
    def owed_bytes(self) -> int:
        """What has not arrived of it, here or, if it belongs there, on other hosts."""
        passing = 0 if self.passing is None else self.passing.owed_bytes()
        if self.shard is None:
            return passing + (0 if self.go is None else self.go.size_bytes)
        return passing + sum(debt.owed_bytes for debt in self.shard.debts().values())

    @property
    def owed_by_rank(self) -> tuple[tuple[int, int], ...]:
        """What has not arrived of the shard that is filled here, also of ranks of other hosts; 0 is told as well."""
        debts = {} if self.shard is None else self.shard.debts()
        return tuple((rank, debt.owed_bytes) for rank, debt in debts.items())

    @property
    def awaited(self) -> str:
        """What it waits for, if that is another host's agent; else ""."""
        if self.passing is not None and (debts := self.passing.debts()):
            (rank, host), debt = next(iter(debts.items()))
            why = f": {trouble}" if (trouble := self.passing.trouble()) else ""
            return f"{_agent_on(host)}, which has still to take {debt} of rank {rank}{why}"
        guests = {} if self.go is None else {each.rank: each.host for each in self.go.guests}
        owing = [(rank, owed) for rank, owed in self.owed_by_rank if owed]
        if owing and all(rank in guests for rank, _ in owing):
            rank, owed = owing[0]
            return f"the agent on {guests[rank]}, which has still to pass on {describe_bytes(owed)} of rank {rank}"
        return ""

    @property
    def is_long(self) -> bool:
        """Whether what its ranks say fills a message, so that others declare apart."""
        return sum(map(_told_bytes, self.declarations.values())) >= _LONG_BYTES

    def declared(self) -> HostDeclaration:
        """Return what is declared for these ranks. The same calls of `save` of the same ranks have the same id."""
        ranks = sorted(self.claims)
        words = hashlib.sha256(f"ckptd host call 1\0{self.run}\0".encode("utf-8", "surrogateescape"))
        manifests = hashlib.sha256()
        for rank in ranks:
            words.update(f"{rank} {self.claims[rank].request_id}\0".encode())
            manifests.update(self.claims[rank].digest)
        self.request_id = f"h{words.hexdigest()[:48]}"
        parts = tuple(
            RankPart(self.places[rank].member, self.places[rank].options, self.declarations[rank]) for rank in ranks
        )
        size = sum(int(claim.manifest.sizes.sum()) for claim in self.claims.values() if claim.manifest is not None)
        return HostDeclaration(
            self.request_id,
            self.run,
            self.first.save.step,
            tuple(ranks),
            self.first.world_size,
            manifests.digest(),
            size,
            parts=parts,
        )

    def ref(self, rank: int) -> SaveRef:
        """Return the save as a rank names it."""
        assert self.go is not None
        save = self.declarations[rank].save
        plan_id = f"{self.go.save}.{self.go.attempt}"
        return replace(save, save_id=self.go.save, attempt=self.go.attempt, plan_id=plan_id)

    def answer(self) -> None:
        """Tell each rank what it has to send."""
        assert self.go is not None
        for rank, claim in self.claims.items():
            if claim.planned is not None and not claim.planned.done():
                lanes = [] if self.passing is None else list(self.passing.lanes(rank, claim.transport))
                layout, shard = self.go.share, self.go.shard
                if layout is not None and shard is not None and (rank, shard) in layout.lane_segments:
                    lanes.append(lane_of(layout, rank, shard, self.go.key, claim.transport))
                answer = Assignment(self.ref(rank), self.go.prefix_key, self.go.num_shards, tuple(lanes))
                claim.planned.set_result(answer)

    def lane(self, save: SaveRef, shard: int) -> LaneWriter:
        """Return where the bytes that `save.rank` owes `shard` go."""
        if self.error is not None:
            raise self.error
        claim, go = self.claims.get(save.rank), self.go
        guests = () if go is None else go.guests
        is_guest = any((each.rank, each.incarnation) == (save.rank, save.incarnation) for each in guests)
        if not is_guest and (claim is None or claim.incarnation != save.incarnation):
            raise ConflictError(f"this process has not declared {save} as rank {save.rank}")
        lane = None
        if go is not None and go.shard == shard and self.shard is not None:
            lane = self.shard.lanes.get(save.rank)
        elif self.passing is not None and not is_guest:
            lane = self.passing.lane(save.rank, shard)
        if lane is None:
            raise NotFoundError(f"rank {save.rank} owes shard {shard} of {save} nothing")
        return lane

    def feed(self, submit: Callable[..., None]) -> None:
        """Begin to take what is captured in memory that is shared with us."""
        assert self.go is not None
        layout, shard = self.go.share, self.shard
        if layout is None or shard is None:
            return
        standstill = Standstill([claim.capture for claim in self.claims.values() if claim.capture is not None])
        for rank, claim in self.claims.items():
            lane = shard.lanes.get(rank)
            claim.feed(layout, [] if lane is None else [lane], standstill, submit)

    def end(self, how: Checkpoint | CkptdError, index_crc32c: int | None = None) -> None:
        """Note how it has ended, and tell the ranks. What is large is freed.

        With the checksum of its index, what is captured here is offered to restores from now on.
        """
        if self.is_over:
            return
        if isinstance(how, Checkpoint) and index_crc32c is not None and self.go is not None:
            self._keep_in_memory(self.go, how.save_id, index_crc32c)
        self.error = how if isinstance(how, CkptdError) else None
        self.checkpoint = how if isinstance(how, Checkpoint) else None
        for claim in self.claims.values():
            if isinstance(how, Checkpoint):
                claim.published(how)
            claim.end(self.error)
        if isinstance(how, CkptdError):
            self.outcome.set_exception(how)
        else:
            self.outcome.set_result(how)
        if self.passing is not None:
            self.passing.close(self.error or SessionAbortedError(f"{self.first.save} is over"))
        self.shard = self.passing = None

    def _keep_in_memory(self, go: Go, save_id: str, index_crc32c: int) -> None:
        if save_id != go.save:
            return  # what was captured went to the keys of another attempt
        keys = {each.shard: each.key for each in go.passing}
        if go.shard is not None:
            keys[go.shard] = go.key
        for claim in self.claims.values():
            claim.keep_in_memory(save_id, index_crc32c, keys)

    def dead_ranks(self) -> list[int]:
        """Return the ranks that are gone and without which it cannot go on."""
        owing = set(self.claims)
        if self.go is not None:
            owing = {rank for rank, debt in self.debts().items() if debt.owed_bytes}
            owing |= {rank for rank, _ in ({} if self.passing is None else self.passing.debts())}
        gone = (rank for rank in sorted(owing) if self.places[rank].lost_at is not None)
        return [rank for rank in gone if not self.claims[rank].is_safe]

    def debts(self) -> dict[int, Debt]:
        """Return what its ranks owe to the shard."""
        debts = {} if self.shard is None else self.shard.debts()
        return {rank: debt for rank, debt in debts.items() if rank in self.claims}


def _told_bytes(declaration: Declaration) -> int:
    """Return about how long a declaration is as a message."""
    compared = 0 if declaration.compared is None else 2 * declaration.compared.rows.nbytes
    remarks = sum(16 + len(each.name) + len(each.what) for each in declaration.remarks)
    return len(declaration.meta_graph or b"") + compared + 2 * remarks


def why_over(call: HostCall, host: str, settings: Settings, now: float) -> str | None:
    """Return why a call has to end now, None if it may go on."""
    gone = [rank for rank in call.dead_ranks() if now - (call.places[rank].lost_at or now) > settings.lease_s]
    if gone:
        return f"{describe_ranks(gone)} of {host} {'is' if len(gone) == 1 else 'are'} gone"
    if now - call.began_at > call.first.timeout_s:
        return f"it was not done within {call.first.timeout_s:g} s"
    for rank, debt in call.debts().items():
        if debt.owed_bytes and debt.at_store_s is None and debt.idle_s > settings.stall_timeout_s:
            return f"rank {rank} of {host} sent nothing for {describe_seconds(debt.idle_s)}; it owes {debt}"
    for (rank, there), debt in ({} if call.passing is None else call.passing.debts()).items():
        if debt.idle_s > settings.stall_timeout_s:
            idle = describe_seconds(debt.idle_s)
            return f"nothing of rank {rank} arrived at {_agent_on(there)} for {idle}; it is owed {debt}"
    return None


def _agent_on(host: str) -> str:
    return f"the agent on {host}" if host else "the coordinator"
