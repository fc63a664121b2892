"""One save under way: it passes events to its session and carries out the effects.

All of it is guarded by its run's lock, except where bytes move: lanes have locks of their own, and so has each
shard while it is sealed. Work that touches the store runs on the run's threads, and its result is an event.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial

from ckptd.engine.catalog import free_space
from ckptd.engine.catalog.records import Record
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Declaration, SaveRef
from ckptd.engine.journal import Actor
from ckptd.engine.lanes.capture import Capture
from ckptd.engine.lanes.lane_writer import LaneWriter
from ckptd.engine.lanes.shard import Debt, Shard
from ckptd.engine.lanes.standstill import Standstill
from ckptd.engine.layout import Assignment, Layout
from ckptd.engine.log import log_failed, log_saved, log_waiting, logger
from ckptd.engine.manifest import Manifest
from ckptd.engine.saves import session as machine
from ckptd.engine.saves.answers import settled_by_engine
from ckptd.engine.saves.claim import Claim
from ckptd.engine.saves.committing import put_in_place
from ckptd.engine.saves.course import Course
from ckptd.engine.saves.deadlines import debts_of, waiting_for, why_over
from ckptd.engine.saves.gone_hosts import why_gone
from ckptd.engine.saves.others import Others
from ckptd.engine.saves.planning import Plan
from ckptd.engine.saves.remembered import forget_frames, remembered
from ckptd.engine.saves.session import Event, Session
from ckptd.engine.saves.surroundings import Surroundings
from ckptd.errors import (
    CkptdError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    SessionAbortedError,
)

_LOOK_S_A_RANK = 2.5e-4  # at what thousands owe it looks every few seconds, as that costs microseconds for each
_SLOW_REMOVAL_S = 2.0  # to remove what a failed save wrote: less than a client's grace for our report


@dataclass(eq=False)
class Save:
    """See the module. `began_at` is on the forward-only clock.

    Only the engine completes futures: a caller that gives up cannot cancel them for the others.
    """

    run: Surroundings
    others: Others[Save]
    first: Declaration
    save_id: str
    attempt: int
    number: int  # among all saves of its run, in the order in which they began
    call: int = 0  # which of its ranks' calls of `save` for its step, from 1; 0 if that is not known
    session: Session = field(init=False)
    began_at: float = field(init=False)
    course: Course = field(init=False)
    _reminded_at: float = field(init=False)
    _looked_at: float = float("-inf")
    _failed_at: float | None = None  # when it began to remove what it had written
    outcome: Future[Checkpoint] = field(init=False)
    retired: Future[None] = field(init=False)  # once it is over, and so is what retention does because of it
    claims: dict[int, Claim] = field(default_factory=dict)
    told: dict[int, str] = field(default_factory=dict)  # rank → its request, if told of the end undeclared
    is_repeated: bool = False  # a former coordinator may have been told of it
    is_withdrawn: bool = False  # by the only rank that had declared: the others are not told of its end
    plan: Plan = field(init=False)
    _plan_id: str = ""
    _meta_graph: bytes | None = None
    _meta_suffix: str = "meta"
    _working: threading.Lock = field(default_factory=threading.Lock)  # one of plan, commit and drop at a time

    def __post_init__(self) -> None:
        self.began_at = self._reminded_at = self.run.clock.boot_s()
        self.session, self.plan, self.course = Session(self.first.world_size), Plan(self.run), Course(self.began_at)
        self.outcome, self.retired = settled_by_engine(), settled_by_engine()

    @property
    def ref(self) -> SaveRef:
        """The save's identity, without a sender."""
        save = self.first.save
        return SaveRef(save.run, save.epoch, save.step, self.save_id, self.attempt, self._plan_id)

    @property
    def actors(self) -> tuple[Actor, ...]:
        """The identities of the ranks that have declared it, each once."""
        claims = (self.claims[rank] for rank in sorted(self.claims))
        return tuple(dict.fromkeys(claim.actor for claim in claims if claim.actor is not None))

    # Calls of ranks. The run's lock is held.

    def declare(
        self, declaration: Declaration, manifest: Manifest, capture: Capture | None = None
    ) -> Future[Assignment]:
        """Add a rank's part; the answer comes when every rank has declared. A retry gets the same answer.

        With `capture` the rank sends nothing: its bytes are taken from there.
        """
        rank = declaration.save.rank
        claim = self.claims.get(rank)
        if claim is not None:
            if capture is not None:
                capture.ended()  # the transport is chosen already
            if claim.request_id != declaration.request_id:
                raise ConflictError(f"rank {rank} is already saving {self.ref}")
            if claim.digest != manifest.digest:
                raise ConflictError(f"rank {rank} repeated its declaration of {self.ref} with other tensors")
            return self.planned_for(rank)
        same, other = self.first.said_alike, declaration.said_alike
        if same != other:
            raise InvalidRequestError(
                f"rank {rank} disagrees with rank {self.first.save.rank} about {self.ref}",
                expected=same,
                actual=other,
            )
        if declaration.append_only:
            self.first = replace(self.first, append_only=True)
        self.is_repeated |= bool(declaration.host and declaration.is_repeated)
        planned: Future[Assignment] = settled_by_engine()
        self.claims[rank] = Claim.of(declaration, manifest, capture, planned)
        if declaration.meta_graph is not None:
            self._meta_graph, self._meta_suffix = declaration.meta_graph, declaration.meta_suffix
        self.handle(machine.Declared(rank))
        return planned

    def planned_for(self, rank: int) -> Future[Assignment]:
        """Return the answer to what a rank has declared, which a save under way keeps."""
        planned = self.claims[rank].planned
        assert planned is not None, "a save that is over answers with its outcome"
        return planned

    def is_declared_by(self, ref: SaveRef, request_id: str) -> bool:
        """Whether this process has declared its part of it by this request."""
        claim = self.claims.get(ref.rank)
        return claim is not None and claim.is_by(ref, request_id)

    def lane(self, rank: int, shard: int) -> LaneWriter:
        """Return where a lane's bytes go."""
        if self.session.error is not None:
            raise remembered(self.session.error)
        shards = self.plan.shards
        lane = shards[shard].lanes.get(rank) if 0 <= shard < len(shards) else None
        if lane is None:
            raise NotFoundError(f"rank {rank} owes shard {shard} of {self.ref} nothing")
        return lane

    def waiting_for(self) -> list[str]:
        """Say which ranks the save waits for."""
        return waiting_for(self.session, self._debts(), self.others.whereabouts(self))

    def _debts(self) -> dict[int, Debt]:
        return debts_of(self.session, self.plan.shards, lambda rank: self.claims[rank].is_safe)

    @property
    def is_self_contained(self) -> bool:
        """Whether it goes on by itself: every rank has declared, and what is still missing is in captured memory."""
        return not self.needed()

    def needed(self) -> set[int]:
        """Return the ranks without which it cannot go on, as they have not declared or still send."""
        if self.session.phase is machine.Phase.DECLARING:
            owing = set(range(self.session.world_size))
        else:
            owing = {rank for rank, _ in self.session.owed}
        return {rank for rank in owing if rank not in self.claims or not self.claims[rank].is_safe}

    def check_deadlines(self, lost: Mapping[int, tuple[str, float]]) -> None:
        """End the save if a host or a rank is gone, late or stalled; `lost` is as `Membership.lost` gives it."""
        now, gone = self.run.clock.boot_s(), self.run.gone()
        if not lost and not gone and now - self._looked_at < self.first.world_size * _LOOK_S_A_RANK:
            return
        self._looked_at = now
        without = why_gone(self.session, self.claims, self.plan.shards, gone, self.others.agent_of)
        reason = without or why_over(
            self.session,
            self._debts(),
            {rank: gone for rank, gone in lost.items() if rank not in self.claims or not self.claims[rank].is_safe},
            age_s=now - self.began_at,
            timeout_s=self.first.timeout_s,
            settings=self.run.settings,
            whereabouts=lambda: self.others.whereabouts(self),
        )
        if reason is not None:
            self.fail(reason)

    def remind(self) -> None:
        """Write a line from time to time that says what the save waits for. The run's lock is held."""
        now = self.run.clock.boot_s()
        if now - self._reminded_at >= self.run.settings.notice_s and not self.session.is_over:
            self._reminded_at = now
            log_waiting(self.ref, now - self.began_at, self.waiting_for())

    def answer_if_removal_is_slow(self) -> None:
        """Tell the ranks that the save has failed if removing what it wrote takes long. The run's lock is held.

        A store that hangs is the most likely reason for both, and a rank waits no longer than its timeout.
        """
        error = self.session.error
        if error is None or self._failed_at is None or self.outcome.done():
            return
        if self.run.clock.boot_s() - self._failed_at >= _SLOW_REMOVAL_S:
            error.add_note("what it had written is not removed yet, as the store does not answer; that goes on")
            self._tell_failed(error)
            for claim in self.claims.values():
                claim.refuse(error)

    def fail(self, reason: str) -> None:
        """End the save, if it still can be ended."""
        self.handle(machine.Failed(SessionAbortedError(f"{self.ref} was aborted: {reason}")))

    # Events and effects.

    def post(self, event: Event) -> None:
        """Post an event from any thread. An event that comes after the end of the save is ignored."""
        with self.run.lock:
            if not self.session.is_over:
                self.handle(event)

    def handle(self, event: Event) -> None:
        """Apply an event and start its effects. The run's lock is held."""
        self.session, effects = machine.step(self.session, event)
        self.course.note(self.session, self.run.clock.boot_s())
        for effect in effects:
            match effect:
                case machine.MakePlan():
                    self._begin(self._make_plan)
                case machine.Seal(shard) if self.plan.shards[shard].finishes_at_once:
                    self._seal(shard, self.plan.shards[shard])
                case machine.Seal(shard):
                    self._begin(self._seal, shard, self.plan.shards[shard])
                case machine.AwaitTurn():
                    self.others.turn_wanted()
                case machine.Commit():
                    self._begin(self.commit, failed=machine.CommitFailed)  # it announces, as it knows the checkpoint
                case machine.Drop(error):
                    self._failed_at = self.run.clock.boot_s()
                    self._begin(self._drop, error)

    def _begin(
        self, work: Callable[..., None], *arguments: object, failed: Callable[[CkptdError], Event] = machine.Failed
    ) -> None:
        def guarded() -> None:
            try:
                work(*arguments)
            except CkptdError as error:
                error.add_note(f"while saving {self.ref}")
                self.post(failed(error))
            except Exception as error:
                # A bug must end this save, or its ranks would wait until their deadline to learn of it.
                logger.exception("internal error while saving %s", self.ref)
                failure = SessionAbortedError(f"{self.ref} was aborted by an internal error: {error!r}")
                failure.__cause__ = error
                self.post(failed(failure))

        self.run.workers.submit(guarded)

    def _make_plan(self) -> None:
        with self._working:
            if self.session.is_over:
                return
            claims = [self.claims[rank] for rank in range(self.session.world_size)]
            layout = self.plan.lay_out(self.ref, claims)
            for claim in claims:
                claim.forget_declared()
            meta_suffix = None if self._meta_graph is None else self._meta_suffix
            revived = self.plan.revive(self.ref, self.first, layout, claims, meta_suffix)
            if revived is None and self.is_repeated:
                with self.run.stored.lock:
                    self.run.stored.catalog.writers.check_may_begin_anew(self.first.save.step)
            self._go_on_with(revived)
            self.run.journal.save_begins(self.ref, self.first.prefix, self.actors)
            self.plan.begin(
                self.ref,
                self.first,
                layout,
                meta_suffix,
                number=self.number,
                on_end=self.lane_ended,
                on_failure=lambda error: self.post(machine.Failed(remembered(error))),
            )
        with self.run.lock:
            if self.session.is_over:
                return
            self._plan_id = f"{self.save_id}.{self.attempt}"
            assert self.plan.layout is not None
            self.handle(machine.Planned(len(self.plan.shards), frozenset(self.plan.layout.lane_segments)))
            self._answer_ranks(claims, self.plan.layout)

    def _go_on_with(self, revived: Record | None) -> None:
        """Take the identity that a former life of the coordinator gave to this save: agents know it by that."""
        if revived is not None:
            with self.run.lock:
                self.save_id, self.attempt = revived.save_id, revived.attempt
            logger.info("%s goes on as save %s, which a former life of the coordinator began", self.ref, self.save_id)

    def _answer_ranks(self, claims: Sequence[Claim], layout: Layout) -> None:
        """Tell each rank what it has to send, and take what is captured here already. The run's lock is held."""
        standstill = Standstill([claim.capture for claim in claims if claim.capture is not None])
        of_all = self.ref
        for rank, claim in enumerate(claims):
            if claim.planned is not None:
                ref = replace(of_all, rank=rank, incarnation=claim.incarnation)
                claim.planned.set_result(self.plan.assignment(ref, claim.transport, sends=not claim.host))
            if claim.capture is None:
                continue
            own = (self.plan.shards[shard].lanes.get(rank) for shard in layout.shards_of.get(rank, ()))
            lanes = [lane for lane in own if lane is not None]
            claim.feed(layout, lanes, standstill, self.run.feeders.submit)

    def lane_ended(self, rank: int, shard: int) -> None:
        """Hear that a shard has all that it gets from a rank. From any thread."""
        self.lanes_ended((rank,), shard)

    def lanes_ended(self, ranks: Iterable[int], shard: int) -> None:
        """Hear that a shard has all that it gets from these ranks. From any thread."""
        with self.run.lock:
            now = self.run.clock.boot_s()
            for rank in ranks:
                self.claims[rank].done_at = now
                if not self.session.is_over:
                    self.handle(machine.LaneEnded(rank, shard))

    def _seal(self, number: int, shard: Shard) -> None:
        if not self.session.is_over and shard.finish():
            self.post(machine.ShardSealed(number))

    def commit(self) -> None:
        """Put the index in place: the commit. On a thread of the run."""
        record = self.plan.record
        assert record is not None
        with self._working:
            index = self.plan.index()
            with self.run.stored.lock:
                checkpoint = put_in_place(
                    self.run.stored.catalog,
                    record,
                    index,
                    self._meta_graph,
                    ref=self.ref,
                    overwrite=self.first.overwrite,
                    duration_s=self.run.clock.boot_s() - self.began_at,
                )
                shard_keys = dict(enumerate(record.shard_keys))
                with self.run.lock:  # before any call can delete it again
                    for claim in self.claims.values():
                        claim.keep_in_memory(self.save_id, self.plan.index_crc32c, shard_keys)
                self.run.stored.look()
                self.course.publishing_at = self.run.stored.stepped_at.get("publish.state")
        self._tell_end()  # before any rank hears of it
        with self.run.lock:
            self.handle(machine.Committed())
            self.handle(machine.Published())
            slowest = self.course.slowest(self.claims)
            log_saved(self.ref, checkpoint, *slowest, self.run.clock.boot_s() - self.began_at)
            self._end(checkpoint)

    def _drop(self, error: CkptdError) -> None:
        try:
            with self._working:
                self.plan.remove(error)
        except CkptdError as failure:
            logger.warning("could not clean up after %s: %s", self.ref, failure)
            error.add_note(f"what it had written could not be removed now: {failure}")
        finally:
            if self.plan.record is not None:
                free_space.measure(error, self.plan.record.size_bytes, self.run.store)
            self._tell_end(error)
            with self.run.lock:
                self._end(error)

    def _tell_end(self, error: CkptdError | None = None) -> None:
        measured = partial(self.course.measured, self.claims, self.first.world_size, self.plan, self.run.clock.boot_s())
        self.run.journal.save_ended(self.ref, self.actors, measured, prefix=self.first.prefix, error=error)

    def _end(self, result: Checkpoint | CkptdError) -> None:
        if isinstance(result, CkptdError):
            if not self.outcome.done():
                self._tell_failed(result)
        else:
            self.outcome.set_result(result)
        for claim in self.claims.values():
            claim.end(result if isinstance(result, CkptdError) else None)
        # Ended saves are remembered for a while, and what they held may be large.
        self.plan.forget()
        self._meta_graph = None
        self.first = replace(self.first, meta_graph=None)
        self.others.ended(self)

    def _tell_failed(self, error: CkptdError) -> None:
        log_failed(self.ref, error)
        # Before it is announced: clearing the frame of a coroutine that is about to report it would end that coroutine.
        forget_frames(error)
        self.outcome.set_exception(error)
