"""What the coordinator of the simulation hears, and how long it waits: the real term and attendance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ckptd.engine.catalog.catalog import Catalog
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.retention import RetentionPolicy
from ckptd.engine.catalog.term import Term
from ckptd.engine.hosts.attendance import Attendance
from ckptd.engine.hosts.messages import (
    AgentLife,
    Attached,
    Beat,
    CarriedSave,
    DeclareHost,
    Fenced,
    Go,
    Hello,
    HostDeclaration,
    PartFailed,
    PartSealed,
    SaveEnded,
)
from ckptd.engine.lanes.elsewhere import RemoteShard
from ckptd.engine.layout import Layout
from ckptd.engine.manifest import Manifest, Part
from ckptd.engine.saves import session as machine
from ckptd.engine.saves.claim import Claim
from ckptd.engine.saves.deadlines import debts_of, why_over
from ckptd.engine.saves.gone_hosts import why_gone
from ckptd.engine.saves.session import Phase, Session
from ckptd.engine.settings import Settings
from ckptd.engine.wording import describe_ranks
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError, UnavailableError
from ckptd.format.slices import Box
from tests.simulation.bucket import Bucket, BucketClient
from tests.simulation.hosts import ROOT_ID
from tests.simulation.judge import KEPT, NAME, RUN, Judge
from tests.simulation.world import Network, Process, World, WorldClock

UINT8 = 4  # TensorFlow's number for it
SAVE_S = 300.0
SETTINGS = Settings(declare_timeout_s=30.0, stall_timeout_s=30.0)
TICK_S = 1.0


@dataclass
class LiveSave:
    """A save under way."""

    step: int
    call: int
    session: Session
    began_at: float
    declarations: dict[str, HostDeclaration] = field(default_factory=dict)
    record: Record | None = None
    claims: dict[int, Claim] = field(default_factory=dict)
    layout: Layout | None = None
    shards: dict[str, RemoteShard] = field(default_factory=dict)  # by host
    goes: dict[str, Go] = field(default_factory=dict)

    @property
    def save(self) -> str:
        return "" if self.record is None else self.record.save_id


def claims_of(declaration: HostDeclaration, agent: AgentLife) -> dict[int, Claim]:
    """What the ranks of a host hold: one tensor each, which bears the number of the host's first."""
    manifest = manifest_of(declaration)
    claim = Claim(declaration.request_id, agent.incarnation, manifest.digest, manifest, None, host=agent.host)
    return dict.fromkeys(declaration.ranks, claim)


def manifest_of(declaration: HostDeclaration) -> Manifest:
    size = declaration.size_bytes
    return Manifest.of([Part(f"h{declaration.ranks[0]}", UINT8, (size,), Box((0,), (size,)), size)])


@dataclass
class Rules:
    """What mutants change."""

    believes: Callable[[Attendance, AgentLife], bool] = Attendance.is_present
    attendance: Callable[..., Attendance] = Attendance
    term: Callable[..., Term] = Term


