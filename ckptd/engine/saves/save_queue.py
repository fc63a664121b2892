"""The saves of one run: those under way, in the order in which they began, and those that ended lately.

They commit in that order. An ended one is remembered, so that a lost answer can be requested again, and so that a rank
that comes late is told how the save ended.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Declaration, Member, SaveRef
from ckptd.engine.lanes.capture import Capture
from ckptd.engine.lanes.shard import furthest_behind
from ckptd.engine.layout import Assignment
from ckptd.engine.manifest import Manifest
from ckptd.engine.refusals import NotNowError
from ckptd.engine.replicas import Difference
from ckptd.engine.saves import session as machine
from ckptd.engine.saves.after_publishing import AfterPublishing
from ckptd.engine.saves.members import Members
from ckptd.engine.saves.remembered import remembered
from ckptd.engine.saves.save import Save
from ckptd.engine.saves.session import Phase
from ckptd.engine.saves.surroundings import Surroundings
from ckptd.engine.saves.views import RankView, SaveProgress, SaveView
from ckptd.engine.saves.withdrawals import Withdrawals
from ckptd.errors import CkptdError, ConflictError, NotFoundError, SessionAbortedError
from ckptd.format.names import prefix_for

_REMEMBERED_SAVES = 64
_REMEMBERED_CLAIMS = 1 << 16  # of these saves together, beside the latest four
_SURELY_REMEMBERED = 4
_MOST_NAMED = 8  # processes in one message


class SaveQueue:
    """See the module. All of it is guarded by the run's lock: a method takes it, unless it says that it is held.

    Attributes:
        last_error: what ended a save last, or lost us the run; "" if nothing did.
    """

    def __init__(self, name: str, surroundings: Surroundings, members: Members, after: AfterPublishing) -> None:
        """Start without saves.

        Args:
            name: the run.
            surroundings: what its saves share.
            members: the processes that may declare.
            after: what follows the publication of a save.
        """
        self.last_error = ""
        self._name = name
        self._surroundings, self._lock, self._clock = surroundings, surroundings.lock, surroundings.clock
        self._members = members
        self._after = after
        self._live: list[Save] = []  # in the order in which they began
        self._ended: OrderedDict[str, Save] = OrderedDict()
        self._declared: dict[int, int] = {}  # by rank: the number of the newest save that it has declared
        self._withdrawals = Withdrawals()
        self._is_draining = False

    # Declarations of ranks.

    def declare_known(
        self, declaration: Declaration, manifest: Manifest, capture: Capture | None
    ) -> Future[Assignment] | Checkpoint | None:
        """Accept a rank's declaration of a save that others have begun, or say how it ended; the lock is held.

        None means that the declaration begins a save.
        """
        reason = self._withdrawals.reason(declaration.request_id)
        if reason is not None:
            raise SessionAbortedError(f"rank {declaration.save.rank} gave {declaration.save} up: {reason}")
        call = self.call_of(declaration)
        live = self._live_save_of(declaration.prefix)
        if live is not None and 0 < live.call < call and live.session.committing:
            raise NotNowError(f"an earlier call of `save` for {declaration.save} is being committed")
        if live is not None and 0 < live.call < call:
            live.fail(f"rank {declaration.save.rank} has called `save` for it again")
        elif live is not None and 0 < call < live.call:
            raise ConflictError(f"rank {declaration.save.rank} has called `save` for {declaration.save} again since")
        elif live is not None:
            return self._declare(live, declaration, manifest, capture)
        ended = self._ended_save_of(declaration)
        return None if ended is None else _end_of(ended)

    def declare_new(self, declaration: Declaration, manifest: Manifest, capture: Capture | None) -> Future[Assignment]:
        """Begin a save with a rank's declaration; the lock is held, and `declare_known` has answered None."""
        return self._declare(self._begin(declaration), declaration, manifest, capture)

    def _declare(
        self, save: Save, declaration: Declaration, manifest: Manifest, capture: Capture | None
    ) -> Future[Assignment]:
        planned = save.declare(declaration, manifest, capture)
        rank = declaration.save.rank
        self._declared[rank] = max(self._declared.get(rank, 0), save.number)
        self._withdrawals.declared(declaration.save.epoch, declaration.prefix, rank)
        return planned

    def call_of(self, declaration: Declaration) -> int:
        """Return which call of `save` for this step all ranks make; 0 if that is not known, or cannot be another.

        An agent that hung may carry what its rank declared before: that and what other ranks have declared since is
        not one save. What a rank gave up before any other had called `save` is no call of the others.
        """
        ref = declaration.save
        if not declaration.host or not declaration.call:
            return 0
        return max(1, declaration.call - self._withdrawals.alone(ref.epoch, declaration.prefix, ref.rank))

    def _begin(self, declaration: Declaration) -> Save:
        if self._is_draining:
            raise NotNowError("the daemon is stopping: it begins no more saves")
        if len(self._live) >= self._surroundings.settings.live_saves:
            raise NotNowError(f"{len(self._live)} saves of {self._name} are under way; wait for one to end")
        known = [*self._ended.values(), *self._live]
        earlier = [save for save in known if save.first.prefix == declaration.prefix]
        save = Save(
            run=self._surroundings,
            others=self,
            first=declaration,
            save_id=self._surroundings.new_id(),
            attempt=max((save.attempt for save in earlier), default=0) + 1,
            number=self._surroundings.stored.next_sequence(),
            call=self.call_of(declaration),
        )
        self._live.append(save)
        return save

    def _declared_by(self, ref: SaveRef, request_id: str) -> Save | None:
        """Return the save, under way or ended, that a rank has declared by this request. The lock is held."""
        known = (*reversed(self._live), *reversed(self._ended.values()))
        return next((save for save in known if save.is_declared_by(ref, request_id)), None)

    def _live_save_of(self, prefix: str) -> Save | None:
        """Return the save of a checkpoint that is under way; one that is being dropped is as good as ended."""
        return next((save for save in self._live if save.first.prefix == prefix and not save.session.is_over), None)

    def _ended_save_of(self, declaration: Declaration) -> Save | None:
        """Find the ended save that a declaration repeats, or that aborted while this rank was still on its way to it.

        A rank that has since declared a later save, of any step, is not late for that one: what it declares now is new.
        """
        ref, now, call = declaration.save, self._clock.boot_s(), self.call_of(declaration)
        over = [save for save in self._live if save.session.is_over]
        for save in [*reversed(over), *reversed(self._ended.values())]:
            if (save.first.prefix, save.first.save.epoch) != (declaration.prefix, ref.epoch):
                continue
            if 0 < save.call < call:
                continue
            claim = save.claims.get(ref.rank)
            if claim is not None:
                if claim.request_id == declaration.request_id:
                    return save
            elif save.session.phase is Phase.ABORTED and not save.is_withdrawn:
                if save.told.setdefault(ref.rank, declaration.request_id) != declaration.request_id:
                    continue
                if save.number > self._declared.get(ref.rank, 0) and now - save.began_at <= save.first.timeout_s:
                    return save
        return None

    def withdraw(self, ref: SaveRef, request_id: str, reason: str, name: str) -> None:
        """Take a rank's declaration back; see `Coordinator.withdraw`."""
        with self._lock:
            declared = next((save for save in self._live if save.is_declared_by(ref, request_id)), None)
            if declared is None:
                self._members.check(ref.rank, ref.incarnation, ref.epoch)
            if not self._withdrawals.add(request_id, reason):
                return
            prefix = name if ref.step is None else prefix_for(name, ref.step, self._members.options.pad_step_number)
            live = self._live_save_of(prefix)
            if declared is not None:
                declared.is_withdrawn = len(declared.claims) == 1
                declared.fail(f"rank {ref.rank} gave up: {reason}")
            elif live is not None and ref.rank not in live.claims:
                _end_without(live, {ref.rank: reason})
            if declared.is_withdrawn if declared is not None else live is None:
                self._withdrawals.expect(ref.epoch, prefix, ref.rank, reason, self._clock.boot_s())

    # Queries.

    @property
    def are_any(self) -> bool:
        """Whether a save is under way."""
        return bool(self._live)

    def live(self) -> list[Save]:
        """Return the saves under way, oldest first."""
        with self._lock:
            return list(self._live)

    def is_under_way(self, declaration: Declaration) -> bool:
        """Say whether a declaration belongs to a save that others have begun."""
        with self._lock:
            return self._live_save_of(declaration.prefix) is not None

    def owed_bytes(self) -> dict[str, int | None]:
        """Return the saves under way by their ids, and what has not arrived of each; None of one without a plan."""
        with self._lock:
            return {save.save_id: _owed_bytes(save) for save in self._live}

    def find(self, ref: SaveRef) -> Save:
        """Return the save of that id, under way or ended; `NotFoundError` when there is no trace of it."""
        with self._lock:
            for save in self._live:
                if save.save_id == ref.save_id:
                    return save
            if ref.save_id in self._ended:
                return self._ended[ref.save_id]
        raise NotFoundError(f"this daemon knows nothing of save {ref.save_id!r} of {self._name}")

    def plan_of(self, ref: SaveRef, request_id: str) -> Future[Assignment] | Checkpoint:
        """Return the answer to what a rank has declared by this request; `NotFoundError` when there is no trace of it.

        Raises how the save ended, if it did and not well.
        """
        with self._lock:
            self._members.check(ref.rank, ref.incarnation, ref.epoch)
            save = self._declared_by(ref, request_id)
            if save is None:
                raise NotFoundError(f"rank {ref.rank} has not declared {ref} here")
            return _end_of(save) if save.session.is_over else save.planned_for(ref.rank)

    def differences(self, ref: SaveRef, request_id: str) -> tuple[Difference, ...]:
        """Return what a save that was declared so has stored, or stores, although ranks have other values of it."""
        with self._lock:
            save = self._declared_by(ref, request_id)
            return () if save is None else save.plan.differences

    def waiting_for_plan(self, ref: SaveRef, request_id: str) -> list[str]:
        """Say what a save that was declared so waits for; nothing if it is not under way."""
        with self._lock:
            save = self._declared_by(ref, request_id)
            return [] if save is None or save.session.is_over else save.waiting_for()

    def waiting_for(self, save_id: str) -> list[str]:
        """Say what the save of an id waits for; nothing if it is not under way."""
        with self._lock:
            for save in self._live:
                if not save.session.is_over and save.save_id == save_id:
                    return save.waiting_for()
        return []

    def progress(self, save_id: str) -> SaveProgress | None:
        """Say how far the save of an id is; None if it is not under way."""
        with self._lock:
            save = next((each for each in self._live if each.save_id == save_id and not each.session.is_over), None)
            if save is None:
                return None
            received, total = save.plan.progress()
            return SaveProgress(received, total, furthest_behind(save.plan.debts()))

    def unattended(self) -> list[Future[Checkpoint]]:
        """Return the outcomes of saves that go on by themselves, after a rank of theirs has gone.

        A restart after a crash waits for them: it goes on from what they save.
        """
        with self._lock:
            here, epoch = self._members.connected(), self._members.epoch
            return [
                save.outcome
                for save in self._live
                if save.is_self_contained and (save.ref.epoch != epoch or any(r not in here for r in save.claims))
            ]

    def views(self) -> tuple[SaveView, ...]:
        """Describe those under way for people, oldest first."""
        with self._lock:
            return tuple(_view(save, self._clock.boot_s()) for save in self._live)

    # What a save needs of the others (`ckptd.engine.saves.others.Others`).

    def whereabouts(self, save: Save) -> dict[int, str]:
        """See `Others`."""
        found = {}
        for rank in save.session.missing:
            others = [each.ref.step for each in self._live if rank in each.claims and not each.session.is_over]
            found[rank] = self._members.describe(rank, f", which waits with step {others[-1]}" if others else "")
        return found

    def agent_of(self, rank: int) -> str:
        """See `Others`."""
        return self._members.agent_of(rank)

    def turn_wanted(self) -> None:
        """Let the save that began first commit, if it is ready; the lock is held."""
        if self._live and self._live[0].session.phase is Phase.SEALED:
            self._live[0].handle(machine.TurnCame())

    def ended(self, save: Save) -> None:
        """Remove a save that is over from the queue, start what follows it, and let the next one commit."""
        self._live.remove(save)
        self._ended[save.save_id] = save
        while is_too_much([len(each.claims) for each in self._ended.values()]):
            self._ended.popitem(last=False)
        if save.session.phase is Phase.PUBLISHED:
            checkpoint = save.outcome.result(timeout=0)
            is_listed = save.first.write_state
            self._after.begin(checkpoint, is_listed=is_listed, retired=save.retired, actors=save.actors)
        else:
            save.retired.set_result(None)
            if save.session.error is not None:
                self.last_error = str(save.session.error)
        self.turn_wanted()

    # Time and the end.

    def check_deadlines(self) -> None:
        """End saves from which a rank is gone, late or stalled, and log what the others wait for."""
        with self._lock:
            lost = self._members.lost()
            for save in list(self._live):
                self._check_withdrawals(save)
                save.check_deadlines(lost)
                save.answer_if_removal_is_slow()
                save.remind()

    def _check_withdrawals(self, save: Save) -> None:
        """End a save that waits for a rank that has given it up, and does not begin it again."""
        if save.session.phase is Phase.DECLARING:
            first, missing, now = save.first, save.session.missing, self._clock.boot_s()
            missed = self._withdrawals.missed(first.save.epoch, first.prefix, missing, save.began_at, now)
            if missed:
                _end_without(save, missed)

    def fence_off(self, epoch: int, member: Member) -> None:
        """End the saves of older epochs, as a process has begun a new one; the lock is held."""
        # A save whose bytes are all captured needs no process of the old epoch, and is not lost with it.
        for save in [save for save in self._live if save.ref.epoch != epoch and not save.is_self_contained]:
            if not save.session.committing:
                save.fail(f"its processes are fenced off by epoch {epoch} of {member}")

    def member_left(self, member: Member) -> None:
        """End the saves to which a member still had to send bytes, as those will never come; the lock is held."""
        for save in list(self._live):
            save.check_deadlines({member.rank: (str(member), 0.0)})

    def evicted(self, members: Collection[Member], by: str) -> list[SaveRef]:
        """End the saves that cannot go on without processes that were evicted; return them. The lock is held."""
        ended = []
        for save in list(self._live):
            missing = [member for member in members if member.rank in save.needed()]
            if missing and save.ref.epoch == self._members.epoch and not save.session.committing:
                ended.append(save.ref)
                save.fail(f"{', '.join(map(str, missing[:_MOST_NAMED]))} was evicted by {by}")
        return ended

    def drain(self) -> None:
        """Begin no more saves."""
        with self._lock:
            self._is_draining = True

    def end_all(self, error: CkptdError) -> None:
        """End every save that can still be ended, by what has happened to the run."""
        with self._lock:
            for save in list(self._live):
                own = copy.copy(error)
                own.add_note(f"while saving {save.ref}")
                save.handle(machine.Failed(own))

    def abort_all(self, reason: str) -> None:
        """End every save that can still be ended."""
        with self._lock:
            for save in list(self._live):
                save.fail(reason)


