"""One run: its members, its saves and its checkpoints, and how they depend on each other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial

from ckptd.engine.catalog.fence import Life
from ckptd.engine.catalog.floor import FloorNow, no_floor
from ckptd.engine.catalog.ledger import ConfirmRoot, confirm_nothing
from ckptd.engine.catalog.retention import requested
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import Clock
from ckptd.engine.identity import Declaration, Member, RunOptions
from ckptd.engine.journal import NO_JOURNAL, Journal
from ckptd.engine.lanes.capture import Capture
from ckptd.engine.layout import Assignment
from ckptd.engine.log import log_evicted
from ckptd.engine.manifest import Manifest
from ckptd.engine.saves.after_publishing import AfterPublishing
from ckptd.engine.saves.answers import answered, failed, settled
from ckptd.engine.saves.known_layouts import KnownLayouts
from ckptd.engine.saves.listeners import Listeners
from ckptd.engine.saves.members import Members
from ckptd.engine.saves.ownership import OwnershipWatch
from ckptd.engine.saves.readers import Readers
from ckptd.engine.saves.run_journal import RunJournal
from ckptd.engine.saves.save_queue import SaveQueue
from ckptd.engine.saves.served_catalog import ServedCatalog
from ckptd.engine.saves.shares import Share
from ckptd.engine.saves.surroundings import Admit, Surroundings, admit_all, new_id
from ckptd.engine.saves.views import Eviction, RunView
from ckptd.engine.settings import Settings
from ckptd.errors import CkptdError, ConflictError, NotFoundError, NotPermittedError
from ckptd.storage.base import Store


class Run:
    """See the module. Every method may be called from any thread.

    Attributes:
        lock: guards `members` and `saves`; held for moments only, never while the store works.
        stored: its checkpoints. Their lock is held while the store works, and never taken while `lock` is held by the
            same thread.
        members: the processes that may save.
        saves: those under way, and those that ended lately.
    """

    def __init__(
        self,
        name: str,
        store: Store,
        *,
        settings: Settings,
        clock: Clock,
        workers: Share,
        feeders: Share,
        readers: Readers,
        writers: Callable[[str], tuple[str, ...]],
        owner: ExitStack | None,
        holder: str,
        life: Life | None = None,
        on_look: Callable[[frozenset[str]], None],
        listeners: Listeners | None = None,
        floor: FloorNow = no_floor,
        admit: Admit = admit_all,
        gone: Callable[[], Mapping[str, float]] = dict,
        term: Callable[[], int] = int,
        confirm_root: ConfirmRoot = confirm_nothing,
        journal: Journal = NO_JOURNAL,
        new_id: Callable[[], str] = new_id,
    ) -> None:
        self.name = name
        self.lock = threading.RLock()
        self._clock, self._workers, self._readers, self._owner = clock, workers, readers, owner
        self._listeners = listeners or Listeners(name)
        told = RunJournal(journal, name)
        self.stored = ServedCatalog(
            store,
            name,
            clock=clock,
            undo_s=settings.undo_s,
            holder=holder,
            life=life,
            readers=readers,
            notes_rest=owner is None and not store.has_locks,
            on_look=on_look,
            on_rolled_back=self._listeners.tell_again,
            floor=floor,
            journal=told,
            confirm_root=confirm_root,
        )
        surroundings = Surroundings(
            store=store,
            clock=clock,
            settings=settings,
            lock=self.lock,
            stored=self.stored,
            layouts=KnownLayouts(store.durability, settings.shards),
            workers=workers,
            feeders=feeders,
            writers=writers,
            gone=gone,
            term=term,
            admit=admit,
            journal=told,
            new_id=new_id,
        )
        self.members = Members(name, store, self.stored, lock=self.lock, clock=clock, lease_s=settings.lease_s)
        self._after = AfterPublishing(name, store, self.stored, self._listeners, workers)
        self.saves = SaveQueue(name, surroundings, self.members, self._after)
        # Where the store has locks, no other owner can take the run.
        self._ownership = None if store.has_locks else OwnershipWatch(name, surroundings, self.members, self.saves)

    def open(self, versions: Mapping[str, str] | None = None) -> None:
        """Recover the run's directory and load what it holds; see `ServedCatalog.open`."""
        self.members.resume(self.stored.open(versions))

    # Members.

    def join(self, member: Member, options: RunOptions) -> int:
        """Give a process its place; a new epoch ends the saves of the old one.

        When this returns, the epoch is durable and the options are in force. When it raises, the process has no place:
        a repeated call begins anew.
        """
        policy = requested(options)
        with self.lock:
            before = self.members.epoch
            epoch = self.members.take_place(member, options)
            if epoch != before:
                self.saves.fence_off(epoch, member)
        try:
            with self.stored.lock:
                self.members.put_in_force(member, epoch, options, policy)
        except BaseException:
            # Options that are not in force must not look so to the next call, nor keep the place taken.
            self.leave(member, epoch)
            raise
        return epoch

    @property
    def is_founded(self) -> bool:
        """Whether it has had a member at some time: from then on it is there, for others as well."""
        return self.stored.durable_epoch > 0

    def check_member(self, rank: int, incarnation: str, epoch: int) -> None:
        """Raise `ConflictError` unless this process holds this place in this epoch."""
        with self.lock:
            self.members.check(rank, incarnation, epoch)

    def disconnect(self, member: Member, epoch: int, silent_s: float = 0.0) -> None:
        """Note that a member's connection broke, so long ago."""
        with self.lock:
            self.members.disconnect(member, epoch, silent_s)

    def leave(self, member: Member, epoch: int) -> None:
        """Take a member's place back; what it still had to send will never come."""
        with self.lock:
            if self.members.leave(member, epoch):
                self.saves.member_left(member)

    def evict(self, rank: int | None, by: str) -> Eviction:
        """Free the place of one rank, or of all; see `Coordinator.evict`."""
        with self.lock:
            members = self.members.evict(rank, by)
            if not members:
                missing = "no process holds a place" if rank is None else f"no process holds the place of rank {rank}"
                raise NotFoundError(missing, key=self.name)
            eviction = Eviction(tuple(members), tuple(self.saves.evicted(members, by)))
        log_evicted(self.name, eviction.members, eviction.saves, by)
        return eviction

    # Saving.

    def declare(
        self, declaration: Declaration, manifest: Manifest, capture: Capture | None = None
    ) -> Future[Assignment] | Checkpoint:
        """Take one rank's declaration; see `Coordinator.declare`."""
        with self.lock:
            self.members.check_declares(declaration)
            answer = self.saves.declare_known(declaration, manifest, capture)
            if answer is not None:
                return answer
        # Only now read the store, without blocking the others.
        name, step = declaration.name, declaration.save.step
        with self.stored.lock:
            catalog = self.stored.catalog
            taken = not declaration.overwrite and catalog.exists(name, step) and not catalog.is_replaceable(name, step)
            why_lost = catalog.why_lost(name, step) if declaration.append_only and declaration.overwrite else ""
            is_new = not (declaration.host and declaration.is_repeated)
            doubt = catalog.writers.why_not_begin(step, is_new=is_new)
        with self.lock:
            answer = self.saves.declare_known(declaration, manifest, capture)  # others may have begun it meanwhile
            if answer is not None:
                return answer
            if taken:
                raise ConflictError(f"{declaration.save} is already saved; pass overwrite=True to replace it")
            if doubt:
                raise ConflictError(f"{declaration.save} does not begin: {doubt}")
            if why_lost:
                raise NotPermittedError(
                    f"{declaration.save} is already saved, and {why_lost}: replacing it needs the role `manage`"
                )
            return self.saves.declare_new(declaration, manifest, capture)

    def declare_together(
        self, declared: Sequence[tuple[Declaration, Manifest]]
    ) -> list[Future[Assignment | Checkpoint]]:
        """Take declarations of several ranks, mostly of a save that others have begun, and so under one lock."""
        answers: list[Future[Assignment | Checkpoint]] = []
        with self.lock:
            for declaration, manifest in declared:
                try:
                    self.members.check_declares(declaration)
                    answer = self.saves.declare_known(declaration, manifest, None)
                except CkptdError as error:
                    answers.append(failed(error))
                    continue
                if answer is None:
                    break
                answers.append(settled(answer))
        for declaration, manifest in declared[len(answers) :]:
            answers.append(answered(partial(self.declare, declaration, manifest)))
        return answers

    # What operators see.

    def view(self) -> RunView:
        """Describe the run for people."""
        with self.lock:
            saves, connected = self.saves.views(), tuple(self.members.connected())
            epoch, world_size = self.members.epoch, self.members.world_size
        shortage, checkpoints = self._after.shortage, tuple(self.stored.checkpoints())
        return RunView(
            self.name,
            epoch,
            world_size,
            connected,
            saves,
            self.stored.latest(),
            len(checkpoints),
            self.saves.last_error,
            problems=(*self.stored.problems_in_words(), *([shortage] if shortage else [])),
            damaged=tuple(self.stored.quarantined()),
            checkpoints=checkpoints,
            foreseen=self.stored.foreseen,
        )

    # Time and the end.

    def tick(self) -> None:
        """Apply deadlines, and sweep what can be undone no longer."""
        if self.stored.is_sweep_due():
            self._workers.submit(self.stored.retire)
        if self._ownership is not None:
            self._ownership.tick()
        if not self.saves.are_any and self.stored.is_rest_note_due():
            self._workers.submit(self.stored.note_rest)
        self.saves.check_deadlines()

    def is_joined(self) -> bool:
        """Whether processes have joined, or saves are under way."""
        with self.lock:
            return self.saves.are_any or not self.members.is_free()

    def is_at_rest(self) -> bool:
        """Whether nothing needs the run open: no member, save, reader or watcher, and nothing to sweep in time."""
        if self.stored.is_to_be_swept or not self._listeners.is_empty:
            return False
        if self.stored.is_taken_over:
            return False  # opening it again would take it back, which we must not decide
        if self.is_joined():
            return False
        return not self._readers.are_in(self.name, self._clock.boot_s())

    def close(self) -> None:
        """Release the run; later work on it finds it closed."""
        self.stored.close()
        if self._owner is not None:
            self._owner.close()
