"""One run: who may save into it, its saves under way in their order, and its checkpoints."""

from __future__ import annotations

import math
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace

from ckptd.engine.catalog import epochs, free_space, presence, records, rest
from ckptd.engine.catalog.catalog import Catalog
from ckptd.engine.catalog.edits import Which
from ckptd.engine.catalog.fence import Life
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.retention import RetentionPolicy, Rule
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import Clock
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.lanes.capture import Capture
from ckptd.engine.lanes.plan import PAGE_BYTES, plan
from ckptd.engine.layout import Assignment, Layout
from ckptd.engine.log import log_quarantined, logger
from ckptd.engine.manifest import Manifest
from ckptd.engine.reading.damage import Suspicion, Verdict, look_again
from ckptd.engine.refusals import NotNowError
from ckptd.engine.replicas import Difference
from ckptd.engine.saves import session as machine
from ckptd.engine.saves.listeners import Listeners
from ckptd.engine.saves.membership import Membership
from ckptd.engine.saves.readers import Readers
from ckptd.engine.saves.remembered import remembered
from ckptd.engine.saves.save import Save
from ckptd.engine.saves.session import Phase
from ckptd.engine.saves.shares import Share
from ckptd.engine.saves.starts import is_same_save
from ckptd.engine.saves.views import RunView, SaveView
from ckptd.engine.saves.withdrawals import Withdrawals
from ckptd.engine.series import NamedStep, latest_of, name_of
from ckptd.engine.settings import MAX_SHARDS, Settings
from ckptd.errors import (
    CkptdError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    NotPermittedError,
    SessionAbortedError,
    StorageFullError,
)
from ckptd.format.names import ANY_NAME, prefix_for
from ckptd.storage.base import Durability, Lock, Store
from ckptd.storage.keys import join

_REMEMBERED_SAVES = 64  # ended ones, so that a lost answer can be asked for again
_REMEMBERED_LAYOUTS = 4
_SWEEP_AGAIN_S = 5.0
_SOUND_FOR_S = 60.0
_SOUND = "the owner of the run reads these bytes as they should be"
_NOTE_REST_AFTER_S = 5.0  # without a change, a run in a bucket is noted to be at rest
_CONFIRM_AGAIN_S = 2.0  # while saves are under way; well below what a commit wants
_CONFIRM_IDLE_S = 10.0  # while none is: so that health tells before a save fails
_TAKE_BACK_AGAIN_S = 60.0  # two owners that both want a run would let no save of either come to its end


