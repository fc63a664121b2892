"""One run: its members, its saves in progress in their order, and its checkpoints."""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from ckptd.engine.catalog import epochs, free_space
from ckptd.engine.catalog.fence import Life
from ckptd.engine.catalog.retention import RetentionPolicy
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import Clock
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.lanes.capture import Capture
from ckptd.engine.lanes.plan import PAGE_BYTES, plan
from ckptd.engine.layout import Assignment, Layout
from ckptd.engine.log import logger
from ckptd.engine.manifest import Manifest
from ckptd.engine.refusals import NotNowError
from ckptd.engine.replicas import Difference
from ckptd.engine.saves import session as machine
from ckptd.engine.saves.listeners import Listeners
from ckptd.engine.saves.membership import Membership
from ckptd.engine.saves.readers import Readers
from ckptd.engine.saves.remembered import remembered
from ckptd.engine.saves.save import Save
from ckptd.engine.saves.served_catalog import ServedCatalog, policy_of
from ckptd.engine.saves.session import Phase
from ckptd.engine.saves.shares import Share
from ckptd.engine.saves.views import RunView, SaveView
from ckptd.engine.saves.withdrawals import Withdrawals
from ckptd.engine.settings import MAX_SHARDS, Settings
from ckptd.errors import (
    CkptdError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    SessionAbortedError,
)
from ckptd.format.names import prefix_for
from ckptd.storage.base import Durability, Lock, Store

_REMEMBERED_SAVES = 64  # ended ones, so that a lost answer can be requested again
_REMEMBERED_LAYOUTS = 4
_CONFIRM_AGAIN_S = 2.0  # while saves are under way; well below what a commit wants
_CONFIRM_IDLE_S = 10.0  # while none is: so that health tells before a save fails
_TAKE_BACK_AGAIN_S = 60.0  # two owners that both want a run would let no save of either come to its end


