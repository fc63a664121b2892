"""What the client needs done, by a daemon over gRPC (`client/daemon`) or by this process (`client/direct`).

Both raise the same errors for the same reasons, and every wait ends at the deadline that is passed in.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from ckptd.client.capture.buffers import RoomPool
from ckptd.client.capture.handover import Handover
from ckptd.client.capture.preparing import Rooms
from ckptd.client.deadline import Deadline
from ckptd.client.dropping import Droppable
from ckptd.client.saving.lane_source import LaneSource
from ckptd.client.saving.save_order import Turn
from ckptd.client.saving.stall import Stall
from ckptd.client.watch import OpenSources, Source, Watch
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.layout import Assignment
from ckptd.engine.manifest import Manifest
from ckptd.engine.reading.damage import DamageVerdict, Suspicion
from ckptd.engine.replicas import Compared, Remark
from ckptd.engine.saves.starts import Agreement
from ckptd.engine.saves.views import SaveProgress
from ckptd.engine.series import NamedStep
from ckptd.storage.base import Objects


@dataclass(frozen=True, slots=True)
class SaveRequest:
    """One call of `save`. Attempts to carry it out again repeat `request_id`, so that they are one.

    `name` is the checkpoint's base name if that is not the run's. `compared` are digests of what other ranks may hold
    as well, `remarks` what is compared beside that. `call` counts the calls for this step,
    from 1. `stall` is the time of the call.
    """

    step: int | None
    request_id: str
    meta_graph: bytes | None
    overwrite: bool
    timeout_s: float
    meta_suffix: str = "meta"
    write_state: bool = True
    name: str | None = None
    compared: Compared | None = None
    remarks: tuple[Remark, ...] = ()
    refuses_differences: bool = False
    call: int = 0
    stall: Stall = field(default_factory=Stall, compare=False, repr=False)

    def declared(self, run: str, options: RunOptions, member: Member, epoch: int, digest: bytes) -> Declaration:
        """Return what `member` declares to the engine under `epoch`, with the manifest that has this digest."""
        return Declaration(
            save=SaveRef(run, epoch, self.step, rank=member.rank, incarnation=member.incarnation),
            request_id=self.request_id,
            world_size=member.world_size,
            manifest_digest=digest,
            meta_graph=self.meta_graph,
            overwrite=self.overwrite,
            timeout_s=self.timeout_s,
            name=self.name or options.name,
            pad_step_number=options.pad_step_number,
            meta_suffix=self.meta_suffix,
            write_state=self.write_state,
            compared=self.compared,
            remarks=self.remarks,
            refuses_differences=self.refuses_differences,
            call=self.call,
        )


@dataclass(frozen=True, slots=True)
class Located:
    """A checkpoint, and its key below the root of the transport's objects."""

    checkpoint: Checkpoint
    key: str


@dataclass(frozen=True, slots=True)
class RestoreCall:
    """One call of `restore`: its id, one for all its attempts, and whether all ranks agree before it returns."""

    id: str
    is_together: bool = False


class SaveTransport(Protocol):
    """Carries saves to the engine. Methods may be called from any thread, several at a time."""

    chunk_bytes: int
    world_size: int
    retains_here: bool
    """Whether this process does what retention says, and ends only when that is over."""

    def declaration(self, request: SaveRequest, digest: bytes, epoch: int) -> Declaration:
        """Return what this rank declares under `epoch`, with the manifest that has this digest."""

    def withdraw(self, request: SaveRequest, reason: str) -> None:
        """Tell other ranks that this one gives up a save that nothing carries out. Waits a moment. Never raises."""

    def declare(
        self, request: SaveRequest, manifest: Manifest, deadline: Deadline, turn: Turn, handover: Handover | None
    ) -> Assignment | Checkpoint:
        """Declare what this rank saves; once all ranks have, return what it has to send, or what is saved already.

        Waits for `turn` first, so that saves are declared in their order.
        """

    def send(self, save: SaveRef, source: LaneSource, deadline: Deadline, stop: threading.Event) -> None:
        """Send one lane; return when all of it has arrived and agrees with its checksums. `stop` gives it up."""

    def outcome(self, save: SaveRef, deadline: Deadline) -> Checkpoint:
        """Wait until the save is published; raise what ended it, `NotFoundError` when there is no trace of it."""

    def look(self, save: SaveRef) -> SaveProgress | None:
        """Return how far a save is that was planned; None where that is not known, or it has ended."""

    def await_retention(self, checkpoint: Checkpoint, deadline: Deadline) -> None:
        """Wait until what retention deletes because of a published save is gone, as far as it can be deleted now.

        Returns at once with an older daemon, which cannot tell.

        Raises:
            UnavailableError: not until the deadline.
        """

    def abort(self, save: SaveRef, reason: str) -> None:
        """Request the end of a save, so that other ranks need not wait for its deadline. Never raises."""


