"""The entry point of the engine: runs, their saves, their checkpoints. A daemon has one, direct mode has one.

Thread-safe. No call blocks for longer than its own work on the store; what waits for others returns a future.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import TypeVar

from ckptd.engine.catalog.floor import NO_FLOOR, Floor
from ckptd.engine.catalog.nesting import check_apart, is_run
from ckptd.engine.catalog.retention import Rule
from ckptd.engine.catalog.root import stored_runs
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import Clock, SystemClock
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.journal import NO_JOURNAL, Journal
from ckptd.engine.lanes.capture import Capture
from ckptd.engine.lanes.lane_writer import LaneWriter
from ckptd.engine.layout import Assignment
from ckptd.engine.offline.repair import Repaired, repair
from ckptd.engine.saves.answers import answered, known
from ckptd.engine.saves.engine_threads import EngineThreads
from ckptd.engine.saves.from_agents import FromAgents
from ckptd.engine.saves.held_root import HeldRoot
from ckptd.engine.saves.inspection import Inspection
from ckptd.engine.saves.known_manifests import KnownManifests
from ckptd.engine.saves.listeners import Listeners, OnPublished
from ckptd.engine.saves.readers import Readers
from ckptd.engine.saves.restores import Restores, check_not_all_in_quarantine
from ckptd.engine.saves.run import Run
from ckptd.engine.saves.runs import Runs
from ckptd.engine.saves.save_queue import SaveQueue
from ckptd.engine.saves.served_catalog import ServedCatalog
from ckptd.engine.saves.session import Phase
from ckptd.engine.saves.surroundings import Admit, admit_all, new_id
from ckptd.engine.saves.views import Eviction, RunView
from ckptd.engine.saves.workers import MakePool, Workers
from ckptd.engine.settings import Settings
from ckptd.errors import ConflictError, NotFoundError
from ckptd.format import names
from ckptd.storage.base import Store

logger = logging.getLogger("ckptd.engine")

Result = TypeVar("Result")

_CLEAN_UP_S = 10.0  # at the end, for removing what aborted saves wrote


class Coordinator:
    """See the module. Call `open` before anything else, and `close` at the end."""

    def __init__(
        self,
        store: Store,
        *,
        settings: Settings | None = None,
        clock: Clock | None = None,
        owns_root: bool = True,
        takes_over: bool = True,
        holder: str | None = None,
        journal: Journal = NO_JOURNAL,
        pools: MakePool = Workers,
        new_id: Callable[[], str] = new_id,
    ) -> None:
        """Prepare a coordinator over `store`.

        Args:
            store: where checkpoints go.
            settings: bounds; the defaults suit a daemon.
            clock: both kinds of time.
            owns_root: a daemon owns all runs below its root. Direct mode owns the runs that it opens, so that
                several programs may work below one root.
            takes_over: in a store without locks, whether to take the root or a run from an owner when no process
                can tell whether that owner is alive.
            holder: our name, as shown to processes that are refused.
            journal: is told what happens to runs.
            pools: makes the pools that do what may wait.
            new_id: returns a word for each save that no other has had.
        """
        self.store, self.objects = store, store
        self.root = HeldRoot(store, owns_all=owns_root, takes_over=takes_over, holder=holder)
        self.settings = settings or Settings()
        self.clock = clock or SystemClock()
        self.on_catalog: Callable[[str, frozenset[str]], None] = lambda run, save_ids: None
        """Called with a run and the ids of its saves, when its catalog has been read. The catalog's lock is held:
        no save can take the place of one that is gone before this returns, and it must not block."""
        self.floor_of: Callable[[str], Floor] = lambda run: NO_FLOOR
        """Returns what the operator keeps of a run; called whenever something may be deleted. It must not block."""
        self.admit: Admit = admit_all
        """Called with each save and its size before anything of it is written; see `Admit`. May block."""
        self.manifests = KnownManifests()
        self.writers: tuple[str, ...] = ()  # addresses that plans name for shards that we write; set once known
        self.pools, self._new_id = pools, new_id
        self._owns_root, self._journal, self._ticking = owns_root, journal, threading.Lock()
        self._is_closed = False  # from then on no worker takes the work that a tick would begin
        self._runs = Runs(
            store, self._build, settings=self.settings, clock=self.clock, closes_at_rest=owns_root, pools=pools
        )
        self.restores = Restores(self._runs)
        self.agents = FromAgents(self._runs)
        self._inspection = Inspection(store, self._runs)
        self._founding = threading.Lock()
        self._readers = Readers()
        self._threads = EngineThreads(self.settings, pools)

    # Life.

    def open(self) -> None:
        """Take the root; `ConflictError` names the daemon that holds it.

        Runs are opened when they are needed; see also `inspect`.
        """
        self._threads.open()
        if self._owns_root:
            self._runs.start()
        self.root.take(allow_unfenced=self.settings.allow_unfenced, journal=self._journal)

    def close(self, grace_s: float = 0.0) -> bool:
        """Begin nothing more, wait at most `grace_s` for what is under way, end the rest, and release the root.

        Returns whether everything under way was published.
        """
        self._inspection.stop()
        runs = self._runs.begin_no_more()
        for run in runs:
            run.saves.drain()
        under_way = [save.outcome for run in runs for save in run.saves.live()]
        wait(under_way, grace_s)
        for run in runs:
            run.saves.abort_all("the daemon is stopping")
        self._threads.settle(_CLEAN_UP_S)
        with self._ticking:
            self._is_closed = True
        self._threads.close()
        self._runs.close()
        self.root.release()
        return all(outcome.done() and outcome.exception() is None for outcome in under_way)

    def tick(self) -> None:
        """Apply deadlines; to be called several times a second. After `close` it does nothing."""
        with self._ticking:
            if not self._is_closed:
                self._runs.tick()

    def taken_over(self) -> tuple[list[str], bool]:
        """Return the runs that another owner has taken over from us, and whether these are all that are open."""
        opened = self._runs.opened()
        lost = [run.name for run in opened if run.stored.is_taken_over]
        return lost, bool(lost) and len(lost) == len(opened)

    def settle(self, timeout_s: float) -> bool:
        """Wait until no work is left that needs no rank, cleaning up included; return whether that happened in time."""
        give_up_at = time.monotonic() + timeout_s
        return self._threads.settle(timeout_s) and self._runs.settle(max(0.0, give_up_at - time.monotonic()))

    # Members.

    def join(self, run: str, member: Member, options: RunOptions) -> int:
        """Give a process its place in a run; return the epoch. `ConflictError` names the present holder."""
        names.check_run_name(run)
        names.check_checkpoint_name(options.name)
        names.check_state_name(options.latest_filename)
        Rule.named(options.retention)
        if not self.is_founded(run):
            check_apart(self.store, run)
        with self._runs.use(run, create=True) as opened:
            assert opened is not None, "joining makes a run"
            if opened.is_founded or not self.store.has_locks:
                return opened.join(member, options)
            with self._founding:  # of two nested runs that begin at once, the second finds the first
                check_apart(self.store, run)
                return opened.join(member, options)

    def is_founded(self, run: str) -> bool:
        """Whether a run has had a member at some time: then its name is taken."""
        known = self._runs.if_open(run)
        return (known is not None and known.is_founded) or is_run(self.store, names.check_run_name(run))

    def disconnect(self, run: str, member: Member, epoch: int, silent_s: float = 0.0) -> None:
        """Note that a member's connection broke so long ago: its lease began then."""
        opened = self._runs.if_open(run)
        if opened is not None:
            opened.disconnect(member, epoch, silent_s)

    def leave(self, run: str, member: Member, epoch: int) -> None:
        """Take a member's place back at once."""
        opened = self._runs.if_open(run)
        if opened is not None:
            opened.leave(member, epoch)

    def evict(self, run: str, rank: int | None, by: str) -> Eviction:
        """Free the place of one rank, or of all, and end its saves in the name of `by`; see `Membership.evict`."""
        with self._runs.stored(run) as opened:
            return opened.evict(rank, by)

    # Saving.

    def check_member(self, run: str, rank: int, incarnation: str, epoch: int) -> None:
        """Raise `ConflictError` unless this process holds this place of the run."""
        with self._runs.joined(run) as opened:
            opened.check_member(rank, incarnation, epoch)

    def declare(self, declaration: Declaration, capture: Capture | None = None) -> Future[Assignment | Checkpoint]:
        """Take one rank's declaration of a save.

        The future gives the rank's assignment when every rank has declared, or at once the checkpoint if this
        repeats a save that has been published. It fails as the save fails. May be repeated.

        With `capture` the rank sends nothing: its bytes are taken from memory that it shares with us. A repeated
        declaration leaves the transport as the first one chose it.
        """
        names.check_checkpoint_name(declaration.name)
        names.check_meta_suffix(declaration.meta_suffix)
        manifest = self.manifests.find(declaration.manifest_digest)

        def answer() -> Future[Assignment] | Checkpoint:
            with self._runs.joined(declaration.save.run) as run:
                return run.declare(declaration, manifest, capture)

        return answered(answer)

    def plan_of(self, save: SaveRef, request_id: str) -> Future[Assignment | Checkpoint]:
        """Return the answer to what `save.rank` has declared by this request, as `declare` gave it.

        It fails with `NotFoundError` where there is no trace of the declaration.
        """

        def answer() -> Future[Assignment] | Checkpoint:
            saves = self.saves_of(save.run)
            if saves is None:
                raise NotFoundError(f"rank {save.rank} has not declared {save} here")
            return saves.plan_of(save, request_id)

        return answered(answer)

    def lane(self, save: SaveRef, shard: int) -> LaneWriter:
        """Return where the bytes that `save.rank` owes `shard` go."""
        with self._runs.stored(save.run) as run:
            found = run.saves.find(save)
            with run.lock:
                if found.session.phase is Phase.DECLARING:
                    raise ConflictError(f"{save} has no plan yet")
                claim = found.claims.get(save.rank)
                if claim is None or claim.incarnation != save.incarnation:
                    raise ConflictError(f"this process has not declared {save} as rank {save.rank}")
                return found.lane(save.rank, shard)

    def outcome(self, save: SaveRef) -> Future[Checkpoint]:
        """Return how a save ends, or ended; also a save from before the daemon's restart, if it was published.

        `NotFoundError` when there is no trace of it: then it was not acknowledged and left nothing behind.
        """
        with self._runs.stored(save.run) as run:
            published = run.stored.published_save(save.save_id)
            if published is None:
                return run.saves.find(save).outcome
        return known(published)

    def retired(self, save: SaveRef) -> Future[None]:
        """Return a future that is done once a save is over, and with it what retention does because of it.

        For a save from before a restart, or one that ended long ago, it is done: opening the run completes retention.
        """
        try:
            with self._runs.stored(save.run) as run:
                return run.saves.find(save).retired
        except NotFoundError:
            return known(None)

    def phase(self, save: SaveRef) -> Phase | None:
        """Return how far a save has come; None when there is no trace of it."""
        try:
            with self._runs.stored(save.run) as run:
                if run.stored.published_save(save.save_id) is not None:
                    return Phase.PUBLISHED
                return run.saves.find(save).session.phase
        except NotFoundError:
            return None

    def saves_of(self, run: str) -> SaveQueue | None:
        """Return the saves of a run, None where it is not open. For reading only: it may be closed at any moment."""
        found = self._runs.if_open(run)
        return None if found is None else found.saves

    def abort(self, save: SaveRef, reason: str) -> None:
        """End a save, if it can still be ended."""
        with self._runs.stored(save.run) as run, run.lock:
            run.saves.find(save).fail(f"rank {save.rank} gave up: {reason}")

    def withdraw(self, save: SaveRef, request_id: str, reason: str, name: str) -> None:
        """Take back what `save.rank` declared by this request, or was about to: it gave its save of `name` up.

        The save of ranks that have declared it ends, if it can still be ended. If there are none, those that come
        wait a moment for the rank to declare it anew; see `withdrawals`. May be repeated.
        """
        names.check_checkpoint_name(name)
        with self._runs.stored(save.run) as run:
            run.saves.withdraw(save, request_id, reason, name)

    # Checkpoints.

    def latest(self, run: str, name: str = names.ANY_NAME) -> Checkpoint | None:
        """Return the newest complete checkpoint of a run that `name` means; see `series`, and for ranks `restores`.

        Raises:
            CorruptionError: when all that it has are in quarantine.
        """
        with self._runs.use(run) as found:
            latest = None if found is None else found.stored.latest(name)
            if found is not None and latest is None:
                check_not_all_in_quarantine(found.stored, name)
            return latest

    def checkpoints(self, run: str) -> list[Checkpoint]:
        """Return the checkpoints of a run, oldest first."""
        return self.look(run, lambda stored: stored.checkpoints(), [])

    def in_catalog(self, run: str, work: Callable[[ServedCatalog], Result]) -> Result:
        """Do something to the checkpoints of a run, which stays open meanwhile; `NotFoundError` when there is none."""
        with self._runs.stored(run) as found:
            return work(found.stored)

    def look(self, run: str, work: Callable[[ServedCatalog], Result], otherwise: Result) -> Result:
        """Return what `work` finds among the checkpoints of a run; `otherwise` where nothing is stored of it."""
        with self._runs.use(run) as found:
            return otherwise if found is None else work(found.stored)

    def stored_runs(self) -> Iterator[str]:
        """Yield the names of the runs below the root, open or not."""
        return iter(stored_runs(self.store))

    def subscribe(self, run: str, on_published: OnPublished) -> Callable[[], None]:
        """Call `on_published`, from any thread, for each checkpoint published from now on; return what ends that.

        The run need not be there yet.
        """
        return self._runs.subscribe(run, on_published)

    def note_read(self, key: str) -> None:
        """Note that an object is being read through us; retention spares its checkpoint for as long as that goes on."""
        self._readers.note(key, self.clock.boot_s())

    def runs(self) -> list[RunView]:
        """Describe every run that is open, quarantined, or damaged in part, by name."""
        return self._runs.views()

    def attending(self) -> None:
        """See `Engine`: there is no coordinator but this."""

    def when_open(self, run: str, *, create: bool = False) -> Future[None]:
        """Return a future that is done when a call about a run need not wait for it to be opened. Never blocks."""
        return self._runs.when_open(run, create=create)

    def repair(self, run: str, latest_filename: str) -> Repaired:
        """Mend a run that has no members, and open it again; see `ckptd.engine.offline.repair`.

        Raises:
            UnavailableError: when calls about it are under way.
            ConflictError: when processes have joined it.
        """
        names.check_checkpoint_name(latest_filename)
        with self._runs.kept_closed(run):
            repaired = repair(self.store, run, latest_filename, life=self.root.life)
        with self._runs.use(run):  # raises what is still wrong with it
            return repaired

    def inspect(self) -> None:
        """Begin to check every stored run, in the background: what a crash left is completed or swept.

        A daemon calls it once it listens. A call about a run meanwhile opens that run first.
        """
        if self._owns_root:
            self._inspection.start()

    def is_inspected(self, timeout_s: float) -> bool:
        """Wait until `inspect` has checked every run, at most so long; return whether that happened in time."""
        return self._inspection.wait(timeout_s)

    def _build(self, name: str, listeners: Listeners) -> Run:
        return Run(
            name,
            self.store,
            settings=self.settings,
            clock=self.clock,
            workers=self._threads.workers_of(name),
            feeders=self._threads.feeders_of(name),
            readers=self._readers,
            writers=lambda host: self.agents.addresses(host) if host else self.writers,
            owner=self.root.lock_run(name),
            holder=self.root.holder,
            life=self.root.life,
            on_look=lambda save_ids: self.on_catalog(name, save_ids),
            listeners=listeners,
            gone=lambda: self.agents.gone(),
            term=lambda: self.agents.term,
            confirm_root=lambda max_age_s: self.agents.confirm_root(max_age_s),
            admit=lambda save, size_bytes: self.admit(save, size_bytes),
            floor=lambda: self.floor_of(name),
            journal=self._journal,
            new_id=self._new_id,
        )
