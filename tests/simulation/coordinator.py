"""One life of the coordinator of the simulation: the real term, attendance, sessions and catalog, in one thread."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable
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
    EndSeen,
    Fenced,
    Go,
    Hello,
    HostDeclaration,
    PartFailed,
    PartSealed,
    SaveEnded,
)
from ckptd.engine.hosts.parts import HostPart, HostParts
from ckptd.engine.saves import session as machine
from ckptd.engine.saves.session import Phase, Session
from ckptd.engine.wording import describe_ranks
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError, SessionAbortedError, UnavailableError
from ckptd.format.entry import Entry
from ckptd.format.index import encode_index
from tests.simulation.bucket import Bucket, BucketClient
from tests.simulation.hosts import ROOT_ID
from tests.simulation.judge import KEPT, RUN, Judge
from tests.simulation.world import Network, Process, World, WorldClock

NAME = "m"
UINT8 = 4  # TensorFlow's number for it
DECLARE_S = 30.0
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
    parts: HostParts | None = None
    goes: dict[str, Go] = field(default_factory=dict)

    @property
    def save(self) -> str:
        return "" if self.record is None else self.record.save_id


def digest_of(texts: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(texts).encode()).hexdigest()


@dataclass
class Rules:
    """What mutants change."""

    parts: Callable[..., HostParts] = HostParts
    attendance: Callable[..., Attendance] = Attendance


class Coordinator(Process):
    """One life of a coordinator."""

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
        self.ended: dict[str, SaveEnded] = {}  # by request
        network.listen(host, self, self.hear)
        self.after(0.0, self.open)

    # Its life

    def open(self) -> None:
        try:
            self.term = Term(self.store, self.clock, holder=self.name, addresses=[self.host])
            number = self.term_number = self.term.take()
            self.catalog = Catalog(
                self.store,
                RUN,
                clock=self.clock,
                policy=RetentionPolicy(KEPT),
                holder=self.name,
                on_step=self.term.before,
            )
            for outcome in self.catalog.upkeep.recover().outcomes:
                self.world.log(f"{self.name} recovers {outcome.subject}: {outcome.fate.value}")
        except ConflictError:
            self.kill()
        except CkptdError:
            self.after(1.0, self.open)
        else:
            self.attendance = self.rules.attendance(number, ROOT_ID, self.name)
            self.is_open = True
            self.world.log(f"{self.name} has term {number - 1_000_000}")
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
        now, session = self.world.now, live.session
        if session.committing or session.phase not in (Phase.DECLARING, Phase.FILLING):
            return None
        if live.parts is not None:
            return live.parts.why_over(now)
        for host in sorted(live.declarations):
            if self.attendance.is_lost(host, now):
                return f"agent on {host} is gone before the save was planned"
        if now - live.began_at > DECLARE_S:
            where = self.attendance.whereabouts(session.missing, now)
            return f"{describe_ranks(session.missing, session.world_size)} have not declared ({where})"
        return None

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
            case Beat(owed=owed):
                for save, owed_bytes in owed:
                    live = self.of_save(save)
                    if live is not None and live.parts is not None:
                        live.parts.progress(agent.host, owed_bytes, self.world.now)
                answer = self.attendance.attend(self.attendance.hello_of(agent.host), self.world.now)
                self.tell(agent.host, answer)
            case DeclareHost(declaration=declaration):
                self.declare(agent, declaration)
            case PartSealed(save=save):
                self.sealed(agent, message)
            case PartFailed(request_id=request_id, save=save, reason=reason):
                self.part_failed(agent, request_id, save, reason)
            case EndSeen(save=save) if save:
                self.guarded(lambda: self.catalog.writers.heard_end(save, agent.host))

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
            for rank in declaration.ranks:
                self.apply(live, machine.Declared(rank))
        elif live.declarations.get(agent.host) == declaration and live.parts is not None:
            part = live.parts.of(agent.host)
            if part is not None and not part.is_sealed:
                self.tell(agent.host, live.goes[agent.host])

    def may_begin(self, agent: AgentLife, declaration: HostDeclaration) -> bool:
        """Whether a declaration may begin a save. One that a former coordinator was told of may be published."""
        assert declaration.step is not None
        latest = max((each.step or 0 for each in self.catalog.contents.checkpoints()), default=-1)
        if declaration.step <= latest and not declaration.is_new_in(self.term.number):
            ranks = describe_ranks(declaration.ranks)
            reason = f"whether step {declaration.step} of {ranks} is saved is not known: step {latest} is, by now"
            ended = SaveEnded(self.term.number, declaration.request_id, "", reason=reason, is_known=False)
            self.tell(agent.host, ended)
            return False
        return True

    def sealed(self, agent: AgentLife, message: PartSealed) -> None:
        live = self.of_save(message.save)
        if live is None or live.parts is None:
            declared = (each.declarations.get(agent.host) for each in self.live.values())
            if any(each is not None and each.request_id == message.request_id for each in declared):
                return  # it goes on when all have told of it again
            if message.request_id in self.ended or self.catalog.contents.record_of(message.save) is not None:
                self.answer_unknown(agent, message.request_id, message.save)
            else:
                self.tell(agent.host, Fenced(self.term.number, self.name))  # it attends again, and tells all
            return
        try:
            part = live.parts.seal(message)
        except ConflictError as error:
            self.world.log(f"{self.name}: {error}")
            return
        if part is not None:
            self.judge.believed(self.term.number, agent)
        if part is not None and part.shard is not None:
            self.apply(live, machine.LaneEnded(part.ranks[0], part.shard))

    def part_failed(self, agent: AgentLife, request_id: str, save: str, reason: str) -> None:
        for live in list(self.live.values()):
            declaration = live.declarations.get(agent.host)
            if declaration is not None and declaration.request_id == request_id:
                self.fail(live, f"{agent}: {reason}")
                return
        self.answer_unknown(agent, request_id, save)

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
            if record is not None:
                self.catalog.writers.revive(record, record.shard_keys[len(hosts) :])
                self.judge.num_revived += 1
                self.world.log(f"{self.name} goes on with {record.save_id}")
            else:
                record = live.record = self.draft(live, hosts, calls)
                self.catalog.begin(record)
            for key in record.shard_keys[len(hosts) :]:
                self.store.create(key, 0).finish()
        except CkptdError as error:
            self.apply(live, machine.Failed(SessionAbortedError(f"step {live.step} of {' '.join(hosts)}: {error}")))
            return
        now = self.world.now
        self.begin_filling(live, hosts, now)

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

    def begin_filling(self, live: LiveSave, hosts: list[str], now: float) -> None:
        record = live.record
        assert record is not None
        parts = []
        for shard, host in enumerate(hosts):
            declaration = live.declarations[host]
            key, size = record.shard_keys[shard], declaration.size_bytes
            parts.append(HostPart(host, declaration.ranks, shard, key, size, size, now))
            live.goes[host] = Go(
                self.term.number, declaration.request_id, record.save_id, record.num_shards, shard, key, size, b""
            )
        live.parts = self.rules.parts(record.save_id, parts, self.attendance)
        self.apply(live, machine.Planned(record.num_shards, frozenset((p.ranks[0], p.shard or 0) for p in parts)))
        for host in hosts:
            self.tell(host, live.goes[host])

    def take_turns(self) -> None:
        """Let the earliest save that is under way commit, if it is sealed."""
        under_way = [each for each in self.live.values() if each.record is not None and not each.session.is_over]
        first = min(under_way, key=lambda each: each.record.sequence if each.record else 0, default=None)
        if first is not None and first.session.phase is Phase.SEALED and not first.session.committing:
            self.apply(first, machine.TurnCame())

    def commit(self, live: LiveSave) -> None:
        record, parts = live.record, live.parts
        assert record is not None
        assert parts is not None
        entries = []
        for part in parts.all():
            assert part.receipts is not None
            assert part.shard is not None
            (crc,) = struct.unpack("<I", part.receipts[0].sums)
            entry = Entry(UINT8, (part.size_bytes,), part.shard, 0, part.size_bytes, crc)
            entries.append((f"h{part.shard}".encode(), entry))
        index = encode_index(record.num_shards, sorted(entries))
        try:
            self.catalog.commit(record, index)
        except CkptdError as error:
            if not self._is_published_all_the_same(live, error):
                return
        self.apply(live, machine.Committed())
        self.apply(live, machine.Published())
        self.end(live, prefix=record.prefix)

    def _is_published_all_the_same(self, live: LiveSave, error: CkptdError) -> bool:
        """Find out what a failed commit left, as `Save` does; what cannot be told is told as that."""
        record = live.record
        assert record is not None
        try:
            self.catalog.abandon(record)
            if self.catalog.contents.record_of(record.save_id) is not None:
                return True
        except CkptdError as failure:
            live.session = machine.step(live.session, machine.CommitFailed(error))[0]
            if self.term.is_fenced or self.catalog.upkeep.is_fenced:
                self.end_fenced()
            else:
                hosts = " ".join(sorted(live.declarations))
                self.end(live, reason=f"cannot tell now whether step {live.step} of {hosts} was saved: {failure}")
            return False
        self.apply(live, machine.CommitFailed(error))
        return False

    def drop(self, live: LiveSave, error: CkptdError) -> None:
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
