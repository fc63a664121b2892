"""Direct mode: the same engine, in this process, over a store that it opens itself.

One rank only: several need a process that sees all of them, and that is the daemon. Reading takes no lock, so that any
number of readers can follow a run; the first save takes the run for this process, which keeps it until the last
`Checkpointer` that saves into it has closed, see `engines`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from functools import partial
from typing import TypeVar

from ckptd.client.capture.buffers import Room, RoomPool
from ckptd.client.capture.handover import Handover
from ckptd.client.deadline import Deadline
from ckptd.client.direct.engines import ENGINES, Engine, holder, new_coordinator
from ckptd.client.direct.followed_room import FollowedRoom
from ckptd.client.saving.lane_source import LaneSource
from ckptd.client.saving.own_saves import place_of
from ckptd.client.saving.save_order import Turn
from ckptd.client.saving.sharing import SharedHold
from ckptd.client.saving.transport import Located, RestoreCall, SaveRequest
from ckptd.client.watch import OpenSources, Source, Watch
from ckptd.engine.catalog import survey
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.layout import Assignment
from ckptd.engine.manifest import Manifest
from ckptd.engine.reading.damage import DamageVerdict, Suspicion, look_again
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.saves.starts import Agreement
from ckptd.engine.series import NamedStep
from ckptd.errors import (
    CkptdError,
    ConflictError,
    InvalidRequestError,
    NotPermittedError,
    SessionAbortedError,
    StorageFullError,
    UnavailableError,
)
from ckptd.storage.base import Objects
from ckptd.storage.locations import open_store
from ckptd.watch.follower import Follower

T = TypeVar("T")

_DEFAULT_TIMEOUT_S = 600.0
_CHUNK_BYTES = 4 << 20  # no message limits it; larger ones would no longer fit a processor's cache


class DirectTransport:
    """The engine in this process, over the store at `url`."""

    chunk_bytes = _CHUNK_BYTES
    world_size = 1
    retains_here = True

    def __init__(
        self, url: str, run: str, member: Member, options: RunOptions, *, timeout_s: float = _DEFAULT_TIMEOUT_S
    ) -> None:
        if member.world_size != 1:
            raise direct_mode_is_for_one(url, member)
        self._store = open_store(url)
        self._run = run
        self._member = member
        self._options = options
        self.place = place_of(self._store, run)
        self._lock = threading.Lock()
        self._timeout_s = timeout_s
        self._hold: SharedHold[Engine] | None = None
        self._is_recovered = False
        self.watches = OpenSources()
        self._is_closed = threading.Event()
        self._pool = RoomPool()
        self._owns_pool = True

    # Saving.

    def share_rooms(self, pool: RoomPool) -> None:
        """See `Transport.share_rooms`. The pool is not emptied when this is closed."""
        self._pool, self._owns_pool = pool, False

    def room(self, size_bytes: int) -> Room:
        """See `Transport.room`."""
        self._held().join(self._run, self._options, self._timeout_s)
        return FollowedRoom(self._pool.take(size_bytes))

    def prepare(self, size_bytes: int) -> None:
        """See `Transport.prepare`."""
        self._pool.prepare(size_bytes)

    def declaration(self, request: SaveRequest, digest: bytes, epoch: int) -> Declaration:
        """See `Transport.declaration`."""
        return request.declared(self._run, self._options, self._held().common.member, epoch, digest)

    def withdraw(self, request: SaveRequest, reason: str) -> None:
        """See `Transport.withdraw`. There are no other ranks."""

    def declare(
        self, request: SaveRequest, manifest: Manifest, deadline: Deadline, turn: Turn, handover: Handover | None
    ) -> Assignment | Checkpoint:
        """See `Transport.declare`. Takes the run, if that has not happened yet."""
        coordinator = self._open(to_save=True)
        engine = self._held().common
        turn.await_earlier(engine.epoch, deadline)
        coordinator.manifests.add(manifest)
        declaration = self.declaration(request, manifest.digest, engine.epoch)
        capture = None if handover is None else handover.capture
        answer = _await(coordinator.declare(declaration, capture), deadline, "the save could not be planned")
        return self._own(answer) if isinstance(answer, Checkpoint) else answer

    def send(self, save: SaveRef, source: LaneSource, deadline: Deadline, stop: threading.Event) -> None:
        """See `Transport.send`."""
        lane = self._open().lane(save, source.lane.shard)
        for chunk in source.chunks(lane.received):
            deadline.check(f"the store at {self._store.url} did not take shard {source.lane.shard}")
            if stop.is_set():
                raise SessionAbortedError(f"{save} was given up")
            lane.write(chunk.position, chunk.joined(), chunk.crc32c)
        for first, crcs, last in source.segment_crcs():
            lane.end(first, crcs, last)

    def outcome(self, save: SaveRef, deadline: Deadline) -> Checkpoint:
        """See `Transport.outcome`."""
        return self._own(_await(self._open().outcome(save), deadline, f"the outcome of {save} is not known"))

    def await_retention(self, checkpoint: Checkpoint, deadline: Deadline) -> None:
        """See `Transport.await_retention`."""
        coordinator = self._coordinator
        if coordinator is not None:  # closing it waits for that, too
            save = SaveRef(self._run, 0, checkpoint.step, checkpoint.save_id)
            _await(coordinator.retired(save), deadline, "what retention deletes is not gone")

    def abort(self, save: SaveRef, reason: str) -> None:
        """See `Transport.abort`."""
        with contextlib.suppress(CkptdError):  # then it is over already
            self._open().abort(save, reason)

    # Reading.

    def latest(self, name: str, call: RestoreCall | None = None) -> Located | None:
        """See `Transport.latest`. The first call brings the run in order, if no process works on it."""
        self._recover()
        coordinator = self._coordinator
        if coordinator is not None:
            checkpoint = coordinator.latest(self._run, name)
        else:
            checkpoint = survey.latest_checkpoint(self._store, self._run, self._options.latest_filename, name)
        return None if checkpoint is None else self._located(checkpoint)

    def checkpoints(self) -> list[Located]:
        """See `Transport.checkpoints`."""
        self._recover()
        coordinator = self._coordinator
        if coordinator is not None:
            found = coordinator.checkpoints(self._run)
        else:
            found = survey.list_checkpoints(self._store, self._run)
        return [self._located(checkpoint) for checkpoint in found]

    def agree(self, name: str, located: Located, call: RestoreCall, is_whole: bool) -> tuple[Agreement, str]:
        """See `Transport.agree`. There is one rank."""
        return (Agreement.AGREED if is_whole else Agreement.GO_BACK), ""

    def check_damage(self, located: Located, suspicion: Suspicion, call: RestoreCall) -> DamageVerdict | None:
        """See `Transport.check_damage`. Takes the run for that, unless another process works on it."""
        save_id, by = located.checkpoint.save_id, holder(self._member).line
        coordinator, is_closed = self._coordinator, self._is_closed.is_set()
        if coordinator is not None:
            return coordinator.in_catalog(
                self._run, lambda stored: stored.check_damage(located.key, save_id, suspicion, by)
            )
        if not is_closed:
            owner = new_coordinator(self._store, self._member, takes_over=False)
            try:
                owner.open()
                return owner.in_catalog(
                    self._run, lambda stored: stored.check_damage(located.key, save_id, suspicion, by)
                )
            except (ConflictError, NotPermittedError, StorageFullError):
                pass  # another process works on it, or nothing can be noted there: then only this process passes it by
            finally:
                owner.close()
        problem = look_again(self._store, located.key, suspicion)
        if problem is None:
            return DamageVerdict(False, "read once more, these bytes are as they should be")
        return DamageVerdict(True, str(problem), is_listed_no_more=False)

    def set_pinned(self, which: NamedStep, pinned: bool) -> Checkpoint:
        """See `Transport.set_pinned`."""
        return self._own(self._open().in_catalog(self._run, lambda stored: stored.pin(which, pinned)))

    def delete(self, which: NamedStep, for_good: bool, even_latest: bool) -> None:
        """See `Transport.delete`."""
        self._open().in_catalog(self._run, lambda stored: stored.delete(which, for_good, even_latest))

    def undelete(self, which: NamedStep) -> Checkpoint:
        """See `Transport.undelete`."""
        return self._own(self._open().in_catalog(self._run, lambda stored: stored.undelete(which)))

    def watch(self, name: str, timeout_s: float | None = None) -> Watch:
        """See `Transport.watch`. Reads the state file whenever its directory changes, and takes no lock."""
        return Watch(self._watching(name), timeout_s)

    @contextlib.contextmanager
    def _watching(self, name: str) -> Iterator[Source]:
        source = Follower(self._store, self._run, latest_filename=self._options.latest_filename, name=name)
        with self.watches.watching(source):
            yield source

    def objects(self, key: str) -> Objects:
        """See `Transport.objects`."""
        return self._store

    # Life.

    def close(self) -> None:
        """See `Transport.close`."""
        self._is_closed.set()
        if self._owns_pool:
            self._pool.clear()
        self.watches.close()
        self.let_go(is_dropped=False)

    def mark_dropped(self) -> None:
        """See `Droppable`."""
        if self._hold is not None:
            self._hold.is_dropped = True

    def let_go(self, *, is_dropped: bool = True) -> None:
        """See `Droppable`. What reads and watches needs the store only."""
        with self._lock:
            hold, self._hold = self._hold, None
        if hold is not None:
            hold.release(is_dropped=is_dropped)

    def _held(self) -> SharedHold[Engine]:
        """Return this transport's part in the engine, which may not have been opened yet."""
        with self._lock:
            if self._is_closed.is_set():
                raise InvalidRequestError("the Checkpointer was closed")
            if self._hold is None:
                key = place_of(self._store, "")
                self._hold = ENGINES.hold((key, self._run), partial(Engine, self._store, self._run, self._member))
            elif self._hold.is_inherited:
                raise ConflictError(
                    "this Checkpointer was used before the process forked, and the run belongs to the parent: "
                    "make a new one in the child after the parent has closed its own"
                )
            return self._hold

    @property
    def _coordinator(self) -> Coordinator | None:
        """The engine, if this transport has it open."""
        hold = self._hold
        return None if hold is None else hold.common.if_open

    def _open(self, *, to_save: bool = False) -> Coordinator:
        """Return the engine, after taking the run on the first call."""
        hold = self._held()
        if to_save:
            hold.join(self._run, self._options, self._timeout_s)
        coordinator = hold.common.open(self._options, to_save=to_save)
        self._is_recovered = True
        return coordinator

    def _recover(self) -> None:
        """Let what a crash left be completed or swept, once, before this process decides where to go on from.

        Without this a checkpoint that was complete but not yet published would be found only by the first save, after
        training had been resumed from an older one.
        """
        with self._lock:
            if self._is_recovered or self._is_closed.is_set():
                return
            self._is_recovered = True
            if next(iter(self._store.list(self._run)), None) is None:
                return  # nothing there yet, and reading makes nothing
            coordinator = new_coordinator(self._store, self._member, takes_over=False)
            try:
                coordinator.open()
                coordinator.checkpoints(self._run)
            except (ConflictError, NotPermittedError, StorageFullError):
                pass  # another process works on it and keeps it in order; it is not ours to change; or the disk is full
            finally:
                coordinator.close()

    def _located(self, checkpoint: Checkpoint) -> Located:
        own = self._own(checkpoint)
        return Located(own, f"{self._run}/{own.prefix.rpartition('/')[2]}")

    def _own(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return a checkpoint with its prefix as this transport writes the root: another may go by a link."""
        prefix = self._store.location(f"{self._run}/{checkpoint.prefix.rpartition('/')[2]}")
        return checkpoint if checkpoint.prefix == prefix else replace(checkpoint, prefix=prefix)


def direct_mode_is_for_one(url: str, member: Member, source: str = "") -> InvalidRequestError:
    """Return the error for several ranks without a daemon; `source`: what told that there are several."""
    told = f" {source}" if source else ""
    return InvalidRequestError(
        f"direct mode is for one process, and this is {member}{told}: several ranks need a daemon. "
        f"Start one with `ckptd serve --root {url}` and pass its address, grpc://127.0.0.1:7070; "
        "or pass rank=0, world_size=1 if this process saves alone"
    )


def _await(future: Future[T], deadline: Deadline, what: str) -> T:
    try:
        return future.result(deadline.remaining_s)
    except (FutureTimeoutError, TimeoutError) as error:
        raise UnavailableError(f"{what} after {deadline.timeout_s:g} s") from error
