"""The agent of one host as a state machine: attend, declare, go, fill, seal, receipt, ended. Pure; time is passed in.

What happens comes in by the methods, and each returns the work that it calls for, in order. Any message may be lost,
repeated or late: each is repeated until it is answered, and what is repeated changes nothing. Ranks that declare apart
are several requests; those that turn out to be one save are one shard, sealed by one receipt. A coordinator of a lower
term than the highest that was seen is not listened to. After a break, and to every new term, the agent says again what
its ranks declared and what it has sealed; what is sealed is never written again.

The agent ends no save as failed by itself: only the coordinator knows whether a save was committed. An agent that
another life has replaced tells its ranks just that: what they saved is in doubt, and what they begin is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ckptd.agent.effects import Effect, Fill, Find, Send, Stop, Tell
from ckptd.agent.host_save import HostOutcome, HostSave, PartPhase, describe_other, why_replaced
from ckptd.agent.known_ends import MOST_ENDED, TELL_AGAIN_S, KnownEnds
from ckptd.engine.hosts.messages import (
    AgentLife,
    Attached,
    Beat,
    DeclareHost,
    Fenced,
    FromAgent,
    FromCoordinator,
    Go,
    Hello,
    HostDeclaration,
    NotYet,
    Owed,
    PartSealed,
    Receipt,
    Replaced,
    SaveEnded,
)
from ckptd.engine.hosts.views import AttendingView
from ckptd.errors import CkptdError

MOST_READ = 1000
"""Checkpoints that one message says are being read."""


@dataclass(slots=True)
class AgentMachine:
    """One life of one host's agent. Has one owner, which carries out what the methods return.

    Attributes:
        life: of this agent.
        root_id: of the root that it has opened.
        addresses: where other agents reach it.
        labels: the operator's.
        members: the ranks that are connected to it.
        reading: the prefixes of checkpoints that are being read through it.
        again_s: after this time without an answer a message is sent again.
        timeout_s: how long a save may take in all.
        lease_s: how long the coordinator waits for a silent agent, and the agent for a silent coordinator.
        highest_term: the highest that was seen.
        is_attached: whether the coordinator of that term has answered.
        replaced_by: the later life of this host's agent; then this one does nothing any more.
        why_not: what the coordinator said last, if it was that this agent does not attend.
    """

    life: AgentLife
    root_id: str
    addresses: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    members: set[int] = field(default_factory=set)
    reading: frozenset[str] = frozenset()
    again_s: float = 2.0
    timeout_s: float = 600.0
    lease_s: float = 15.0
    highest_term: int = 0
    is_attached: bool = False
    replaced_by: AgentLife | None = None
    why_not: str = ""
    _saves: dict[str, HostSave] = field(default_factory=dict)  # by request
    _ended: OrderedDict[str, HostSave] = field(default_factory=OrderedDict)
    _ends: KnownEnds = field(default_factory=KnownEnds)
    _heard_at: float | None = None
    _spoke_at: float | None = None
    _told_addresses: tuple[str, ...] = ()
    _told_reading: frozenset[str] = frozenset()

    # The ranks

    def declare(
        self, declaration: HostDeclaration, now: float, *, is_retry: bool = False, waited_s: float = 0.0
    ) -> list[Effect]:
        """The ranks of this host save something. A retry repeats the request id.

        With `is_retry` they may have declared this to a former life of this agent; they have waited `waited_s` so far.
        """
        request_id = declaration.request_id
        ended = self._ended.get(request_id)
        if ended is not None and ended.outcome is not None:
            return [Tell(request_id, ended.outcome)]
        if self.replaced_by is not None:
            return [Tell(request_id, HostOutcome(reason=why_replaced(self.life.host), is_known=not is_retry))]
        if request_id in self._saves:
            return []
        self._saves[request_id] = HostSave(declaration, now - waited_s, since_term=0 if is_retry else None)
        return self._tell_of(self._saves[request_id], now)

    def give_up(self, request_id: str, reason: str, now: float, rank: int | None = None) -> list[Effect]:
        """This host's part will not come: a rank is gone before all was captured, or `rank` gave up."""
        save = self._saves.get(request_id)
        if save is None or save.phase in (PartPhase.SEALED, PartPhase.FAILED):
            return []
        stop: list[Effect] = [Stop(save.save)] if save.phase is PartPhase.FILLING else []
        return stop + self._fail(save, reason, now, rank)

    # The writers

    def progress(
        self, request_id: str, owed_bytes: int, by_rank: tuple[tuple[int, int], ...] = (), awaited: str = ""
    ) -> None:
        """Note how much is still to be written or passed on; `by_rank`: of the shard; `awaited`: what it waits for."""
        save = self._saves.get(request_id)
        if save is not None and save.phase is PartPhase.FILLING:
            save.owed_bytes, save.owed_by_rank, save.awaited = owed_bytes, by_rank, awaited

    def filled(self, receipt: Receipt, now: float) -> list[Effect]:
        """A shard is durable."""
        effects: list[Effect] = []
        for save in self._filling(receipt.save):
            save.phase, save.receipts, save.owed_bytes = PartPhase.SEALED, (receipt,), 0
            effects += self._tell_of(save, now)
        return effects

    def passed(self, request_id: str, now: float) -> list[Effect]:
        """All that these ranks have for shards of other hosts has arrived there, and nothing is to be written here."""
        save = self._saves.get(request_id)
        if save is None or save.phase is not PartPhase.FILLING:
            return []
        save.phase, save.receipts, save.owed_bytes = PartPhase.SEALED, (), 0
        return self._tell_of(save, now)

    def passing_failed(self, request_id: str, reason: str, now: float) -> list[Effect]:
        """What ranks have for the shard of another host will not arrive there, even if it had once."""
        save = self._saves.get(request_id)
        return [] if save is None or save.phase is PartPhase.FAILED else self._fail(save, reason, now)

    def found_taken(self, own: Receipt, found: Receipt | None, now: float) -> list[Effect]:
        """The key of a shard was taken. `found` is what is there, if it could be read; `own` what was to be written.

        A former life of this agent may have sealed it, and given the receipt. So it is never deleted: it holds the
        same bytes, or the save ends.
        """
        if found is not None and (found.size_bytes, found.sums) == (own.size_bytes, own.sums):
            return self.filled(replace(own, version=found.version), now)
        what = "what is there cannot be read" if found is None else "other bytes than ours are there"
        return self.fill_failed(own.save, f"the key {own.key} is taken, and {what}", now)

    def fill_failed(self, save_id: str, why: str | CkptdError, now: float) -> list[Effect]:
        """A shard could not be written."""
        return [work for save in self._filling(save_id) for work in self._fail(save, why, now)]

    def stopped(self, save_id: str) -> None:
        """The writers of a save have ended: nothing of this life's can come to its keys any more."""
        request_id = self._ends.stopped(save_id)
        if request_id is not None and self._is_sole(save_id, request_id):
            self._ends.tell(save_id, request_id)

    def _is_sole(self, save_id: str, request_id: str) -> bool:
        """Whether no former life of this agent can have written for a save."""
        known = [*self._saves.values(), *self._ended.values()]
        ours = [each for each in known if save_id in each.all_saves or each is self._ended.get(request_id)]
        return bool(ours) and all(each.since_term != 0 for each in ours)

    def _filling(self, save_id: str) -> list[HostSave]:
        return [each for each in self._saves.values() if each.save == save_id and each.phase is PartPhase.FILLING]

    def may_finish(self, save_id: str, now: float) -> bool:
        """Whether a shard may still be made durable: not by a life that was replaced, or hung longer than saves take.

        The coordinator keeps the keys of a save that is over from others for a day, and no longer.
        """
        filling = self._filling(save_id)
        return self.replaced_by is None and any(now - each.began_at <= self.timeout_s for each in filling)

    def is_sealed(self, request_id: str) -> bool:
        """Whether nothing is owed to the save of a request any more."""
        save = self._saves.get(request_id)
        return save is not None and save.phase is PartPhase.SEALED

    # The coordinator

    def attend_anew(self, addresses: Sequence[str] | None = None) -> None:
        """The connection is gone; or other agents reach this one at `addresses` from now on."""
        self.is_attached = False
        if addresses is not None:
            self.addresses = tuple(addresses)

    def is_outdated(self, term: int) -> bool:
        """Whether a message of this term comes from a coordinator that another has taken over from."""
        return term < self.highest_term

    def hear(self, message: FromCoordinator, now: float) -> list[Effect]:
        """Take a message of a coordinator."""
        if self.replaced_by is not None or self.is_outdated(message.term):
            return []
        is_new = message.term > self.highest_term or not self.is_attached
        self.highest_term = max(self.highest_term, message.term)
        match message:
            case Replaced(by=later):
                return self._give_way(later)
            case Fenced(holder=holder):
                self.is_attached, self.why_not = False, holder
                return self._attend(now) if self._may_speak(now) else []
        self.is_attached, self._heard_at, self.why_not = True, now, ""
        match message:
            case Attached(lease_s=lease_s, ends=ends):
                self.lease_s = lease_s
                self._ends.answered(ends)
                return [work for save in list(self._saves.values()) if is_new for work in self._tell_of(save, now)]
            case Go():
                return self._go(message, now)
            case SaveEnded():
                return self._end(message)
            case NotYet():
                return []  # it is said again, as what is lost is

    def _give_way(self, later: AgentLife) -> list[Effect]:
        """Do nothing any more. No coordinator will say here how saves ended: their ranks are told that, and why."""
        self.replaced_by, self.is_attached, self.why_not = later, False, describe_other(later)
        outcome = HostOutcome(reason=why_replaced(self.life.host), is_known=False)
        effects: list[Effect] = []
        for save in list(self._saves.values()):
            effects += [Stop(save.save)] if save.phase is PartPhase.FILLING else []
            effects.append(Tell(save.declaration.request_id, outcome))
            self._forget(save, outcome)
        return effects

    def _go(self, go: Go, now: float) -> list[Effect]:
        save = self._saves.get(go.request_id)
        if save is None or self._ends.is_over(go.save, go.term):
            return []
        if save.save == go.save:
            # It is repeated, or comes from a later term: what is sealed is told again, and never written again.
            return self._tell_of(save, now)
        effects: list[Effect] = []
        self._ends.goes_on(go.save)
        if save.go is not None:
            if go.term <= save.go.term or save.phase is PartPhase.FAILED:
                return []
            effects = [Stop(save.save)]  # a later coordinator begins anew, under other keys
            if save.receipts is not None:
                save.sealed[save.save] = save.receipts
        receipts = () if go.shard is None else self._receipts_of(go.save)
        save.go, save.receipts = go, None if go.passing else receipts  # it is sealed once all is passed on
        if save.receipts is not None:
            save.phase = PartPhase.SEALED
            return effects + self._tell_of(save, now)
        save.phase, save.owed_bytes = PartPhase.FILLING, go.size_bytes
        return [*effects, Fill(go, save.declaration, save.since_term == 0)]

    def _receipts_of(self, save_id: str) -> tuple[Receipt, ...] | None:
        """Return the receipts of a save that is sealed already, for whichever request."""
        for each in self._saves.values():
            if (found := each.receipts if each.save == save_id else each.sealed.get(save_id)) is not None:
                return found
        return None

    def _end(self, ended: SaveEnded) -> list[Effect]:
        effects: list[Effect] = []
        save = self._saves.get(ended.request_id)
        if save is not None and self._is_about(ended, save):
            outcome = HostOutcome(ended.prefix, ended.reason, ended.is_known)
            effects = [Tell(ended.request_id, outcome)]
            if save.save not in ("", ended.save):
                effects.append(Stop(save.save))
            self._forget(save, outcome)
        if ended.save:
            self._ends.heard(ended)
            effects.append(Stop(ended.save))
        return effects

    def _is_about(self, ended: SaveEnded, save: HostSave) -> bool:
        """Whether this ends a save, and not only an earlier attempt at it. In one term there is one attempt."""
        return save.go is None or ended.save in ("", save.save) or ended.term > save.go.term

    def end(self) -> list[Effect]:
        """This life ends in good order, and says nothing any more."""
        return self._say(replace(self._beat(), is_last=True))

    # Time

    def tick(self, now: float) -> list[Effect]:
        """Send again what was not answered, and end what took too long. Called several times in `again_s`."""
        if self.replaced_by is not None:
            return []
        if self.is_attached and (self.silent_s(now) or 0.0) > self.lease_s:
            self.is_attached = False
        if self._told_addresses != self.addresses:
            self.is_attached = False  # the answer was to what it said before these were known
        effects: list[Effect] = []
        if not self.is_attached:
            effects += self._attend(now) if self._may_speak(now) else []
        elif self._is_to_beat(now):
            self._spoke_at, self._told_reading = now, self.reading
            effects.append(Send(self._beat()))
        for save in list(self._saves.values()):
            if now - save.began_at > self.timeout_s:
                effects += self._time_out(save, now)
            elif save.is_due(now):
                effects += self._tell_of(save, now, is_again=True)
        return effects

    def _is_to_beat(self, now: float) -> bool:
        if self._spoke_at is None or self.reading - self._told_reading:
            return True
        return now - self._spoke_at >= min(self.lease_s / 5, TELL_AGAIN_S if self._ends.untold() else self.lease_s)

    def waits(self, now: float) -> list[str]:
        """Say what each save waits for, with the host and its ranks."""
        return [each.waits_for(self.life.host, self.silent_s(now)) for each in self._saves.values()]

    def waits_of(self, request_id: str, now: float) -> list[str]:
        """Say what one save waits for."""
        save = self._saves.get(request_id)
        return [] if save is None else [save.waits_for(self.life.host, self.silent_s(now))]

    def attending(self, coordinator: str, now: float) -> AttendingView:
        """Describe for operators what is known of the coordinator at this address."""
        known = self.life.host, coordinator, self.highest_term, self.is_attached, self.silent_s(now), self.lease_s
        return AttendingView(*known, self.replaced_by is not None, self.why_not)

    def silent_s(self, now: float) -> float | None:
        """Return for how long the coordinator said nothing, None if it never did."""
        return None if self._heard_at is None else now - self._heard_at

    def _time_out(self, save: HostSave, now: float) -> list[Effect]:
        reason = f"it was not done within {self.timeout_s:.0f} s: {save.waits_for(self.life.host, self.silent_s(now))}"
        effects = self.give_up(save.declaration.request_id, reason, now)
        # Even if this life never told the coordinator of it, a former one may have.
        outcome = HostOutcome(reason=reason, is_known=False)
        self._forget(save, outcome)
        if save.go is not None and Stop(save.save) not in effects and not self._filling(save.save):
            effects.append(Stop(save.save))  # no coordinator may ever say that it is over
        return [*effects, Tell(save.declaration.request_id, outcome)]

    # Speaking

    def hello(self) -> Hello:
        """Return what a coordinator must know of this agent now."""
        carried = tuple(each.carried(self.highest_term) for each in self._saves.values())
        return Hello(
            self.life,
            self.root_id,
            self.highest_term,
            self.addresses,
            self.labels,
            tuple(sorted(self.members)),
            carried,
        )

    def _may_speak(self, now: float) -> bool:
        return self._spoke_at is None or now - self._spoke_at >= self.again_s

    def _attend(self, now: float) -> list[Effect]:
        self._spoke_at, self._told_addresses = now, self.addresses
        return [Find(), Send(self.hello())]

    def _beat(self) -> Beat:
        filling = (each for each in self._saves.values() if each.phase is PartPhase.FILLING)
        by_save = {each.save: Owed(each.save, each.owed_bytes, each.owed_by_rank) for each in filling}
        reading = tuple(sorted(self.reading)[:MOST_READ])
        return Beat(self.life, self.highest_term, tuple(by_save.values()), reading, self._ends.untold())

    def _tell_of(self, save: HostSave, now: float, *, is_again: bool = False) -> list[Effect]:
        """Tell the coordinator how far a save is, unless the next `Hello` will."""
        if not self.is_attached:
            return []
        save.told(now, self.again_s, self.lease_s / 3 if is_again else 0.0)
        request_id = save.declaration.request_id
        if save.phase is PartPhase.SEALED and save.receipts is not None:
            return self._say(PartSealed(self.life, self.highest_term, request_id, save.save, save.receipts))
        if save.phase is PartPhase.DECLARED:
            return self._say(DeclareHost(self.life, self.highest_term, save.told_in(self.highest_term)))
        if save.phase is PartPhase.FAILED:
            return self._say(save.failed(self.life, self.highest_term))
        return []

    def _fail(self, save: HostSave, why: str | CkptdError, now: float, rank: int | None = None) -> list[Effect]:
        save.fail(why, rank)
        return self._tell_of(save, now)

    def _say(self, message: FromAgent) -> list[Effect]:
        return [Send(message)] if self.is_attached else []

    def _forget(self, save: HostSave, outcome: HostOutcome) -> None:
        save.outcome = outcome
        request_id = save.declaration.request_id
        self._ended[request_id] = self._saves.pop(request_id)
        if len(self._ended) > MOST_ENDED:
            self._ended.popitem(last=False)
