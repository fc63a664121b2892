"""What a daemon's service needs of an engine: `Coordinator` is one, and an agent on a training host is another.

Each call is plain and blocking; what waits for others returns a future. Thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeVar

from ckptd.engine.catalog.contents import CheckpointSelector
from ckptd.engine.catalog.floor import Floor
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.hosts.views import AttendingView
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.journal import Actor
from ckptd.engine.lanes.capture import Capture
from ckptd.engine.lanes.lane_writer import LaneWriter
from ckptd.engine.layout import Assignment
from ckptd.engine.manifest import Manifest
from ckptd.engine.offline.repair import Repaired
from ckptd.engine.reading.damage import DamageVerdict, Suspicion
from ckptd.engine.replicas import Difference
from ckptd.engine.saves.listeners import OnPublished
from ckptd.engine.saves.session import Phase
from ckptd.engine.saves.starts import Agreement, Restoring
from ckptd.engine.saves.surroundings import Admit
from ckptd.engine.saves.views import Eviction, RunView, SaveProgress
from ckptd.engine.settings import Settings
from ckptd.format import names
from ckptd.storage.base import Objects, Store

Result = TypeVar("Result")


class Root(Protocol):
    """The place that an engine serves: the word by which clients recognise it, and which promises it does not keep."""

    @property
    def id(self) -> str:
        """The word by which clients recognise it; "" before it is taken."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Which promises its store does not keep, in words."""


class Manifests(Protocol):
    """The manifests that are remembered; see `KnownManifests`."""

    def knows(self, digest: bytes) -> bool:
        """Whether a declaration may name this manifest by its digest alone."""

    def add(self, manifest: Manifest) -> None:
        """Remember a manifest."""

    def find(self, digest: bytes) -> Manifest:
        """Return a manifest that is remembered; `NotFoundError` when it has to be sent whole."""


class LiveSaves(Protocol):
    """The saves of one run, to be looked at; see `SaveQueue`."""

    def is_under_way(self, declaration: Declaration) -> bool:
        """Say whether a declaration belongs to a save that others have begun."""

    def owed_bytes(self) -> dict[str, int | None]:
        """Return the saves under way by their ids, and what has not arrived of each; None of one without a plan."""

    def differences(self, ref: SaveRef, request_id: str) -> tuple[Difference, ...]:
        """Return what a save that was declared so stores although ranks have other values of it."""

    def waiting_for_plan(self, ref: SaveRef, request_id: str) -> list[str]:
        """Say what a save that was declared so waits for; nothing if it is not under way."""

    def waiting_for(self, save_id: str) -> list[str]:
        """Say what the save of an id waits for; nothing if it is not under way."""

    def progress(self, save_id: str) -> SaveProgress | None:
        """Say how far the save of an id is, as far as that is known here; None if it is not under way."""

    def unattended(self) -> list[Future[Checkpoint]]:
        """Return the outcomes of saves that go on by themselves, after a rank of theirs has gone."""


class StoredCheckpoints(Protocol):
    """The checkpoints of one run, to be looked at and changed; see `ServedCatalog`."""

    passed_by: tuple[str, ...]

    @property
    def stored_bytes(self) -> int:
        """How many bytes the checkpoints hold."""

    def save_id_at(self, prefix_key: str) -> str:
        """Return the id of the save whose checkpoint has this prefix now; "" if there is none, or it is not ours."""

    def quarantine_of(self, save_id: str) -> str:
        """Return why the checkpoint of a save is in quarantine, in words; "" when it is not."""

    def find(self, which: CheckpointSelector, *, deleted: bool = False) -> Checkpoint | None:
        """Return the checkpoint that is meant, or the one that can be undeleted; None if there is none."""

    def pin(self, which: CheckpointSelector, pinned: bool) -> Checkpoint:
        """Keep a checkpoint whatever retention says, or no longer."""

    def delete(
        self, which: CheckpointSelector, for_good: bool = False, even_latest: bool = False, *, append_only: bool = False
    ) -> None:
        """Delete a checkpoint in a way that `undelete` can undo; or for good, if it is not being read."""

    def undelete(self, which: CheckpointSelector) -> Checkpoint:
        """Bring a checkpoint back that was deleted lately."""

    def check_damage(
        self, key: str, save_id: str, suspicion: Suspicion, by: str, actors: tuple[Actor, ...] = ()
    ) -> DamageVerdict:
        """Read bytes again that looked wrong to a reader."""


class JointRestores(Protocol):
    """Which checkpoint the ranks of a job restore, where they restore together; see `Restores`."""

    def latest(self, run: str, name: str, restoring: Restoring, reader: str = "") -> Checkpoint | None:
        """Return the newest checkpoint that `name` means, or the one that this start's first rank was given."""

    def go_back(self, run: str, restoring: Restoring, reader: str = "") -> str:
        """Let a rank restore an older checkpoint; return which others have the present one."""

    def agree(
        self, run: str, name: str, restoring: Restoring, prefix: str, is_whole: bool, reader: str = ""
    ) -> tuple[Agreement, str]:
        """Take what a rank that restores together with others has found."""


