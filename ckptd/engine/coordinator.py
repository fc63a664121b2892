"""The engine's front door: runs, their saves, their checkpoints. A daemon has one, direct mode has one.

Thread-safe. No call blocks for longer than its own work on the store; what takes the work of others is a future.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, wait
from weakref import WeakValueDictionary

from ckptd.engine import survey
from ckptd.engine.capture import Capture
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import Clock, SystemClock
from ckptd.engine.damage import Suspicion, Verdict
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.layout import Assignment
from ckptd.engine.listeners import Heard
from ckptd.engine.manifest import Manifest
from ckptd.engine.owned import Which
from ckptd.engine.readers import Readers
from ckptd.engine.records import Record
from ckptd.engine.refusals import NotNowError
from ckptd.engine.retention import Rule
from ckptd.engine.run import Run
from ckptd.engine.session import Phase
from ckptd.engine.settings import Settings
from ckptd.engine.shard import LaneWriter
from ckptd.engine.views import RunView
from ckptd.engine.workers import Workers
from ckptd.errors import (
    CkptdError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    NotPermittedError,
    StorageFullError,
    UnavailableError,
)
from ckptd.format import names
from ckptd.storage.base import Lock, Store

logger = logging.getLogger("ckptd.engine")

LOCK_KEY = ".ckptd/lock"
ID_KEY = ".ckptd/id"
_REMEMBERED_MANIFESTS_BYTES = 256 << 20
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
    ) -> None:
        """Prepare a coordinator over `store`.

        Args:
            store: where checkpoints go.
            settings: bounds; the defaults suit a daemon.
            clock: both kinds of time.
            owns_root: a daemon owns all runs below its root. Direct mode owns the runs that it opens, so that
                several programs may work below one root.
            takes_over: in a store without locks, whether to take the root or a run from somebody of whom nobody here
                can say whether he lives.
            holder: how to name us to whom we keep out.
        """
        self.store = store
        self.settings = settings or Settings()
        self.clock = clock or SystemClock()
        self.root_id = ""
        self.warnings: tuple[str, ...] = ()  # which promises the store does not keep
        self.on_catalog: Callable[[str, frozenset[str]], None] = lambda run, save_ids: None
        """Called with a run and the ids of the saves that it has, whenever it has looked at its catalog. The catalog's
        lock is held: no save can take the place of one that is gone before this returns, and it must not block."""
        self.writers: tuple[str, ...] = ()  # addresses that plans name for every shard; set once it is known
        self._owns_root = owns_root
        self._takes_over = takes_over
        self._holder = holder or f"ckptd, pid {os.getpid()} on {socket.gethostname()}"
        self._lock = threading.Lock()
        self._runs: dict[str, Run] = {}
        self._gates: dict[str, threading.Lock] = {}  # of runs that are being opened
        self._manifests: OrderedDict[bytes, Manifest] = OrderedDict()
        self._manifests_bytes = 0
        self._schemas: WeakValueDictionary[int, Manifest] = WeakValueDictionary()  # whose schema others share
        self._readers = Readers()
        self._root_lock: Lock | None = None
        self._workers = Workers(self.settings.threads)
        self._feeders = Workers(self.settings.feeders, "ckptd-feed", self.settings.priority)
        self._closing = False

    # Life.

    def open(self) -> None:
        """Take the root and, when it is ours alone, bring every run in it in order.

        `ConflictError` names the daemon that holds it.
        """
        self._workers.open()
        self._feeders.open()
        try:
            self._root_lock = self.store.lock(
                LOCK_KEY, holder=self._holder, shared=not self._owns_root, takes_over=self._takes_over
            )
        except ConflictError as error:
            raise ConflictError(
                f"{self.store.url} is in use: a directory has one daemon", actual=error.actual
            ) from error
        except NotFoundError as error:
            if not self.store.has_locks:
                raise  # nobody can make a bucket but its owner
            raise NotPermittedError(f"{self.store.url} can't be made or written to") from error
        try:
            self._check_promises()
            self.root_id = self._read_or_make_id()
        except BaseException:
            self._root_lock.release()
            raise
        if self._owns_root:
            for run in self._stored_runs():
                self._run(run)

    def _check_promises(self) -> None:
        broken = self.store.broken_promises()
        if broken and not self.settings.allow_unfenced:
            error = InvalidRequestError(
                f"{self.store.url} cannot keep a second owner out, so checkpoints could be lost; "
                "CKPTD_ALLOW_UNFENCED=1, or --allow-unfenced, goes on all the same"
            )
            for each in broken:
                error.add_note(each)
            raise error
        self.warnings = tuple(f"unfenced: {each}" for each in broken)
        for warning in self.warnings:
            logger.warning("%s: %s", self.store.url, warning)

    def close(self, grace_s: float = 0.0) -> bool:
        """Begin nothing more, wait at most `grace_s` for what is under way, end the rest, and let the root go.

        Returns whether everything under way was published.
        """
        with self._lock:
            self._closing = True
            runs = list(self._runs.values())
        for run in runs:
            run.drain()
        under_way = [save.outcome for run in runs for save in run.live_saves()]
        wait(under_way, grace_s)
        for run in runs:
            run.abort_all("the daemon is stopping")
        self._workers.settle(_CLEAN_UP_S)
        self._feeders.close()
        self._workers.close()
        for run in runs:
            run.close()
        if self._root_lock is not None:
            self._root_lock.release()
        return all(outcome.done() and outcome.exception() is None for outcome in under_way)

    def tick(self) -> None:
        """Apply deadlines; to be called several times a second."""
        for run in self._open_runs():
            run.tick()

    def settle(self, timeout_s: float) -> bool:
        """Wait until no work is left that needs nobody else, cleaning up included; return whether that came to pass."""
        return self._workers.settle(timeout_s)

    # Members.

    def join(self, run: str, member: Member, options: RunOptions) -> int:
        """Give a process its place in a run; return the epoch. `ConflictError` names the present holder."""
        names.check_checkpoint_name(options.name)
        names.check_checkpoint_name(options.latest_filename)
        Rule.named(options.retention)
        return self._run(run).join(member, options)

    def disconnect(self, run: str, member: Member, epoch: int) -> None:
        """Note that a member's connection broke: its lease begins."""
        self._run(run).disconnect(member, epoch)

    def leave(self, run: str, member: Member, epoch: int) -> None:
        """Take a member's place back at once."""
        self._run(run).leave(member, epoch)

    # Saving.

    def knows_manifest(self, digest: bytes) -> bool:
        """Whether a declaration may name this manifest by its digest alone."""
        with self._lock:
            return digest in self._manifests

    def add_manifest(self, manifest: Manifest) -> None:
        """Remember a manifest."""
        digest = manifest.digest
        with self._lock:
            if digest not in self._manifests:
                manifest = manifest.with_schema_of(self._schemas.setdefault(manifest.schema_hash, manifest))
                self._manifests[digest] = manifest
                self._manifests_bytes += manifest.memory_bytes
            self._manifests.move_to_end(digest)
            while self._manifests_bytes > _REMEMBERED_MANIFESTS_BYTES and len(self._manifests) > 1:
                _, forgotten = self._manifests.popitem(last=False)
                self._manifests_bytes -= forgotten.memory_bytes

    def manifest(self, digest: bytes) -> Manifest:
        """Return a manifest that is remembered; `NotFoundError` when it has to be sent whole."""
        with self._lock:
            manifest = self._manifests.get(digest)
            if manifest is not None:
                self._manifests.move_to_end(digest)
        if manifest is None:
            raise NotFoundError("the manifest has to be sent whole", key=digest.hex())
        return manifest

    def check_member(self, run: str, rank: int, incarnation: str, epoch: int) -> None:
        """Raise `ConflictError` unless this process holds this place of the run."""
        self._run(run).check_member(rank, incarnation, epoch)

    def declare(self, declaration: Declaration, capture: Capture | None = None) -> Future[Assignment | Checkpoint]:
        """Take one rank's declaration of a save.

        The future gives the rank's assignment when every rank has declared, or at once the checkpoint if this
        repeats a save that has been published. It fails as the save fails. May be repeated.

        With `capture` the rank sends nothing: its bytes are taken from memory that it shares with us. A repeated
        declaration leaves the road as the first one chose it.
        """
        names.check_checkpoint_name(declaration.name)
        names.check_checkpoint_name(declaration.meta_suffix)
        manifest = self.manifest(declaration.manifest_digest)
        answer: Future[Assignment | Checkpoint] = Future()
        try:
            result = self._run(declaration.save.run).declare(declaration, manifest, capture)
        except CkptdError as error:
            answer.set_exception(error)
            return answer
        if isinstance(result, Checkpoint):
            answer.set_result(result)
            return answer
        return result  # type: ignore[return-value]  # Future is invariant, but only we set it

    def lane(self, save: SaveRef, shard: int) -> LaneWriter:
        """Return where the bytes that `save.rank` owes `shard` go."""
        run = self._run(save.run)
        found = run.find(save)
        with run.lock:
            if found.session.phase is Phase.DECLARING:
                raise ConflictError(f"{save} has no plan yet")
            claim = found.claims.get(save.rank)
            if claim is None or claim.incarnation != save.incarnation:
                raise ConflictError(f"this process has not declared {save} as rank {save.rank}")
            return found.lane(save.rank, shard)

    def outcome(self, save: SaveRef) -> Future[Checkpoint]:
        """Return how a save ends, or ended; also one of an earlier life of the daemon, if it was published.

        `NotFoundError` when there is no trace of it: then it was not acknowledged and left nothing behind.
        """
        run = self._run(save.run)
        published = run.published_save(save.save_id)
        if published is None:
            return run.find(save).outcome
        answer: Future[Checkpoint] = Future()
        answer.set_result(published)
        return answer

    def phase(self, save: SaveRef) -> Phase | None:
        """Return how far a save has come; None when there is no trace of it."""
        run = self._run(save.run)
        if run.published_save(save.save_id) is not None:
            return Phase.PUBLISHED
        try:
            return run.find(save).session.phase
        except NotFoundError:
            return None

    def abort(self, save: SaveRef, reason: str) -> None:
        """End a save, if it can still be ended."""
        run = self._run(save.run)
        found = run.find(save)
        with run.lock:
            found.fail(f"rank {save.rank} gave up: {reason}")

    # Checkpoints.

    def latest(self, run: str, name: str = names.ANY_NAME) -> Checkpoint | None:
        """Return the newest complete checkpoint of a run that `name` means; see `series`.

        Raises:
            CorruptionError: when all that it has are in quarantine.
        """
        found = self._run_if_there(run)
        if found is None:
            return None
        latest = found.latest(name)
        meant = [each for each in found.quarantined() if name in (names.ANY_NAME, names.DEFAULT_NAME, each.name)]
        if latest is None and meant:
            # "None yet" would let a trainer begin anew without a word.
            raise survey.all_in_quarantine(meant[-1])
        return latest

    def latest_for_watchers(self, run: str, name: str = names.ANY_NAME) -> Checkpoint | None:
        """Return the newest complete checkpoint of a run; None also when all it has are in quarantine."""
        found = self._run_if_there(run)
        return found.latest(name) if found is not None else None

    def unattended(self, run: str) -> list[Future[Checkpoint]]:
        """Return the outcomes of saves of a run that go on by themselves, after a rank of theirs has gone.

        Who restarts after a crash waits for them: what they save is what he wants to go on from.
        """
        with self._lock:
            found = self._runs.get(run)
        return found.unattended() if found is not None else []

    def checkpoints(self, run: str) -> list[Checkpoint]:
        """Return the checkpoints of a run, oldest first."""
        found = self._run_if_there(run)
        return found.checkpoints() if found is not None else []

    def save_id_at(self, run: str, prefix_key: str) -> str:
        """Return the id of the save whose checkpoint has this prefix now; "" if there is none, or it is not ours."""
        prefix = self.store.location(prefix_key)
        found = (checkpoint for checkpoint in reversed(self.checkpoints(run)) if checkpoint.prefix == prefix)
        return next((checkpoint.save_id for checkpoint in found), "")

    def check_damage(self, run: str, key: str, save_id: str, suspicion: Suspicion, by: str) -> Verdict:
        """Read bytes again that looked wrong to a reader of the checkpoint `key`, see `Run.check_damage`."""
        found = self._run_if_there(run)
        if found is None:
            raise NotFoundError("there is no such run", key=run)
        return found.check_damage(key, save_id, suspicion, by)

    def quarantined(self, run: str) -> list[Record]:
        """Return the records of what is in quarantine in a run, in the order in which the saves began."""
        found = self._run_if_there(run)
        return found.quarantined() if found is not None else []

    def pin(self, run: str, which: Which, pinned: bool = True) -> Checkpoint:
        """Keep a checkpoint whatever retention says; with `pinned=False` no longer."""
        return self._run(run).pin(which, pinned)

    def delete(self, run: str, which: Which, for_good: bool = False, even_latest: bool = False) -> None:
        """Delete a checkpoint; unless it is `for_good`, `undelete` can bring it back for `Settings.undo_s`."""
        self._run(run).delete(which, for_good, even_latest)

    def undelete(self, run: str, which: Which) -> Checkpoint:
        """Bring a checkpoint back that was deleted lately."""
        return self._run(run).undelete(which)

    def subscribe(self, run: str, heard: Heard) -> Callable[[], None]:
        """Call `heard`, from any thread, for each checkpoint published from now on; return what ends that."""
        return self._run(run).subscribe(heard)

    def note_read(self, key: str) -> None:
        """Note that an object is being read through us; retention spares its checkpoint for as long as that goes on."""
        self._readers.note(key, self.clock.boot_s())

    def runs(self) -> list[RunView]:
        """Describe every open run, by name."""
        return [run.view() for run in self._open_runs()]

    # Runs.

    def _open_runs(self) -> list[Run]:
        with self._lock:
            return [self._runs[name] for name in sorted(self._runs)]

    def _run(self, name: str) -> Run:
        names.check_run_name(name)
        with self._lock:
            known = self._runs.get(name)
            if known is not None:
                return known
            gate = self._gates.setdefault(name, threading.Lock())
        with gate:  # opening one run must not hold up the others
            with self._lock:
                known = self._runs.get(name)
                if known is not None:
                    return known
                if self._closing:
                    raise NotNowError("the daemon is stopping")
                if len(self._runs) >= self.settings.open_runs:
                    raise UnavailableError(f"{len(self._runs)} runs are open: no more can be until the daemon restarts")
            run = self._open_run(name)
            with self._lock:
                self._runs[name] = run
                self._gates.pop(name, None)
            return run

    def _open_run(self, name: str) -> Run:
        owner = None
        if not self._owns_root:
            owner = self.store.lock(f"{name}/{LOCK_KEY}", holder=self._holder, takes_over=self._takes_over)
        run = Run(
            name,
            self.store,
            settings=self.settings,
            clock=self.clock,
            workers=self._workers,
            feeders=self._feeders,
            readers=self._readers,
            writers=lambda: self.writers,
            owner=owner,
            holder=self._holder,
            on_look=lambda save_ids: self.on_catalog(name, save_ids),
        )
        try:
            run.open()
        except BaseException:
            run.close()
            raise
        return run

    def _run_if_there(self, name: str) -> Run | None:
        """Return the run if it is open or stored, so that asking for any name does not make runs."""
        names.check_run_name(name)
        with self._lock:
            known = name in self._runs
        if not known and next(iter(self.store.list(name)), None) is None:
            return None
        return self._run(name)

    def _stored_runs(self) -> list[str]:
        """Find the runs below the root by the records that saves leave."""
        found = set()
        for stat in self.store.list(""):
            directory, marker, _ = stat.key.partition("/.ckptd/")
            if marker:
                found.add(directory)
        return sorted(found)

    def _read_or_make_id(self) -> str:
        """Return the root's id, which is made with the first owner; on a full disk only for as long as we live."""
        with contextlib.suppress(NotFoundError):
            return self._read_id()
        made = uuid.uuid4().hex
        try:
            self.store.put(ID_KEY, made.encode())
        except ConflictError:  # another process was faster
            return self._read_id()
        except StorageFullError as error:
            logger.warning("%s has no id yet, and cannot be given one: %s", self.store.url, error)
        return made

    def _read_id(self) -> str:
        return self.store.get(ID_KEY, limit_bytes=64).decode("ascii", "replace")