class RunCatalog(Protocol):
    """Finds, reads and manages the checkpoints of a run. Methods may be called from any thread, several at a time."""

    def tell_restored(self, objects: Objects, size_bytes: int, seconds: float) -> None:
        """Tell a daemon, for its figures, that so much was restored from `objects`. Never waits, never raises."""

    def latest(self, name: str, call: RestoreCall | None = None) -> Located | None:
        """Return the newest complete checkpoint of the run that `name` means; see `ckptd.engine.series`.

        For a call of `restore` it is the one that all ranks of this start restore.

        Raises:
            CorruptionError: when there are checkpoints, and all of them are in quarantine.
        """

    def checkpoints(self) -> list[Located]:
        """Return all checkpoints of the run, of whatever name, oldest first."""

    def set_pinned(self, which: NamedStep, pinned: bool) -> Checkpoint:
        """Keep a checkpoint from retention, or no longer."""

    def delete(self, which: NamedStep, for_good: bool, even_latest: bool) -> None:
        """Remove a checkpoint; durable on return, and undone by `undelete` for a while unless it is for good."""

    def undelete(self, which: NamedStep) -> Checkpoint:
        """Bring a checkpoint back that was deleted lately; durable on return."""

    def agree(self, name: str, located: Located, call: RestoreCall, is_whole: bool) -> tuple[Agreement, str]:
        """Report what was found in the checkpoint that all ranks restore together.

        Returns what follows, and which ranks are missing; does not wait for them: to be repeated.
        """

    def check_damage(self, located: Located, suspicion: Suspicion, call: RestoreCall) -> DamageVerdict | None:
        """Have the owner of the run read bytes again that looked wrong; None when no process can.

        Raises:
            UnavailableError, NotPermittedError: when they can't be read, which says nothing about them.
        """

    def objects(self, key: str) -> Objects:
        """Return what the bytes of the checkpoint with this prefix are read from."""

    def news(self, name: str) -> Source:
        """Return what tells of the newest checkpoint that `name` means, and of each newer one. Not yet connected."""


class SaveRooms(Rooms, Protocol):
    """Memory to capture saves into: shared with the engine where it can be."""

    def share(self, pool: RoomPool) -> None:
        """Take memory from `pool`, which is shared, unless the engine lends it."""

    def close(self) -> None:
        """Free what is kept, unless others use it."""


class EngineConnection(Droppable, Protocol):
    """This process's hold on the engine."""

    @property
    def is_inherited(self) -> bool:
        """Whether it is the parent's, and this process a forked child, which must not touch it."""

    def close(self) -> None:
        """Refuse further calls and end waits; `release` releases the hold. May be repeated."""

    def release(self, *, is_dropped: bool = True) -> None:
        """See `Droppable`; not `is_dropped`: it was closed."""


class Transport:
    """The transport to the engine, over one connection: to a daemon, or to the engine in this process.

    Attributes:
        place: what it saves to, the same for all objects that save there as this rank; see `own_saves`.
        connection: this process's hold on the engine.
        saves: carries saves.
        catalog: the checkpoints of the run.
        rooms: memory to capture saves into.
        watches: those that are open.
    """

    def __init__(
        self, place: str, connection: EngineConnection, saves: SaveTransport, catalog: RunCatalog, rooms: SaveRooms
    ) -> None:
        self.place = place
        self.connection = connection
        self.saves = saves
        self.catalog = catalog
        self.rooms = rooms
        self.watches = OpenSources()

    def watch(self, name: str, timeout_s: float | None = None) -> Watch:
        """Yield the newest checkpoint that `name` means, then each newer one.

        Until `close`, or until none came for `timeout_s`.
        """
        return Watch(self.watching(name), timeout_s)

    @contextmanager
    def watching(self, name: str) -> Iterator[Source]:
        """Open a watch, and free it in the end."""
        with self.watches.watching(self.catalog.news(name)) as source:
            yield source

    def close(self) -> None:
        """Leave the run and free everything. Harmless when repeated."""
        self.connection.close()
        self.rooms.close()
        if self.connection.is_inherited:
            return
        self.watches.close()
        self.connection.release(is_dropped=False)
