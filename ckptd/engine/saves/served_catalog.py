"""The catalog of a run while its owner serves it: one user at a time, and answers from memory in the meantime."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from ckptd.engine.catalog import epochs, presence, records, rest
from ckptd.engine.catalog.catalog import Catalog
from ckptd.engine.catalog.contents import CheckpointSelector
from ckptd.engine.catalog.fence import Life
from ckptd.engine.catalog.floor import FloorNow, no_floor
from ckptd.engine.catalog.ledger import ConfirmRoot, confirm_nothing
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.retention import RetentionPolicy, Verdict, requested
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import Clock
from ckptd.engine.identity import RunOptions
from ckptd.engine.journal import Actor
from ckptd.engine.log import logger
from ckptd.engine.reading.damage import DamageVerdict, Suspicion
from ckptd.engine.saves.damage_checks import DamageChecks
from ckptd.engine.saves.readers import Readers
from ckptd.engine.saves.run_journal import RunJournal
from ckptd.engine.saves.starts import is_same_save
from ckptd.engine.series import NamedStep, latest_of, name_of
from ckptd.errors import CkptdError, ConflictError
from ckptd.format.names import ANY_NAME
from ckptd.storage.base import Store
from ckptd.storage.keys import join

_SWEEP_AGAIN_S = 5.0
_NOTE_REST_AFTER_S = 5.0  # after so long without a change, a run in a bucket is noted as idle


class ServedCatalog:
    """See the module. Every method may be called from any thread.

    Attributes:
        lock: guards `catalog`, and is held while the store works. A thread that also needs the run's own lock takes
            this one first.
        catalog: what is stored of the run; replaced when the run is taken back from another owner.
        options: what the run's members requested, as far as the catalog follows it.
        problems: what is wrong with the run's files, found when it was opened, in words.
        passed_by: listed as newer than the latest, but not whole; until the next save.
        foreseen: what becomes of each listed checkpoint if one more is saved, as of the last change.
        durable_epoch: the epoch that the store knows; guarded by `lock`.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        clock: Clock,
        undo_s: float,
        holder: str,
        life: Life | None,
        readers: Readers,
        notes_rest: bool,
        on_look: Callable[[frozenset[str]], None],
        on_rolled_back: Callable[[Checkpoint], None],
        journal: RunJournal,
        floor: FloorNow = no_floor,
        confirm_root: ConfirmRoot = confirm_nothing,
    ) -> None:
        """Read nothing yet: `open` does.

        Args:
            store: where the run lies.
            name: the run.
            clock: the time.
            undo_s: how long a deletion can be undone.
            holder: names this owner to others.
            life: this owner's life, in a store without locks.
            readers: what is being read through this owner.
            notes_rest: whether the store keeps a note of the run while it is at rest.
            on_look: called with the ids of all saves whenever these may have changed.
            on_rolled_back: called with the latest checkpoint when a newer one went into quarantine.
            floor: what the operator keeps of the run, whatever its trainers request.
            journal: is told of removals, recovery and damage.
            confirm_root: raises once another coordinator has the root; see `Catalog`.
        """
        self.lock = threading.Lock()
        self.options = RunOptions()
        self.problems: tuple[str, ...] = ()
        self.passed_by: tuple[str, ...] = ()
        self.foreseen: tuple[Verdict, ...] = ()
        self.durable_epoch = 0
        self.stepped_at: dict[str, float] = {}  # when each kind of durable step was begun last, on the boot clock
        self._store, self._name, self._clock, self._undo_s = store, name, clock, undo_s
        self._holder, self._life = holder, life
        self._readers, self._journal = readers, journal
        self._notes_rest = notes_rest
        self._on_look = on_look
        self._floor, self._confirm_root = floor, confirm_root
        self.catalog = self._new_catalog()
        self._checkpoints: tuple[Checkpoint, ...] = ()
        self._listed: tuple[Checkpoint, ...] = ()
        self._forgotten: tuple[Checkpoint, ...] = ()
        self._quarantined: tuple[Record, ...] = ()
        self._damage = DamageChecks(store, name, self, clock=clock, on_rolled_back=on_rolled_back, journal=journal)
        self._sweep_at: float | None = None  # wall clock, when some deletion can be undone no longer
        self._is_closed = False  # guarded by `lock`
        self._is_rest_noted = not notes_rest
        self._rests_since = 0.0  # boot clock, since when nothing has changed

    def open(self, versions: Mapping[str, str] | None = None) -> int:
        """Recover the run's directory, load what it holds, and return the highest epoch there was.

        `versions` are of all its objects, where they were looked at already; see `ckptd.engine.catalog.rest`.
        """
        with self.lock:
            note = None if versions is None else rest.load(self._store, self._name, versions)
            if note is not None and self.catalog.upkeep.resume(note):
                epoch = note.epoch
            else:
                self._recover()
                epoch = epochs.stored(self._store, self._name)
            self.durable_epoch = max(epoch, self.catalog.contents.highest_epoch())
            self.look()
            return self.durable_epoch

    def close(self) -> None:
        """Note that the run is idle; later work on it finds it closed."""
        self.note_rest()
        with self.lock:
            self._is_closed = True

    @property
    def is_closed(self) -> bool:
        """Whether the run was closed."""
        return self._is_closed

    def _new_catalog(self) -> Catalog:
        return Catalog(
            self._store,
            self._name,
            clock=self._clock,
            undo_s=self._undo_s,
            holder=self._holder,
            life=self._life,
            floor=self._floor,
            confirm_root=self._confirm_root,
            removal=self._journal.removal,
            kept=self._journal.kept,
            on_step=lambda step: self.stepped_at.update({step: self._clock.boot_s()}),
        )

    def _recover(self) -> None:
        for each in (records.DIRECTORY, records.ASIDE_DIRECTORY):
            presence.check_directory(self._store, join(self._name, each))
        recovery = self.catalog.upkeep.recover()
        for outcome in recovery.outcomes:
            logger.info("%s: %s: %s", outcome.subject, outcome.fate.value, outcome.reason)
            self._journal.recovered(outcome)
        self.problems, self.passed_by = recovery.problems, recovery.passed_by
        for problem in self.problems_in_words():
            logger.warning("%s: %s", self._name, problem)

    def problems_in_words(self) -> list[str]:
        """Return what is wrong with the run's files, for people."""
        passed_by = [
            f"{each}; the state file lists it as newer than the latest, and it is passed by" for each in self.passed_by
        ]
        return [*self.problems, *passed_by]

    # What answers from memory.

    def look(self) -> None:
        """Remember what the catalog holds, so that an answer never waits for the store; the lock is held."""
        self._checkpoints = tuple(self.catalog.contents.checkpoints())
        self._listed, self._forgotten = tuple(self.catalog.contents.listed()), tuple(self.catalog.contents.forgotten())
        self._quarantined = tuple(self.catalog.contents.quarantined())
        self.stored_bytes, self.foreseen = self.catalog.contents.stored_bytes(), self.catalog.foreseen()
        self._on_look(frozenset(checkpoint.save_id for checkpoint in self._checkpoints))
        self._is_rest_noted = not self._notes_rest
        self._rests_since = self._clock.boot_s()
        sweep_at = self.catalog.next_sweep_at()
        # What could not be swept, for example because it is being read, is not tried again with every tick.
        self._sweep_at = None if sweep_at is None else max(sweep_at, self._clock.wall_s() + _SWEEP_AGAIN_S)

    def latest(self, name: str = ANY_NAME) -> Checkpoint | None:
        """Return the newest complete checkpoint that `name` means; see `series`."""
        return latest_of(name, self._listed, self._forgotten)

    def checkpoints(self) -> list[Checkpoint]:
        """Return all checkpoints, oldest first."""
        return list(self._checkpoints)

    def quarantined(self) -> list[Record]:
        """Return the records of what is in quarantine."""
        return list(self._quarantined)

    def is_there(self, checkpoint: Checkpoint) -> bool:
        """Say whether a checkpoint is among those of the run, and the same save."""
        return any(is_same_save(each, checkpoint) for each in self._checkpoints)

    def published_save(self, save_id: str) -> Checkpoint | None:
        """Return the checkpoint that a save made, also one from before the daemon's restart."""
        return next((each for each in self._checkpoints if each.save_id == save_id), None)

    def save_id_at(self, prefix_key: str) -> str:
        """Return the id of the save whose checkpoint has this prefix now; "" if there is none, or it is not ours."""
        prefix = self._store.location(prefix_key)
        found = (checkpoint for checkpoint in reversed(self._checkpoints) if checkpoint.prefix == prefix)
        return next((checkpoint.save_id for checkpoint in found), "")

    def quarantine_of(self, save_id: str) -> str:
        """Return why the checkpoint of a save is in quarantine, in words; "" when it is not."""
        found = (each for each in self._quarantined if each.save_id == save_id)
        return next((f"{each.prefix}: {each.quarantine}" for each in found), "")

    def in_use(self) -> set[str]:
        """Return the prefixes of checkpoints that are being read through this owner."""
        return {self._store.location(prefix) for prefix in self._readers.in_use(self._clock.boot_s())}

    def next_sequence(self) -> int:
        """Return the place of the save that begins now among all of the run. Any thread may call it."""
        return self.catalog.upkeep.sequences.next()

    # Changes.

    @contextmanager
    def _changing(self) -> Iterator[Catalog]:
        """Apply one change to the catalog, and remember what it holds afterwards."""
        with self.lock:
            try:
                yield self.catalog
            finally:
                self.look()

    def follow(self, options: RunOptions, policy: RetentionPolicy) -> None:
        """Let the catalog follow what a member requested when it joined; the lock is held."""
        self.catalog.configure(
            policy,
            options.latest_filename,
            options.pad_step_number,
            options.save_relative_paths,
            hours_since=options.hours_since,
        )
        self.look()
        self.options = options

    def _named(self, which: CheckpointSelector) -> CheckpointSelector:
        """Read a step without a name, as older clients send it: of the run's name, if there is such a checkpoint."""
        own = self.options.name
        if isinstance(which, int) and any(each.step == which and name_of(each) == own for each in self._checkpoints):
            return NamedStep(own, which)
        return which

    def find(self, which: CheckpointSelector, *, deleted: bool = False) -> Checkpoint | None:
        """Return the checkpoint that is meant, or the one that can be undeleted; None if there is none.

        It waits for a change that is under way.
        """
        with self.lock:
            try:
                if deleted:
                    return self.catalog.edits.find_deleted(which)
                return self.catalog.contents.find(self._named(which))
            except CkptdError:
                return None

    def pin(self, which: CheckpointSelector, pinned: bool) -> Checkpoint:
        """Keep a checkpoint whatever retention says, or no longer."""
        which = self._named(which)
        with self._changing() as catalog:
            return catalog.edits.pin(which) if pinned else catalog.edits.unpin(which)

    def delete(
        self, which: CheckpointSelector, for_good: bool = False, even_latest: bool = False, *, append_only: bool = False
    ) -> None:
        """Delete a checkpoint in a way that `undelete` can undo; or for good, if it is not being read.

        Of an `append_only` caller nothing goes below the floor.
        """
        which = self._named(which)
        with self._changing() as catalog:
            prefix = catalog.contents.find(which).prefix
            if for_good and prefix in self.in_use():
                raise ConflictError(
                    "it is being read; it can be deleted in a way that leaves its data a while", key=prefix
                )
            catalog.edits.delete(which, for_good=for_good, even_latest=even_latest, append_only=append_only)

    def undelete(self, which: CheckpointSelector) -> Checkpoint:
        """Bring a checkpoint back that was deleted lately."""
        with self._changing() as catalog:
            return catalog.edits.undelete(which)

    def note_verified(self, save_id: str) -> None:
        """Note that all of a checkpoint was read just now and is intact."""
        with self._changing() as catalog:
            catalog.edits.note_verified(save_id)

    def check_damage(
        self, key: str, save_id: str, suspicion: Suspicion, by: str, actors: tuple[Actor, ...] = ()
    ) -> DamageVerdict:
        """Read bytes again that looked wrong to a reader; see `DamageChecks.check`."""
        return self._damage.check(key, save_id, suspicion, by, actors)

    def writer_heard_end(self, save_id: str, host: str) -> None:
        """Note that a writer on another host writes nothing more of a save that is over."""
        with self._changing() as catalog:
            catalog.writers.heard_end(save_id, host)

    # Housekeeping.

    @property
    def is_to_be_swept(self) -> bool:
        """Whether something waits for the time to undo a deletion to be over."""
        return self._sweep_at is not None

    def is_sweep_due(self) -> bool:
        """Return, once, that `retire` has something to sweep."""
        if self._sweep_at is None or self._clock.wall_s() < self._sweep_at:
            return False
        self._sweep_at = self._clock.wall_s() + _SWEEP_AGAIN_S  # unless the sweep finds otherwise
        return True

    def retire(self, actors: tuple[Actor, ...] = ()) -> None:
        """Delete what retention no longer keeps because of `actors`, and what was deleted long enough ago."""
        try:
            with self.lock, self._journal.caused_by(actors):
                if not self._is_closed:
                    self.catalog.retire(self.in_use())
                    self.look()
        except CkptdError as error:
            # The save is done and announced; what could not be removed is found again after the next one.
            logger.warning("retention of %s could not finish: %s", self._name, error)

    def is_rest_note_due(self) -> bool:
        """Return, once after each change, that nothing has changed for so long that `note_rest` should note it."""
        if self._is_rest_noted or self._clock.boot_s() - self._rests_since < _NOTE_REST_AFTER_S:
            return False
        self._rests_since = math.inf  # not again before something changes
        return True

    def note_rest(self) -> None:
        """Note that the run is idle, if it is; without the note the next start only takes longer."""
        try:
            with self.lock:
                if not self._is_closed and not self._is_rest_noted:
                    self._is_rest_noted = self.catalog.upkeep.keep_rest_note(self.durable_epoch)
        except CkptdError as error:
            logger.debug("%s: it could not be noted that the run is at rest: %s", self._name, error)

    # Ownership.

    @property
    def is_taken_over(self) -> bool:
        """Whether another owner has taken the run over: then every save of it fails."""
        return self.catalog.upkeep.is_fenced

    def confirm(self) -> None:
        """Make sure that the run is still ours; `ConflictError` names the present owner.

        What a former owner has noted since it is none is swept, when it is time to look for that.
        """
        with self.lock:
            if self._is_closed:
                return
            self.catalog.upkeep.confirm(0.0)
            if self.catalog.upkeep.take_in_late(self.in_use()):
                self.look()

    def take_back(self, *, was_in_force: bool) -> int | None:
        """Own the run again, as a daemon that is started anew does: what the other owner has saved is part of it.

        Returns the highest epoch that either owner gave out, None when there is nothing to take back. The lock is held.
        """
        if self._is_closed or not self.is_taken_over:
            return None
        if self._life is not None:
            # What the other owner has signed until now no longer means that the run was taken over from us.
            signed_at = max((stat.modified_at for stat in self._store.list(self._name)), default=0.0)
            self._life = replace(self._life, began_at=max(self._life.began_at, signed_at))
        new = self._new_catalog()
        new.upkeep.sequences = self.catalog.upkeep.sequences  # a save may begin before the new one knows all records
        self.catalog = new
        self._recover()
        if was_in_force:
            # The hours of the retention rule count anew, as for a daemon that is started anew.
            self.catalog.configure(
                requested(self.options),
                self.options.latest_filename,
                self.options.pad_step_number,
                self.options.save_relative_paths,
            )
            self.catalog.upkeep.confirm(0.0)
        self.durable_epoch = max(
            epochs.stored(self._store, self._name), self.catalog.contents.highest_epoch(), self.durable_epoch
        )
        return self.durable_epoch