class Engine(Protocol):
    """See the module. What each method does and raises is said in `Coordinator`.

    Attributes:
        on_catalog, floor_of, admit: set by the service before the first call; see `Coordinator`.
    """

    on_catalog: Callable[[str, frozenset[str]], None]
    floor_of: Callable[[str], Floor]
    admit: Admit

    @property
    def objects(self) -> Objects:
        """What is read of the store: itself, or that together with what other hosts have of it."""

    @property
    def store(self) -> Store:
        """Where checkpoints are."""

    @property
    def root(self) -> Root:
        """The place that it serves."""

    @property
    def settings(self) -> Settings:
        """Its bounds."""

    @property
    def manifests(self) -> Manifests:
        """What ranks have declared, so that they declare it by digest from then on."""

    @property
    def restores(self) -> JointRestores:
        """For ranks that restore together."""

    # Members.

    def join(self, run: str, member: Member, options: RunOptions) -> int:
        """Give a process its place in a run; return the epoch."""

    def is_founded(self, run: str) -> bool:
        """Whether a run has had a member at some time."""

    def check_member(self, run: str, rank: int, incarnation: str, epoch: int) -> None:
        """Raise `ConflictError` unless this process holds this place of the run."""

    def disconnect(self, run: str, member: Member, epoch: int) -> None:
        """Note that a member's connection broke: its lease begins."""

    def leave(self, run: str, member: Member, epoch: int) -> None:
        """Take a member's place back at once."""

    def evict(self, run: str, rank: int | None, by: str) -> Eviction:
        """Free the place of one rank, or of all, and end its saves in the name of `by`."""

    # Saving.

    def declare(self, declaration: Declaration, capture: Capture | None = None) -> Future[Assignment | Checkpoint]:
        """Take one rank's declaration of a save."""

    def plan_of(self, save: SaveRef, request_id: str) -> Future[Assignment | Checkpoint]:
        """Return the answer to what `save.rank` has declared by this request."""

    def lane(self, save: SaveRef, shard: int) -> LaneWriter:
        """Return where the bytes that `save.rank` owes `shard` go."""

    def outcome(self, save: SaveRef) -> Future[Checkpoint]:
        """Return how a save ends, or ended."""

    def retired(self, save: SaveRef) -> Future[None]:
        """Return a future that is done once a save is over, and with it what retention does because of it."""

    def phase(self, save: SaveRef) -> Phase | None:
        """Return how far a save has come; None when there is no trace of it."""

    def saves_of(self, run: str) -> LiveSaves | None:
        """Return the saves of a run, None where it is not open."""

    def abort(self, save: SaveRef, reason: str) -> None:
        """End a save, if it can still be ended."""

    def withdraw(self, save: SaveRef, request_id: str, reason: str, name: str) -> None:
        """Take back what `save.rank` declared by this request, or was about to."""

    # Checkpoints.

    def latest(self, run: str, name: str = names.ANY_NAME) -> Checkpoint | None:
        """Return the newest complete checkpoint of a run that `name` means."""

    def checkpoints(self, run: str) -> Sequence[Checkpoint]:
        """Return the checkpoints of a run, oldest first."""

    def in_catalog(self, run: str, work: Callable[[StoredCheckpoints], Result]) -> Result:
        """Do something to the checkpoints of a run; `NotFoundError` when there is none."""

    def look(self, run: str, work: Callable[[StoredCheckpoints], Result], otherwise: Result) -> Result:
        """Return what `work` finds among the checkpoints of a run; `otherwise` where nothing is stored of it."""

    def subscribe(self, run: str, on_published: OnPublished) -> Callable[[], None]:
        """Call `on_published` for each checkpoint published from now on; return what ends that."""

    def note_read(self, key: str) -> None:
        """Note that an object is being read; retention spares its checkpoint for as long as that goes on."""

    # Runs.

    def stored_runs(self) -> Iterator[str]:
        """Yield the names of the runs below the root, open or not."""

    def runs(self) -> Sequence[RunView]:
        """Describe every run that is open, quarantined, or damaged in part, by name."""

    def attending(self) -> AttendingView | None:
        """Describe the coordinator that it passes calls on to; None of one that passes nothing on."""

    def when_open(self, run: str, *, create: bool = False) -> Future[None]:
        """Return a future that is done when a call about a run need not wait for it to be opened."""

    def repair(self, run: str, latest_filename: str) -> Repaired:
        """Mend a run that has no members, and open it again."""