class Run:
    """See the module. Every method may be called from any thread.

    Attributes:
        lock: guards saves and membership; held for moments only, never while the store works.
        stored: its checkpoints. Their lock is held while the store works, and never taken while `lock` is held by the
            same thread.
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
        writers: Callable[[], tuple[str, ...]],
        owner: Lock | None,
        holder: str,
        life: Life | None = None,
        on_look: Callable[[frozenset[str]], None],
        listeners: Listeners | None = None,
    ) -> None:
        self.name = name
        self.store = store
        self.settings = settings
        self.clock = clock
        self.lock = threading.RLock()
        self.options = RunOptions()
        self.last_error = ""
        self._listeners = listeners or Listeners(name)
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
        )
        self._workers = workers
        self._feeders = feeders
        self.writers = writers
        self._readers = readers
        self._owner = owner
        self._membership = Membership(settings.lease_s)
        self._in_force: tuple[int, RunOptions] | None = None  # what the catalog follows, durably; guarded by `lock`
        self._live: list[Save] = []  # in the order in which they began
        self._ended: OrderedDict[str, Save] = OrderedDict()
        self._layouts: OrderedDict[tuple[tuple[bytes, ...], frozenset[str]], Layout] = OrderedDict()
        self._num_published = 0  # guarded by `lock`
        self._num_begun = 0
        self._withdrawals = Withdrawals()  # guarded by `lock`
        self._declared: dict[int, int] = {}  # by rank: the number of the newest save that it has declared
        self._confirmed_at = clock.boot_s()  # when the owner last looked whether the run is ours
        self._take_back_at = 0.0  # boot clock
        self._draining = False
        self._shortage: str | None = None  # told once

    def open(self, versions: Mapping[str, str] | None = None) -> None:
        """Bring the run's directory in order and load what it holds; see `ServedCatalog.open`."""
        self._membership.epoch = self.stored.open(versions)

    # Members.

    def join(self, member: Member, options: RunOptions) -> int:
        """Give a process its place; a new epoch ends the saves of the old one.

        When this returns, the epoch is durable and the options are in force. When it raises, the process has no place:
        a repeated call begins anew.
        """
        policy = policy_of(options)
        with self.lock:
            before, was_empty = self._membership.epoch, self._membership.is_empty
            epoch = self._membership.join(member, self.clock.boot_s(), options)
            if epoch != before:
                # Whose bytes are all captured needs nobody of the old epoch, and is not lost with it.
                for save in [save for save in self._live if save.ref.epoch != epoch and not save.needs_nobody]:
                    if not save.session.committing:
                        save.fail(f"its processes are fenced off by epoch {epoch} of {member}")
            if was_empty or epoch != before:
                self._in_force = None
        try:
            with self.stored.lock:
                self._put_in_force(member, epoch, options, policy)
        except BaseException:
            # What is not in force must not be taken for it by the next call, nor hold the place for nothing.
            self.leave(member, epoch)
            raise
        return epoch

    def _put_in_force(self, member: Member, epoch: int, options: RunOptions, policy: RetentionPolicy) -> None:
        """Make a member's epoch durable, and let the catalog follow its options; the catalog's lock is held."""
        if self._in_force == (epoch, options):
            return
        stored = self.stored
        stored.catalog.upkeep.confirm(0.0)  # an owner that was taken over from may give out no epochs
        with self.lock:
            self._membership.check(member.rank, member.incarnation, epoch)
        if epoch > stored.durable_epoch:
            # Durable before it is announced: the next life of the daemon must not give it out again.
            epochs.store(self.store, self.name, epoch)
            stored.durable_epoch = epoch
        stored.follow(options, policy)
        with self.lock:
            self.options, self._in_force = options, (epoch, options)

    @property
    def is_founded(self) -> bool:
        """Whether it has had a member at some time: from then on it is there, for others as well."""
        return self.stored.durable_epoch > 0

    def check_member(self, rank: int, incarnation: str, epoch: int) -> None:
        """Raise `ConflictError` unless this process holds this place in this epoch."""
        with self.lock:
            self._membership.check(rank, incarnation, epoch)

    def disconnect(self, member: Member, epoch: int) -> None:
        """Note that a member's connection broke."""
        with self.lock:
            self._membership.disconnect(member, epoch, self.clock.boot_s())

    def leave(self, member: Member, epoch: int) -> None:
        """Take a member's place back; what it still owed will never come."""
        with self.lock:
            connected = member.rank in self._membership.connected()
            self._membership.leave(member, epoch)
            if connected:
                for save in list(self._live):
                    save.check_deadlines({member.rank: (str(member), 0.0)})

    # Saving.

    def declare(
        self, declaration: Declaration, manifest: Manifest, capture: Capture | None = None
    ) -> Future[Assignment] | Checkpoint:
        """Take one rank's declaration; see `Coordinator.declare`."""
        ref = declaration.save
        with self.lock:
            self._membership.check(ref.rank, ref.incarnation, ref.epoch)
            if declaration.world_size != self._membership.world_size:
                raise InvalidRequestError(
                    f"rank {ref.rank} declared another world size than it joined with",
                    expected=self._membership.world_size,
                    actual=declaration.world_size,
                )
            if declaration.pad_step_number != self.options.pad_step_number:
                raise InvalidRequestError("pad_step_number belongs to the run, and this rank joined with another")
            self._check_not_withdrawn(declaration)
            live = self._live_save_of(declaration.prefix)
            if live is not None:
                return self._declare(live, declaration, manifest, capture)
            known = self._ended_save_of(declaration)
            if known is not None:
                return _end_of(known)
        # Only now look at the store, without holding up the others.
        with self.stored.lock:
            name, step, catalog = declaration.name, ref.step, self.stored.catalog
            taken = not declaration.overwrite and catalog.exists(name, step) and not catalog.is_replaceable(name, step)
        with self.lock:
            self._check_not_withdrawn(declaration)
            live = self._live_save_of(declaration.prefix)
            if live is None:
                known = self._ended_save_of(declaration)  # others may have begun it meanwhile, and seen its end
                if known is not None:
                    return _end_of(known)
                if taken:
                    raise ConflictError(f"{ref} is already saved; pass overwrite=True to replace it")
                live = self._begin(declaration)
            return self._declare(live, declaration, manifest, capture)

    def _declare(
        self, save: Save, declaration: Declaration, manifest: Manifest, capture: Capture | None
    ) -> Future[Assignment]:
        planned = save.declare(declaration, manifest, capture)
        rank = declaration.save.rank
        self._declared[rank] = max(self._declared.get(rank, 0), save.number)
        self._withdrawals.declared(declaration.save.epoch, declaration.prefix, rank)
        return planned

    def _check_not_withdrawn(self, declaration: Declaration) -> None:
        reason = self._withdrawals.reason(declaration.request_id)
        if reason is not None:
            raise SessionAbortedError(f"rank {declaration.save.rank} gave {declaration.save} up: {reason}")

    def withdraw(self, ref: SaveRef, request_id: str, reason: str, name: str) -> None:
        """Take a rank's declaration back; see `Coordinator.withdraw`."""
        with self.lock:
            declared = next((save for save in self._live if save.is_declared_by(ref, request_id)), None)
            if declared is None:
                self._membership.check(ref.rank, ref.incarnation, ref.epoch)
            if not self._withdrawals.add(request_id, reason):
                return
            prefix = name if ref.step is None else prefix_for(name, ref.step, self.options.pad_step_number)
            live = self._live_save_of(prefix)
            if declared is not None:
                declared.is_withdrawn = len(declared.claims) == 1
                declared.fail(f"rank {ref.rank} gave up: {reason}")
            elif live is not None and ref.rank not in live.claims:
                self._end_without(live, {ref.rank: reason})
            if declared.is_withdrawn if declared is not None else live is None:
                self._withdrawals.expect(ref.epoch, prefix, ref.rank, reason, self.clock.boot_s())

    def _end_without(self, save: Save, reasons: Mapping[int, str]) -> None:
        """End a save that ranks will not declare, as they gave it up; they themselves need not hear of it."""
        save.told.update(dict.fromkeys(reasons, ""))
        save.fail("; ".join(f"rank {rank} gave up: {reason}" for rank, reason in sorted(reasons.items())))

    def _live_save_of(self, prefix: str) -> Save | None:
        """Return the save of a checkpoint that is under way; one that is being dropped is as good as ended."""
        return next((save for save in self._live if save.first.prefix == prefix and not save.session.is_over), None)

    def _ended_save_of(self, declaration: Declaration) -> Save | None:
        """Find the ended save that a declaration repeats, or that aborted while this rank was still on its way to it.

        A rank that has declared a later save since, of any step, is not late for that one: what it declares now is new.
        """
        ref, now = declaration.save, self.clock.boot_s()
        over = [save for save in self._live if save.session.is_over]
        for save in [*reversed(over), *reversed(self._ended.values())]:
            if (save.first.prefix, save.first.save.epoch) != (declaration.prefix, ref.epoch):
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

    def _begin(self, declaration: Declaration) -> Save:
        if self._draining:
            raise NotNowError("the daemon is stopping: it begins no more saves")
        if len(self._live) >= self.settings.live_saves:
            raise NotNowError(f"{len(self._live)} saves of {self.name} are under way; wait for one to end")
        self._num_begun += 1
        known = [*self._ended.values(), *self._live]
        earlier = [save for save in known if save.first.prefix == declaration.prefix]
        save = Save(
            run=self,
            first=declaration,
            save_id=uuid.uuid4().hex,
            attempt=max((save.attempt for save in earlier), default=0) + 1,
            number=self._num_begun,
        )
        self._live.append(save)
        return save

    def differences(self, declaration: Declaration) -> tuple[Difference, ...]:
        """Return what a save that was declared so has stored, or stores, although ranks have other values of it."""
        with self.lock:
            for save in (*reversed(self._live), *reversed(self._ended.values())):
                if save.is_declared_by(declaration.save, declaration.request_id):
                    return save.differences
        return ()

    def find(self, ref: SaveRef) -> Save:
        """Return the save of that id, under way or ended; `NotFoundError` when there is no trace of it."""
        with self.lock:
            for save in self._live:
                if save.save_id == ref.save_id:
                    return save
            if ref.save_id in self._ended:
                return self._ended[ref.save_id]
        raise NotFoundError(f"this daemon knows nothing of save {ref.save_id!r} of {self.name}")

    # What saves need (`ckptd.engine.saves.save.Surroundings`).

    def submit(self, work: Callable[..., None], *arguments: object) -> None:
        """Run blocking work on one of the threads."""
        self._workers.submit(work, *arguments)

    def submit_feed(self, work: Callable[..., None], *arguments: object) -> None:
        """Run what takes a lane from captured memory."""
        self._feeders.submit(work, *arguments)

    def layout_for(self, manifests: tuple[Manifest, ...], from_lowest: frozenset[str] = frozenset()) -> Layout:
        """See `Surroundings`."""
        key = tuple(manifest.digest for manifest in manifests), from_lowest
        with self.lock:
            known = self._layouts.get(key)
        if known is None:
            align_bytes = PAGE_BYTES if self.store.durability is Durability.LOCAL_DISK else 1
            num_shards = self.settings.shards or min(len(manifests), MAX_SHARDS)
            known = plan(manifests, num_shards, align_bytes, from_lowest)
            with self.lock:
                self._layouts[key] = known
                while len(self._layouts) > _REMEMBERED_LAYOUTS:
                    self._layouts.popitem(last=False)
        return known

    def whereabouts(self, save: Save) -> dict[int, str]:
        """See `Surroundings`."""
        found = {}
        for rank in save.session.missing:
            held = self._membership.member(rank)
            if held is None:
                found[rank] = "it has not joined the run"
                continue
            member, is_connected = held
            where = f"pid {member.pid} on {member.host}" if member.pid else "it has joined the run"
            others = [each.ref.step for each in self._live if rank in each.claims and not each.session.is_over]
            waits = f", which waits with step {others[-1]}" if others else ""
            found[rank] = where + ("" if is_connected else ", whose connection is lost") + waits
        return found

    def waiting_for(self, prefix: str | None = None, *, save_id: str = "") -> list[str]:
        """Say what the save of a checkpoint, or of an id, waits for; nothing if it is not under way."""
        with self.lock:
            for save in self._live:
                if not save.session.is_over and (save.first.prefix == prefix or save.save_id == save_id):
                    return save.waiting_for()
        return []

    def turn_wanted(self) -> None:
        """Let the save that began first commit, if it is ready; the lock is held."""
        if self._live and self._live[0].session.phase is Phase.SEALED:
            self._live[0].handle(machine.TurnCame())

    def save_ended(self, save: Save) -> None:
        """Forget a save that is over, tell listeners, and let the next one commit; the lock is held."""
        self._live.remove(save)
        self._ended[save.save_id] = save
        while len(self._ended) > _REMEMBERED_SAVES:
            self._ended.popitem(last=False)
        if save.session.phase is Phase.PUBLISHED:
            self._num_published += 1
            if save.first.write_state:
                self.stored.passed_by = ()
            self._begin_to_tell(save, self._num_published)
        else:
            save.retired.set_result(None)
            if save.session.error is not None:
                self.last_error = str(save.session.error)
        self.turn_wanted()

    def _begin_to_tell(self, save: Save, number: int) -> None:
        try:
            self.submit(self._tell, save.outcome.result(timeout=0), number, save.first.write_state, save.retired)
        except BaseException:
            save.retired.set_result(None)  # the engine was closed: the next opening of the run does the rest
            raise

    def _tell(self, checkpoint: Checkpoint, number: int, is_listed: bool, retired: Future[None]) -> None:
        try:
            if is_listed:  # an unlisted one is not the latest, which watchers follow
                self._listeners.tell(checkpoint, number)
            self.stored.retire()
        finally:
            retired.set_result(None)
        self._look_for_room(checkpoint)

    def _look_for_room(self, checkpoint: Checkpoint) -> None:
        """Warn once where what retention keeps will not fit."""
        if self._shortage is not None or self.stored.is_closed:
            return
        try:
            free_bytes = self.store.free_bytes()
        except CkptdError:
            return  # to look is no part of a save
        kept, most = len(self.stored.checkpoints()), self.stored.catalog.upkeep.policy.max_to_keep
        self._shortage = free_space.shortage(checkpoint.size_bytes, kept, most, free_bytes)
        if self._shortage is not None:
            logger.warning("%s: %s", self.name, self._shortage)

    # What operators see.

    def unattended(self) -> list[Future[Checkpoint]]:
        """Return the outcomes of saves that go on by themselves, after a rank of theirs has gone."""
        with self.lock:
            here = self._membership.connected()
            return [
                save.outcome
                for save in self._live
                if save.needs_nobody
                and (save.ref.epoch != self._membership.epoch or any(r not in here for r in save.claims))
            ]

    def view(self) -> RunView:
        """Describe the run for people."""
        with self.lock:
            now = self.clock.boot_s()
            saves = tuple(
                SaveView(
                    save=save.ref,
                    phase=save.session.phase,
                    size_bytes=sum(lane.size_bytes for lane in save.lanes.values()),
                    received_bytes=sum(lane.received for lane in save.lanes.values()),
                    age_s=now - save.began_at,
                    waiting_for=tuple(save.waiting_for()),
                    roads=save.roads,
                )
                for save in self._live
            )
            connected = tuple(self._membership.connected())
            epoch, world_size = self._membership.epoch, self._membership.world_size
        return RunView(
            self.name,
            epoch,
            world_size,
            connected,
            saves,
            self.stored.latest(),
            len(self.stored.checkpoints()),
            self.last_error,
            problems=(*self.stored.problems_in_words(), *([self._shortage] if self._shortage else [])),
            damaged=tuple(self.stored.quarantined()),
        )

    # Time and the end.

    def tick(self) -> None:
        """Apply deadlines, and sweep what can be undone no longer."""
        if self.stored.is_sweep_due():
            self.submit(self.stored.retire)
        if not self.store.has_locks:
            self._look_after_ownership(self.clock.boot_s())
        if not self._live and self.stored.is_rest_note_due():
            self.submit(self.stored.note_rest)
        with self.lock:
            lost = self._membership.lost(self.clock.boot_s())
            for save in list(self._live):
                self._check_withdrawals(save)
                save.check_deadlines(lost)
                save.answer_if_removal_is_slow()
                save.remind()

    def _check_withdrawals(self, save: Save) -> None:
        """End a save that waits for a rank that has given it up, and does not begin it again."""
        if save.session.phase is Phase.DECLARING:
            first, missing, now = save.first, save.session.missing, self.clock.boot_s()
            missed = self._withdrawals.missed(first.save.epoch, first.prefix, missing, save.began_at, now)
            if missed:
                self._end_without(save, missed)

    def _look_after_ownership(self, now: float) -> None:
        if self.stored.is_taken_over:
            if self.settings.takes_back and not self._live and now >= self._take_back_at:
                self._take_back_at = now + _TAKE_BACK_AGAIN_S
                self.submit(self._take_back)
        elif now >= self._confirmed_at + (_CONFIRM_AGAIN_S if self._live else _CONFIRM_IDLE_S):
            self._confirmed_at = now
            self.submit(self._confirm)

    def _take_back(self) -> None:
        """Own the run again, as a daemon that is started anew does: what the other owner has saved is part of it."""
        try:
            with self.stored.lock:
                with self.lock:
                    was_in_force = self._in_force is not None
                epoch = self.stored.take_back(was_in_force=was_in_force)
                if epoch is None:
                    return
                with self.lock:
                    # Processes that joined the other owner are newer than ours: these are fenced off.
                    self._membership.catch_up(epoch)
                    self.last_error = ""
                self.stored.look()
        except CkptdError as error:
            logger.warning("%s could not be taken back now: %s", self.name, error)
        else:
            logger.warning("%s is ours again: it was taken back from another owner", self.name)

    def _confirm(self) -> None:
        """Make sure, ahead of the commits, that the run is still ours; what is under way ends if it is not."""
        try:
            self.stored.confirm()
        except ConflictError as error:
            self.last_error = str(error)
            self.abort_all(str(error))
        except CkptdError as error:
            logger.warning("cannot tell now whether %s is still ours: %s", self.name, error)

    def live_saves(self) -> list[Save]:
        """Return the saves under way, oldest first."""
        with self.lock:
            return list(self._live)

    def drain(self) -> None:
        """Begin no more saves."""
        with self.lock:
            self._draining = True

    def abort_all(self, reason: str) -> None:
        """End every save that can still be ended."""
        with self.lock:
            for save in list(self._live):
                save.fail(reason)

    def is_joined(self) -> bool:
        """Whether processes have joined, or saves are under way."""
        with self.lock:
            return bool(self._live) or not self._membership.is_free(self.clock.boot_s())

    def is_at_rest(self) -> bool:
        """Whether nothing needs the run open: no member, save, reader or watcher, and nothing to sweep in time."""
        if self.stored.is_to_be_swept or not self._listeners.is_empty:
            return False
        if self.stored.is_taken_over:
            return False  # opening it again would take it back, which is not for us to decide
        if self.is_joined():
            return False
        return not self._readers.are_in(self.name, self.clock.boot_s())

    def close(self) -> None:
        """Release the run; what was to be done about it later finds it closed."""
        self.stored.close()
        if self._owner is not None:
            self._owner.release()


def _end_of(save: Save) -> Checkpoint:
    """Return the checkpoint of a save that has ended, or raise what ended it."""
    if save.session.error is not None:
        raise remembered(save.session.error)  # its own frames are cleared once it is dropped
    return save.outcome.result(timeout=0)