class Run:
    """See the module. Every method may be called from any thread.

    Attributes:
        lock: guards saves and membership; held for moments only, never while the store works.
        catalog_lock: guards the catalog, and is held while the store works. Never taken while `lock` is held
            by the same thread, but for reading what is in memory.
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
        self.catalog_lock = threading.Lock()
        self.options = RunOptions()
        self._holder, self._life = holder, life
        self.catalog = self._new_catalog()
        self.last_error = ""
        self._workers = workers
        self._feeders = feeders
        self.writers = writers
        self._readers = readers
        self._owner = owner
        self._on_look = on_look
        self._membership = Membership(settings.lease_s)
        self._durable_epoch = 0  # guarded by `catalog_lock`
        self._in_force: tuple[int, RunOptions] | None = None  # what the catalog follows, durably; guarded by `lock`
        self._live: list[Save] = []  # in the order in which they began
        self._ended: OrderedDict[str, Save] = OrderedDict()
        self._layouts: OrderedDict[tuple[tuple[bytes, ...], frozenset[str]], Layout] = OrderedDict()
        self._listeners = listeners or Listeners(name)
        self._num_published = 0  # guarded by `lock`
        self._num_begun = 0
        self._withdrawals = Withdrawals()  # guarded by `lock`
        self._declared: dict[int, int] = {}  # by rank: the number of the newest save that it has declared
        self._sweep_at: float | None = None  # wall clock, when the time to undo some deletion is over
        self._confirmed_at = clock.boot_s()  # when somebody last looked whether the run is ours
        self._take_back_at = 0.0  # boot clock
        self._draining = False
        self._listed: tuple[Checkpoint, ...] = ()
        self._forgotten: tuple[Checkpoint, ...] = ()
        self._checking = threading.Lock()  # one look at suspected bytes at a time
        self._sound: dict[tuple[str, str, int | None], float] = {}  # what was found so, and until when that counts
        self._is_closed = False  # guarded by `catalog_lock`
        self._is_rest_noted = owner is not None or store.has_locks  # nothing to note there
        self._rests_since = 0.0  # boot clock, since when nothing has changed
        self.problems: tuple[str, ...] = ()
        self.passed_by: tuple[str, ...] = ()  # listed as newer than the latest, and not whole; until the next save
        self._shortage: str | None = None  # told once
        self._checkpoints: tuple[Checkpoint, ...] = ()
        self._quarantined: tuple[Record, ...] = ()

    def open(self, versions: Mapping[str, str] | None = None) -> None:
        """Bring the run's directory in order and load what it holds.

        `versions` are of all its objects, where they were looked at already; see `ckptd.engine.catalog.rest`.
        """
        with self.catalog_lock:
            note = None if versions is None else rest.load(self.store, self.name, versions)
            if note is not None and self.catalog.resume(note):
                epoch = note.epoch
            else:
                self._recover()
                epoch = epochs.stored(self.store, self.name)
            self._membership.epoch = self._durable_epoch = max(epoch, self.catalog.highest_epoch())
            self.look()

    def _new_catalog(self) -> Catalog:
        return Catalog(
            self.store,
            self.name,
            clock=self.clock,
            undo_s=self.settings.undo_s,
            holder=self._holder,
            life=self._life,
        )

    def _recover(self) -> None:
        for each in (records.DIRECTORY, records.ASIDE_DIRECTORY):
            presence.check_directory(self.store, join(self.name, each))
        recovery = self.catalog.recover()
        for outcome in recovery.outcomes:
            logger.info("%s: %s: %s", outcome.subject, outcome.fate.value, outcome.reason)
        self.problems, self.passed_by = recovery.problems, recovery.passed_by
        for problem in (*self.problems, *self._passed_by_in_words()):
            logger.warning("%s: %s", self.name, problem)

    # Members.

    def join(self, member: Member, options: RunOptions) -> int:
        """Give a process its place; a new epoch ends the saves of the old one.

        When this returns, the epoch is durable and the options are in force. When it raises, the process has no place:
        a repeated call begins anew.
        """
        policy = _policy(options)
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
            with self.catalog_lock:
                self._put_in_force(member, epoch, options, policy)
        except BaseException:
            # What is not in force must not be taken for it by the next call, nor hold the place for nobody.
            self.leave(member, epoch)
            raise
        return epoch

    def _put_in_force(self, member: Member, epoch: int, options: RunOptions, policy: RetentionPolicy) -> None:
        """Make a member's epoch durable, and let the catalog follow its options; the catalog's lock is held."""
        if self._in_force == (epoch, options):
            return
        self.catalog.confirm(0.0)  # who was taken over from may give out no epochs
        with self.lock:
            self._membership.check(member.rank, member.incarnation, epoch)
        if epoch > self._durable_epoch:
            # Durable before anybody hears of it: the next life of the daemon must not give it out again.
            epochs.store(self.store, self.name, epoch)
            self._durable_epoch = epoch
        self.catalog.configure(
            policy,
            options.latest_filename,
            options.pad_step_number,
            options.save_relative_paths,
            hours_since=options.hours_since,
        )
        self.look()
        with self.lock:
            self.options, self._in_force = options, (epoch, options)

    @property
    def is_founded(self) -> bool:
        """Whether it has had a member at some time: from then on it is there, for others as well."""
        return self._durable_epoch > 0

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
                if known.session.error is not None:
                    raise remembered(known.session.error)  # its own frames are cleared once it is dropped
                return known.outcome.result(timeout=0)
        # Only now look at the store, without holding up the others.
        with self.catalog_lock:
            name, step = declaration.name, ref.step
            taken = (
                not declaration.overwrite
                and self.catalog.exists(name, step)
                and not self.catalog.is_in_quarantine(name, step)
            )
        with self.lock:
            self._check_not_withdrawn(declaration)
            live = self._live_save_of(declaration.prefix)
            if live is None:
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

    def published_save(self, save_id: str) -> Checkpoint | None:
        """Look in the catalog for a save of an earlier life of the daemon."""
        return next((one for one in self.checkpoints() if one.save_id == save_id), None)

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
        """Forget a save that is over, tell who listens, and let the next one commit; the lock is held."""
        self._live.remove(save)
        self._ended[save.save_id] = save
        while len(self._ended) > _REMEMBERED_SAVES:
            self._ended.popitem(last=False)
        if save.session.phase is Phase.PUBLISHED:
            self._num_published += 1
            if save.first.write_state:
                self.passed_by = ()
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
            save.retired.set_result(None)  # the engine was closed: who opens the run next does the rest
            raise

    def _tell(self, checkpoint: Checkpoint, number: int, is_listed: bool, retired: Future[None]) -> None:
        try:
            if is_listed:  # an unlisted one is not the latest, which watchers follow
                self._listeners.tell(checkpoint, number)
            self._retire()
        finally:
            retired.set_result(None)
        self._look_for_room(checkpoint)

    def _look_for_room(self, checkpoint: Checkpoint) -> None:
        """Warn once where what retention keeps will not fit."""
        if self._shortage is not None or self._is_closed:
            return
        try:
            free_bytes = self.store.free_bytes()
        except CkptdError:
            return  # to look is no part of a save
        kept, most = len(self._checkpoints), self.catalog.max_to_keep
        self._shortage = free_space.shortage(checkpoint.size_bytes, kept, most, free_bytes)
        if self._shortage is not None:
            logger.warning("%s: %s", self.name, self._shortage)

    def _retire(self) -> None:
        """Delete what retention let go, and what was deleted long enough ago."""
        try:
            with self.catalog_lock:
                if not self._is_closed:
                    self.catalog.retire(self.in_use())
                    self.look()
        except CkptdError as error:
            # The save is done and told; what could not be removed is found again after the next one.
            logger.warning("retention of %s could not finish: %s", self.name, error)

    # Reading, and what operators ask.

    def latest(self, name: str = ANY_NAME) -> Checkpoint | None:
        """Return the newest complete checkpoint that `name` means; see `series`."""
        return latest_of(name, self._listed, self._forgotten)

    def checkpoints(self) -> list[Checkpoint]:
        """Return all checkpoints, oldest first."""
        return list(self._checkpoints)

    def quarantined(self) -> list[Record]:
        """Return the records of what is in quarantine."""
        return list(self._quarantined)

    def look(self) -> None:
        """Remember what the catalog holds, so that who asks never waits for the store; the catalog's lock is held."""
        self._checkpoints = tuple(self.catalog.checkpoints())
        self._listed, self._forgotten = tuple(self.catalog.listed()), tuple(self.catalog.forgotten())
        self._quarantined = tuple(self.catalog.quarantined())
        self._on_look(frozenset(checkpoint.save_id for checkpoint in self._checkpoints))
        self._is_rest_noted = self._owner is not None or self.store.has_locks
        self._rests_since = self.clock.boot_s()
        sweep_at = self.catalog.next_sweep_at()
        # What could not be swept, because it is being read perhaps, is not tried again with every tick.
        self._sweep_at = None if sweep_at is None else max(sweep_at, self.clock.wall_s() + _SWEEP_AGAIN_S)

    def in_use(self) -> set[str]:
        """Return the prefixes of checkpoints that somebody reads through us."""
        return {self.store.location(prefix) for prefix in self._readers.in_use(self.clock.boot_s())}

    def _named(self, which: Which) -> Which:
        """Read a step without a name, as older clients send it: of the run's name, if there is such a checkpoint."""
        own = self.options.name
        if isinstance(which, int) and any(each.step == which and name_of(each) == own for each in self._checkpoints):
            return NamedStep(own, which)
        return which

    def pin(self, which: Which, pinned: bool) -> Checkpoint:
        """Keep a checkpoint whatever retention says, or no longer."""
        which = self._named(which)
        with self.catalog_lock:
            try:
                return self.catalog.pin(which) if pinned else self.catalog.unpin(which)
            finally:
                self.look()

    def delete(self, which: Which, for_good: bool, even_latest: bool) -> None:
        """Delete a checkpoint in a way that `undelete` can undo; or for good, if nobody is reading it."""
        which = self._named(which)
        with self.catalog_lock:
            try:
                prefix = self.catalog.find(which).prefix
                if for_good and prefix in self.in_use():
                    raise ConflictError(
                        "it is being read; it can be deleted in a way that leaves its data a while", key=prefix
                    )
                self.catalog.delete(which, for_good=for_good, even_latest=even_latest)
            finally:
                self.look()

    def undelete(self, which: Which) -> Checkpoint:
        """Bring a checkpoint back that was deleted lately."""
        with self.catalog_lock:
            try:
                return self.catalog.undelete(which)
            finally:
                self.look()

    def note_verified(self, save_id: str) -> None:
        """Note that all of a checkpoint was read just now and is as it should be."""
        with self.catalog_lock:
            try:
                self.catalog.note_verified(save_id)
            finally:
                self.look()

    def is_there(self, checkpoint: Checkpoint) -> bool:
        """Say whether a checkpoint is among those of the run, and the same save."""
        return any(is_same_save(each, checkpoint) for each in self._checkpoints)

    def check_damage(self, key: str, save_id: str, suspicion: Suspicion, by: str) -> Verdict:
        """Read bytes again that looked wrong to a reader; only what is wrong here, too, goes into quarantine.

        `key` is the checkpoint's prefix. One that is not ours has no `save_id`, and is only looked at.

        Raises:
            UnavailableError, NotPermittedError: when they can't be read, which says nothing about them.
        """
        with self._checking:
            with self.catalog_lock:
                record = self.catalog.record_of(save_id)
            if save_id and (record is None or record.quarantine):
                return Verdict(True, "it is there no more" if record is None else record.quarantine)
            prefix = key if record is None else record.prefix_key
            if prefix.rpartition("/")[0] != self.name:
                raise InvalidRequestError("this is no checkpoint of the run", key=prefix)
            known = (save_id or prefix, suspicion.key, suspicion.offset)
            if self._sound.get(known, -math.inf) > self.clock.boot_s():
                return Verdict(False, _SOUND)
            try:
                problem = look_again(self.store, prefix, suspicion)
            except NotFoundError:
                with self.catalog_lock:
                    self.catalog.recover_again()
                    self.look()
                return Verdict(True, "it is there no more")
            if problem is None:
                # Who says the same again and again must not keep the store busy.
                self._sound = {known: self.clock.boot_s() + _SOUND_FOR_S}
                return Verdict(False, _SOUND)
            if record is None:
                return Verdict(True, str(problem), is_listed_no_more=False)
            try:
                return self._put_in_quarantine(record, str(problem), by)
            except (StorageFullError, NotPermittedError) as error:
                logger.error("%s is damaged: %s; that could not be noted: %s", prefix, problem, error)
                return Verdict(True, str(problem), is_listed_no_more=False)

    def _put_in_quarantine(self, record: Record, reason: str, by: str) -> Verdict:
        with self.catalog_lock:
            try:
                is_new = self.catalog.quarantine(record.save_id, reason, by)
            finally:
                self.look()
            latest = self.latest(record.name)
        if is_new:
            save = SaveRef(self.name, 0, record.step, record.save_id)
            log_quarantined(self.store.location(record.prefix_key), save, reason, by, latest)
            if latest is not None:
                self._listeners.tell_again(replace(latest, rolled_back=f"{record.prefix}: {reason}"))
        return Verdict(True, reason)

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
            self.latest(),
            len(self._checkpoints),
            self.last_error,
            problems=(*self.problems, *self._passed_by_in_words(), *([self._shortage] if self._shortage else [])),
            damaged=self._quarantined,
        )

    def _passed_by_in_words(self) -> list[str]:
        return [
            f"{each}; the state file lists it as newer than the latest, and it is passed by" for each in self.passed_by
        ]

    # Time and the end.

    def tick(self) -> None:
        """Apply deadlines, and sweep what can be undone no longer."""
        sweep_at = self._sweep_at
        if sweep_at is not None and self.clock.wall_s() >= sweep_at:
            self._sweep_at = self.clock.wall_s() + _SWEEP_AGAIN_S  # unless the sweep finds otherwise
            self.submit(self._retire)
        if not self.store.has_locks:
            self._look_after_ownership(self.clock.boot_s())
        is_quiet = not self._live and self.clock.boot_s() - self._rests_since >= _NOTE_REST_AFTER_S
        if is_quiet and not self._is_rest_noted:
            self._rests_since = math.inf  # not again before something changes
            self.submit(self._note_rest)
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

    def _note_rest(self) -> None:
        """Note that the run is at rest, if it is; without the note the next start only takes longer."""
        try:
            with self.catalog_lock:
                if not self._is_closed and not self._is_rest_noted:
                    self._is_rest_noted = self.catalog.keep_rest_note(self._durable_epoch)
        except CkptdError as error:
            logger.debug("%s: it could not be noted that the run is at rest: %s", self.name, error)

    def _look_after_ownership(self, now: float) -> None:
        if self.is_taken_over:
            if self.settings.takes_back and not self._live and now >= self._take_back_at:
                self._take_back_at = now + _TAKE_BACK_AGAIN_S
                self.submit(self._take_back)
        elif now >= self._confirmed_at + (_CONFIRM_AGAIN_S if self._live else _CONFIRM_IDLE_S):
            self._confirmed_at = now
            self.submit(self._confirm)

    @property
    def is_taken_over(self) -> bool:
        """Whether another owner has taken the run over: then every save of it fails."""
        return self.catalog.is_fenced

    def _take_back(self) -> None:
        """Own the run again, as a daemon that is started anew does: what the other owner has saved is part of it."""
        try:
            with self.catalog_lock:
                if self._is_closed or not self.is_taken_over:
                    return
                if self._life is not None:
                    # What the other owner has signed until now no longer means that the run was taken over from us.
                    signed_at = max((stat.modified_at for stat in self.store.list(self.name)), default=0.0)
                    self._life = replace(self._life, began_at=max(self._life.began_at, signed_at))
                self.catalog = self._new_catalog()
                self._recover()
                with self.lock:
                    options, was_in_force = self.options, self._in_force is not None
                if was_in_force:
                    self.catalog.configure(
                        _policy(options),
                        options.latest_filename,
                        options.pad_step_number,
                        options.save_relative_paths,
                    )
                    self.catalog.confirm(0.0)
                epoch = max(epochs.stored(self.store, self.name), self.catalog.highest_epoch(), self._durable_epoch)
                with self.lock:
                    # Processes that joined the other owner are newer than ours: these are fenced off.
                    self._membership.catch_up(epoch)
                    self._durable_epoch = max(epoch, self._durable_epoch)
                    self.last_error = ""
                self.look()
        except CkptdError as error:
            logger.warning("%s could not be taken back now: %s", self.name, error)
        else:
            logger.warning("%s is ours again: it was taken back from another owner", self.name)

    def _confirm(self) -> None:
        """Make sure, ahead of the commits, that the run is still ours; what is under way ends if it is not."""
        try:
            with self.catalog_lock:
                if not self._is_closed:
                    self.catalog.confirm(0.0)
        except ConflictError as error:
            self.last_error = str(error)
            self.abort_all(str(error))
        except CkptdError as error:
            logger.warning("nobody can say now whether %s is still ours: %s", self.name, error)

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
        """Whether nobody needs the run open: no member, save, reader or watcher, and nothing to sweep in time."""
        if self._sweep_at is not None or not self._listeners.is_empty:
            return False
        if self.is_taken_over:
            return False  # opening it again would take it back, which is not for us to decide
        if self.is_joined():
            return False
        return not self._readers.are_in(self.name, self.clock.boot_s())

    def close(self) -> None:
        """Release the run; what was to be done about it later finds it closed."""
        self._note_rest()
        with self.catalog_lock:
            self._is_closed = True
        if self._owner is not None:
            self._owner.release()


def _policy(options: RunOptions) -> RetentionPolicy:
    return RetentionPolicy(options.max_to_keep, options.keep_checkpoint_every_n_hours, Rule.named(options.retention))