class Reception(Process):
    """One life of a coordinator, as far as it hears and waits."""

    def __init__(
        self,
        world: World,
        network: Network,
        bucket: Bucket,
        name: str,
        host: str,
        judge: Judge,
        rules: Rules,
        client: Callable[..., BucketClient] = BucketClient,
    ) -> None:
        super().__init__(world, name, host)
        self.network, self.judge, self.rules = network, judge, rules
        self.store = client(bucket, self)
        self.clock = WorldClock(world)
        self.is_open = False
        self.term_number = 0
        self.live: dict[int, LiveSave] = {}
        self.host_of: dict[int, str] = {}  # by rank
        self.ended: dict[str, SaveEnded] = {}  # by request
        network.listen(host, self, self.hear)
        self.after(0.0, self.open)

    # Its life

    def open(self) -> None:
        try:
            self.term = self.rules.term(self.store, self.clock, holder=self.name, addresses=[self.host])
            self.term_number = self.term.take()
        except ConflictError:
            self.kill()
        except CkptdError:
            self.after(1.0, self.open)
        else:
            self.world.log(f"{self.name} has term {self.term_number - 1_000_000}")
            self.judge.took_root(self)
            is_first = len(self.judge.owners) == 1
            self.after(0.0 if is_first else self.world.rng.choice([0.0, 0.0, 3.0, 12.0]), self.open_run)

    def open_run(self) -> None:
        """Open the run, which a coordinator does not do before it is needed: till then the run has its former owner."""
        try:
            self.catalog = Catalog(
                self.store,
                RUN,
                clock=self.clock,
                policy=RetentionPolicy(KEPT),
                holder=self.name,
                confirm_root=self.term.confirm,
            )
            for outcome in self.catalog.upkeep.recover().outcomes:
                self.world.log(f"{self.name} recovers {outcome.subject}: {outcome.fate.value}")
        except ConflictError:
            self.kill()
        except CkptdError:
            self.after(1.0, self.open_run)
        else:
            self.attendance = self.rules.attendance(self.term_number, ROOT_ID, self.name)
            self.is_open = True
            self.tick()

    def tick(self) -> None:
        for live in list(self.live.values()):
            if live.session.is_over:
                self.remove(live)
            elif reason := self._why_over(live):
                self.fail(live, reason)
        self.take_turns()
        if self.world.rng.random() < 0.1:
            self.guarded(self.term.confirm)
            self.guarded(lambda: self.catalog.upkeep.take_in_late(()))
            self.guarded(lambda: self.catalog.retire(()))
        self.after(TICK_S, self.tick)

    def guarded(self, act: Callable[[], object]) -> None:
        """Do something that may wait for the store; a coordinator that was taken over from ends."""
        try:
            act()
        except UnavailableError:
            pass
        except CkptdError as error:
            self.world.log(f"{self.name}: {error}")
        if self.term.is_fenced or self.catalog.upkeep.is_fenced:
            self.end_fenced()

    def end_fenced(self) -> None:
        self.world.log(f"{self.name} is fenced off")
        self.kill()

    def _why_over(self, live: LiveSave) -> str | None:
        now, session, shards = self.world.now, live.session, list(live.shards.values())
        return why_gone(session, live.claims, shards, self.attendance.lost(now), self._agent_of) or why_over(
            session,
            debts_of(session, shards, lambda rank: False),
            {},
            age_s=now - live.began_at,
            timeout_s=SAVE_S,
            settings=SETTINGS,
            whereabouts=lambda: {rank: f"the agent is that on {self._agent_of(rank)}" for rank in session.missing},
        )

    def _agent_of(self, rank: int) -> str:
        return self.host_of.get(rank, "")

    # Messages

    def hear(self, source: str, message: Any) -> None:
        if not self.is_open:
            return
        agent: AgentLife = message.agent
        if isinstance(message, Hello):
            try:
                answer: Any = self.attendance.attend(message, self.world.now)
            except InvalidRequestError:
                return
            if isinstance(answer, Attached):
                self.judge.attended(answer.term, agent)
                self.host_of.update(dict.fromkeys(message.members, agent.host))
            self.network.send(self, self.host, source, answer)
            for carried in message.saves if isinstance(answer, Attached) else ():
                if not carried.save or self.of_save(carried.save) is None:
                    self.told_again(agent, carried)
        elif refusal := self.attendance.hear(agent, message.term, self.world.now):
            self.network.send(self, self.host, source, refusal)
        else:
            self.heard(agent, message)
        if self.attendance.is_fenced:
            self.end_fenced()

    def tell(self, host: str, message: object) -> None:
        """Send something to the present life of a host's agent."""
        present = self.attendance.present(host)
        if present is not None:
            self.network.send(self, self.host, present.incarnation, message)

    def heard(self, agent: AgentLife, message: Any) -> None:
        match message:
            case Beat(owed=owed, ends=ends):
                for each in owed:
                    live = self.of_save(each.save)
                    if live is not None and agent.host in live.shards:
                        ranks = live.declarations[agent.host].ranks
                        live.shards[agent.host].note_progress(dict.fromkeys(ranks, each.size_bytes))
                for end in ends:
                    self.guarded(lambda end=end: self.catalog.writers.heard_end(end.save, agent.host))
                number, lease_s = self.attendance.term, self.attendance.lease_s
                answer = Attached(number, lease_s, tuple(end.save for end in ends))
                if not self.is_dead:
                    self.tell(agent.host, answer)
            case DeclareHost(declaration=declaration):
                self.declare(agent, declaration)
            case PartSealed(save=save):
                self.sealed(agent, message)
            case PartFailed(request_id=request_id, save=save, reason=reason):
                self.part_failed(agent, request_id, save, reason)

    def of_save(self, save: str) -> LiveSave | None:
        return next((live for live in self.live.values() if live.save == save), None)

    def told_again(self, agent: AgentLife, carried: CarriedSave) -> None:
        """Take what an agent carries: it is over, or may go on where a former coordinator has left it."""
        request_id = carried.declaration.request_id
        if request_id in self.ended or self.catalog.contents.record_of(carried.save) is not None:
            self.answer_unknown(agent, request_id, carried.save)
        else:
            self.declare(agent, carried.declaration)

    def answer_unknown(self, agent: AgentLife, request_id: str, save: str) -> None:
        """Tell an agent of a save that is not under way."""
        if request_id in self.ended:
            self.tell(agent.host, self.ended[request_id])
            return
        number = self.term.number
        record = self.catalog.contents.record_of(save)
        if record is not None:
            ended = SaveEnded(number, request_id, save, prefix=record.prefix)
        else:
            reason = f"nothing is left of save {save or request_id} of {agent.host}"
            ended = SaveEnded(number, request_id, save, reason=reason, is_known=False)
        self.tell(agent.host, ended)

    def declare(self, agent: AgentLife, declaration: HostDeclaration) -> None:
        assert declaration.step is not None
        if declaration.request_id in self.ended:
            self.tell(agent.host, self.ended[declaration.request_id])
            return
        live = self.live.get(declaration.step)
        if live is not None and declaration.call < live.call:
            reason = f"another call of {agent.host} saves step {declaration.step} by now"
            number, request_id = self.term.number, declaration.request_id
            self.tell(agent.host, SaveEnded(number, request_id, "", reason=reason, is_known=False))
            return
        if live is not None and declaration.call > live.call:
            self.fail(live, f"{agent} saves the step anew")
            if live.session.committing or self.is_dead:
                return  # it will be told again
            live = self.live.get(declaration.step)
        if live is None:
            if not self.may_begin(agent, declaration):
                return
            live = self.live[declaration.step] = LiveSave(
                declaration.step, declaration.call, Session(declaration.world_size), self.world.now
            )
        if live.session.phase is Phase.DECLARING:
            live.declarations[agent.host] = declaration
            live.claims.update(claims_of(declaration, agent))
            for rank in declaration.ranks:
                self.apply(live, machine.Declared(rank))
        elif live.declarations.get(agent.host) == declaration:
            shard = live.shards.get(agent.host)
            if shard is not None and not shard.finish():
                self.tell(agent.host, live.goes[agent.host])

    def may_begin(self, agent: AgentLife, declaration: HostDeclaration) -> bool:
        """Whether a declaration may begin a save. One that a former coordinator was told of may be published."""
        assert declaration.step is not None
        is_new = declaration.is_new_in(self.term.number)
        try:
            doubt = self.catalog.writers.why_not_begin(declaration.step, is_new=is_new)
            if not doubt and self.catalog.exists(NAME, declaration.step):  # as `Run.declare`, without `overwrite`
                doubt = f"step {declaration.step} is already saved"
        except CkptdError as error:
            self.world.log(f"{self.name}: {error}")
            return False  # it will be told again
        if doubt:
            reason = f"{describe_ranks(declaration.ranks)}: {doubt}"
            ended = SaveEnded(self.term.number, declaration.request_id, "", reason=reason, is_known=False)
            self.tell(agent.host, ended)
        return not doubt

    def sealed(self, agent: AgentLife, message: PartSealed) -> None:
        live = self.of_save(message.save)
        if live is None or agent.host not in live.shards:
            declared = (each.declarations.get(agent.host) for each in self.live.values())
            if any(each is not None and each.request_id == message.request_id for each in declared):
                return  # it goes on when all have told of it again
            if message.request_id in self.ended or self.catalog.contents.record_of(message.save) is not None:
                self.answer_unknown(agent, message.request_id, message.save)
            else:
                self.tell(agent.host, Fenced(self.term.number, self.name))  # it attends again, and tells all
            return
        shard = live.shards[agent.host]
        for receipt in message.receipts:
            try:
                if not self.rules.believes(self.attendance, receipt.by):
                    raise ConflictError(f"a former life of the {receipt.by} is not believed")
                is_first = shard.take(receipt)
            except CkptdError as error:
                self.world.log(f"{self.name}: {error}")
                return
            if is_first:
                self.judge.believed(self.term.number, agent)
                for rank in shard.debts():
                    self.apply(live, machine.LaneEnded(rank, receipt.shard))

    def part_failed(self, agent: AgentLife, request_id: str, save: str, reason: str) -> None:
        for live in list(self.live.values()):
            declaration = live.declarations.get(agent.host)
            if declaration is not None and declaration.request_id == request_id:
                self.fail(live, f"{agent}: {reason}")
                return
        self.answer_unknown(agent, request_id, save)

    # What its other half does

    def fail(self, live: LiveSave, reason: str) -> None:
        """End a save, if it still can be ended."""
        raise NotImplementedError

    def apply(self, live: LiveSave, event: machine.Event) -> None:
        """Apply an event, and carry out what it calls for."""
        raise NotImplementedError

    def take_turns(self) -> None:
        """Let the earliest save that is under way commit, if it is sealed."""
        raise NotImplementedError

    def remove(self, live: LiveSave) -> None:
        """Forget a save that is over."""
        raise NotImplementedError