def is_too_much(claims: Sequence[int]) -> bool:
    """Whether the oldest of ended saves is to be forgotten, of which so many ranks took part in each."""
    if len(claims) <= _SURELY_REMEMBERED:
        return False
    return len(claims) > _REMEMBERED_SAVES or sum(claims) > _REMEMBERED_CLAIMS


def _end_without(save: Save, reasons: Mapping[int, str]) -> None:
    """End a save that ranks will not declare, as they gave it up; those ranks need not be told."""
    save.told.update(dict.fromkeys(reasons, ""))
    save.fail("; ".join(f"rank {rank} gave up: {reason}" for rank, reason in sorted(reasons.items())))


def _view(save: Save, now: float) -> SaveView:
    received, total = save.plan.progress()
    return SaveView(
        save=save.ref,
        phase=save.session.phase,
        size_bytes=total,
        received_bytes=received,
        age_s=now - save.began_at,
        waiting_for=tuple(save.waiting_for()),
        needed_ranks=tuple(sorted(save.needed())),
        transports=frozenset(claim.transport for claim in save.claims.values()),
        crossing_bytes=save.plan.crossing_bytes,
        ranks=tuple(_ranks(save)),
    )


def _ranks(save: Save) -> Iterator[RankView]:
    debts = save.plan.debts()
    for rank in range(save.session.world_size):
        claim, debt = save.claims.get(rank), debts.get(rank)
        if claim is None:
            yield RankView(rank, has_declared=False)
        elif debt is None:
            yield RankView(rank, has_declared=True, host=claim.host, transport=claim.transport)
        else:
            received, idle_s = debt.total_bytes - debt.owed_bytes, debt.idle_s if debt.owed_bytes else 0.0
            yield RankView(rank, True, received, debt.total_bytes, idle_s, claim.host, claim.transport)


def _owed_bytes(save: Save) -> int | None:
    received, total = save.plan.progress()
    return total - received if save.plan.shards else None


def _end_of(save: Save) -> Checkpoint:
    """Return the checkpoint of a save that has ended, or raise what ended it."""
    if save.session.error is not None:
        raise remembered(save.session.error)  # its own frames are cleared once it is dropped
    return save.outcome.result(timeout=0)
