"""One run's checkpoints: which there are, which is latest; how a save gets in, and how one gets out.

A `Catalog` decides nothing itself: `retention` and `recovery` do. What it knows is in a `Ledger`, and is read
through `Contents`; `commit`, `Publishing`, `Undo`, `Uncommitted` and `Recoverer` do the durable work. `Upkeep` keeps
memory and store in step, `Edits` changes single checkpoints, and the `Catalog` itself carries saves.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace

from ckptd.engine.catalog import commit as durable
from ckptd.engine.catalog import deleting, quarantine, recovery, reserve, survey
from ckptd.engine.catalog.commit import OnStep, ignore_step
from ckptd.engine.catalog.contents import Contents
from ckptd.engine.catalog.edits import Edits
from ckptd.engine.catalog.elsewhere import Elsewhere
from ckptd.engine.catalog.fence import Life
from ckptd.engine.catalog.floor import FloorNow, no_floor
from ckptd.engine.catalog.ledger import ConfirmRoot, Kept, Ledger, Removal, confirm_nothing, untold_kept, untold_removal
from ckptd.engine.catalog.publishing import Publishing
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.recoverer import Recoverer
from ckptd.engine.catalog.recovery import Fate, RecoveryOutcome
from ckptd.engine.catalog.retention import Action, RetentionPolicy, Verdict, Why
from ckptd.engine.catalog.save_keys import SaveKeys
from ckptd.engine.catalog.survey import latest_checkpoint, list_checkpoints
from ckptd.engine.catalog.uncommitted import Uncommitted
from ckptd.engine.catalog.undo import Undo
from ckptd.engine.catalog.upkeep import Upkeep
from ckptd.engine.catalog.writers import Writers
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import Clock
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError
from ckptd.format import names
from ckptd.format.crc32c import crc32c
from ckptd.storage.base import Store
from ckptd.storage.keys import join

__all__ = ["Catalog", "latest_checkpoint", "list_checkpoints"]

_log = logging.getLogger(__name__)


class Catalog:
    """The checkpoints of one run that one state file publishes.

    It has one owner: no method may run while another does, and no other catalog may write to the run. Call
    `upkeep.recover` first. A save calls `choose_num_shards`, `draft`, `begin`, then writes the shards, then `commit`,
    answers waiting callers, and then `retire`; or `abandon` at any time before.

    Args:
        store: where the run lives.
        run: the run's directory in the store, "" for the root.
        clock: wall time is for the retention rule and for people.
        policy: what retention keeps, and by which rule. None: as the last save noted it, until `configure`.
        latest_filename: the state file's name.
        pad_step_number: whether steps in prefixes have eight digits.
        relative_paths: whether the state file names checkpoints relative to itself, or by their locations.
        undo_s: for how long a deletion by its owner can be undone; 0 deletes at once.
        holder: the name of its owner, for processes that are kept out.
        life: of the daemon that opens the run, perhaps not for the first time.
        floor: what the operator keeps whatever the policy says.
        on_step: called before each durable step with its name; for tests.
        removal: told of each checkpoint that is removed by itself, by retention above all.
        kept: told of what retention leaves in place.
        confirm_root: raises once another coordinator has the root; called before whatever changes the run.

    Attributes:
        contents: what there is.
        edits: what its owner changes: pins, deletions, quarantine.
        upkeep: reads the run again, follows the policy, knows whether the run is still ours.
        writers: for saves that agents on other hosts write.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        *,
        clock: Clock,
        policy: RetentionPolicy | None = None,
        latest_filename: str = names.STATE_KEY,
        pad_step_number: bool = False,
        relative_paths: bool = True,
        undo_s: float = 0.0,
        holder: str = "ckptd",
        life: Life | None = None,
        floor: FloorNow = no_floor,
        on_step: OnStep = ignore_step,
        removal: Removal = untold_removal,
        kept: Kept = untold_kept,
        confirm_root: ConfirmRoot = confirm_nothing,
    ) -> None:
        """Start the retention rule's clock; nothing is read yet."""
        ledger = Ledger(store, run, latest_filename, on_step, clock, holder, life, removal, confirm_root, kept)
        elsewhere = Elsewhere(ledger)
        publishing = Publishing(ledger, floor, elsewhere)
        uncommitted, undo = Uncommitted(ledger, elsewhere), Undo(ledger, undo_s)
        recoverer = Recoverer(ledger, publishing, undo, uncommitted)
        self.upkeep = Upkeep(ledger, publishing, recoverer, policy, relative_paths)
        self.contents = Contents(ledger, publishing)
        self.edits = Edits(ledger, self.contents, publishing, undo, self.upkeep, floor)
        self._store, self._run, self._clock, self._on_step = store, run, clock, ledger.tell_step
        self._ledger, self._publishing, self._undo = ledger, publishing, undo
        self._uncommitted, self._recoverer = uncommitted, recoverer
        self._keys = SaveKeys(ledger, uncommitted, pad_step_number)
        self.writers = Writers(ledger, uncommitted, self.upkeep, self._keys)

    def configure(
        self,
        policy: RetentionPolicy,
        latest_filename: str,
        pad_step_number: bool,
        relative_paths: bool = True,
        *,
        hours_since: float | None = None,
    ) -> None:
        """Follow what a trainer requests; as with a new Saver or manager, the retention rule starts over.

        With another state file the run is read again before the next call; saves in progress then fail to commit.
        `hours_since` is when a manager was made, None for now.
        """
        self._keys.pad_step_number = pad_step_number
        self.upkeep.follow(policy, latest_filename, relative_paths, hours_since)

    # Looking

    def exists(self, name: str, step: int | None) -> bool:
        """Say whether the step has an index, of any program: then saving it again needs `overwrite`."""
        return self._keys.is_there(names.index_key(join(self._run, self._keys.prefix(name, step))))

    def is_replaceable(self, name: str, step: int | None) -> bool:
        """Say whether the step is taken only by a checkpoint that a new save may replace.

        That is one in quarantine, or one that was found incomplete when the run was opened: it is neither restored nor
        counted, and a job that went back and comes to its step again would otherwise end here, on each start.
        """
        prefix, ledger = self._keys.prefix(name, step), self._ledger
        incomplete = (each for each in ledger.records.values() if each.published and each.save_id in ledger.incomplete)
        return any(record.prefix == prefix for record in (*quarantine.quarantined(ledger), *incomplete))

    def foreseen(self) -> tuple[Verdict, ...]:
        """Return what becomes of each listed checkpoint if one more is saved now. Reads nothing."""
        return self._publishing.foreseen(self.upkeep.policy, self.upkeep.mark)

    def why_lost(self, name: str, step: int | None) -> str:
        """Return why a save of a step would replace what could not be brought back, in words; "" if that is not so."""
        if not self.exists(name, step) or self.is_replaceable(name, step):
            return ""
        if self._undo.deleted_at() is None:
            return "this daemon keeps nothing that is replaced (--undo-s 0)"
        prefix = self._keys.prefix(name, step)
        if not any(each.prefix == prefix and each.published for each in self._ledger.records.values()):
            return "another program wrote it"
        return ""

    # A save

    def choose_num_shards(self, name: str, step: int | None, wanted: int) -> int:
        """Return the shard count for an attempt at this step: `wanted`, or the next that nothing there uses yet."""
        self.upkeep.refresh()
        return self._keys.num_shards(name, step, wanted)

    def draft(
        self,
        name: str,
        step: int | None,
        *,
        save_id: str,
        shard_sizes: Sequence[int],
        attempt: int = 1,
        epoch: int = 0,
        meta_graph: bool = False,
        meta_suffix: str = "meta",
        write_state: bool = True,
        keeps_replaced: bool = False,
        writers: Sequence[str] = (),
        layout_digest: str = "",
        calls: str = "",
        term: int = 0,
        sequence: int | None = None,
    ) -> Record:
        """Return the record of a save; None as its `sequence` if it begins only now. Nothing is written yet."""
        return Record(
            save_id=save_id,
            sequence=self.upkeep.sequences.next() if sequence is None else sequence,
            run=self._run,
            name=name,
            step=step,
            prefix=self._keys.prefix(name, step),
            shard_sizes=tuple(shard_sizes),
            began_at=self._clock.wall_s(),
            attempt=attempt,
            epoch=epoch,
            meta_graph=meta_graph,
            meta_suffix=meta_suffix,
            write_state=write_state,
            keeps_replaced=keeps_replaced,
            writers=tuple(writers),
            layout_digest=layout_digest,
            calls=calls,
            term=term,
        )

    def begin(self, record: Record) -> None:
        """Note durably that a save begins; only then may its shards be created.

        What only the catalog knows it adds to the record: the state file's name, the retention rule, and that the step
        is pinned.

        Raises:
            ConflictError: when one of the keys that it will use is taken.
        """
        self.upkeep.refresh()
        if record.run != self._run:
            raise InvalidRequestError("this record belongs to another run", key=record.key)
        if self.upkeep.unfinished is not None:
            raise self.upkeep.unfinished
        attempts = [each for each in self._ledger.records.values() if each.prefix == record.prefix]
        upkeep, policy = self.upkeep, self.upkeep.policy
        record = replace(
            record,
            latest_filename=self._ledger.latest_filename,
            next_keep_at=policy.sure_to_go(upkeep.mark) if record.write_state else 0.0,
            retention=policy.rule.value,
            max_to_keep=policy.max_to_keep,
            keep_hours=policy.keep_checkpoint_every_n_hours,
            relative_paths=upkeep.relative_paths,
            pinned=self._ledger.is_pinned(record.prefix),
        )
        if record.save_id in self._ledger.records:
            raise ConflictError("a save with this id has begun before", key=record.key)
        for other in attempts:
            is_kept = record.keeps_replaced and self._undo.is_undoable(other)
            if other.dropped and not is_kept and not self._keys.is_there(other.index_key):
                with suppress(deleting.BeingReadError):  # it goes later, as one that was overwritten
                    # What is left of it would pass for ours.
                    self._publishing.drop(other, reason="its step is saved anew", why=Why.REPLACED)
        present = set(self._keys.like(record.prefix))
        if not self._store.has_locks and record.index_key in present:
            record = replace(record, index_version=self._store.stat(record.index_key).version)
        self._keys.check(record, present)
        self._on_step("begin.record")
        self._ledger.note_begun(record)
        reserve.keep(self._store, self._run, parts=1)  # the others when nothing waits: `retire`

    def commit(
        self,
        record: Record,
        index: bytes,
        meta_graph: bytes | None = None,
        *,
        overwrite: bool = False,
        duration_s: float = 0.0,
    ) -> Checkpoint:
        """Make a save real and publish it. On return it survives a power cut: acknowledge it, then `retire`.

        Args:
            record: what `begin` was given; all its shards are finished.
            index: the whole index; it refers to `record.num_shards` shards.
            meta_graph: the graph description, if the record promised one.
            overwrite: replace a checkpoint of the same step.
            duration_s: how long the save took until now.

        Raises:
            ConflictError: when the step has an index and `overwrite` is False.
            CkptdError: when the store fails. The save may be committed nevertheless: `abandon` checks, and either
                removes it or carries it forward.
        """
        ledger, upkeep = self._ledger, self.upkeep
        if record.save_id not in ledger.live:
            raise ConflictError("this save has not begun, or is over", key=record.key)
        if (meta_graph is not None) != record.meta_graph:
            raise InvalidRequestError("a graph description comes exactly if the record says so", key=record.key)
        self.upkeep.refresh()
        self._publishing.settle(None)
        if record.save_id not in ledger.records:
            ledger.live.discard(record.save_id)
            raise ConflictError("another owner of the run has ended this save, and removed its record", key=record.key)
        record = ledger.records[record.save_id]
        if record.latest_filename != ledger.latest_filename:
            raise ConflictError("the run was given another state file meanwhile", key=record.key)
        self.writers.check_order(record)
        pinned = ledger.is_pinned(record.prefix)
        if pinned != record.pinned:
            # What this replaces was pinned, or unpinned, since the save began. The mark would go with its record.
            self._on_step("commit.pinned")
            record = ledger.remember(ledger.note(record, pinned=pinned))
        # Where others cannot be kept out, only the very index that was there when the save began is replaced.
        overwrite = overwrite and (self._store.has_locks or record.index_version is not None)
        files = durable.Files(record.index_key, index, record.meta_key, meta_graph, overwrite, record.index_version)
        if meta_graph is not None and (overwrite or record.keeps_replaced):
            is_there = self._keys.is_there(record.meta_key)
            if is_there and not self._keys.owns_meta(record):
                raise ConflictError("this key is taken since the save began, and not by ours", key=record.meta_key)
            files = replace(files, replaces_meta=is_there)
        done = replace(
            record,
            published=True,
            saved_at=self._clock.wall_s(),
            duration_s=duration_s,
            index_crc32c=crc32c(index),
        )
        try:
            if record.keeps_replaced and overwrite:
                self._keep_replaced(record)
            if record.keeps_replaced and files.replaces_meta:
                self._undo.keep_meta(record)
            durable.commit(self._store, files, self._on_step, confirm=upkeep.confirm)
            if done.write_state:
                listing = ledger.listing.with_newest(ledger.entry(done))
                upkeep.mark = self._publishing.publish(done, listing, upkeep.policy, upkeep.mark, upkeep.relative_paths)
            else:
                done = self._publishing.keep_unlisted(done)
        except CkptdError:
            ledger.is_stale = True
            raise
        finally:
            ledger.live.discard(record.save_id)  # also when it failed: from here on it is recovery's
        return survey.checkpoint_of(self._store, done)

    def _keep_replaced(self, record: Record) -> None:
        is_kept = self._undo.keep_replaced(record) or self.is_replaceable(record.name, record.step)
        if not is_kept and self._keys.is_there(record.index_key):
            raise ConflictError(
                "the index in place is not one that ckptd wrote, so it could not be brought back: replacing it needs "
                "the role `manage`",
                key=record.index_key,
            )

    def abandon(self, record: Record) -> RecoveryOutcome:
        """End a save that will not be committed: its shards, temporaries and record are deleted.

        The caller has aborted its writers. A save whose index is already in place goes forward instead: it is
        published. Safe to repeat; when the store fails, recovery does the rest at the next start.

        Raises:
            ConflictError: when another owner has taken the run over; nothing was removed.
        """
        ledger, subject = self._ledger, self._store.location(record.prefix_key)
        ledger.live.discard(record.save_id)
        try:
            self.upkeep.confirm(0.0)  # of another owner's run nothing is removed, also not what looks like ours
            if ledger.is_stale:
                outcomes = [outcome for outcome in self.upkeep.recover(None).outcomes if outcome.subject == subject]
                return outcomes[-1] if outcomes else RecoveryOutcome(subject, Fate.NOTHING, "nothing of it is left")
            known = ledger.records.get(record.save_id)
            if known is None or known.published:
                return RecoveryOutcome(
                    subject, Fate.NOTHING, "nothing of it is left" if known is None else "it is published"
                )
            self._uncommitted.sweep_uploads_of(known)
            attempts = [each for each in ledger.records.values() if each.prefix == known.prefix]
            gathered = recovery.gather(self._store, attempts, ledger.listed(), self._undo.is_undoable)
            [facts] = [each for each in gathered if each.record == known]
            fate, reason = recovery.judge(facts)
            return self._recoverer.carry_out(facts, fate, reason, None)
        except CkptdError:
            ledger.is_stale = True
            raise

    def retire(self, in_use: Collection[str] = ()) -> list[Verdict]:
        """Delete what retention no longer keeps, and note what else the last publication meant for others.

        Never raises `CkptdError`: what is being read (`in_use`, as `Checkpoint.prefix`) and what could not be deleted
        is in the result as kept, with the reason, and is tried again next time.
        """
        ledger = self._ledger
        try:
            if ledger.is_stale or not ledger.state.confirm():
                self.upkeep.recover(in_use)
            verdicts = self._publishing.settle(in_use)
            reserve.keep(self._store, self._run)
            if self._uncommitted.can_sweep_more():
                self.upkeep.recover(in_use)
            settled = {verdict.prefix for verdict in verdicts}
            for record in [each for each in ledger.records.values() if each.dropped and each.published]:
                if self._undo.is_undoable(record):
                    continue
                if self._store.location(record.prefix_key) not in settled:
                    is_deleted = record.deleted_at is not None
                    reason = "its deletion can be undone no longer" if is_deleted else "it left the list earlier"
                    why = Why.UNDO_OVER if is_deleted else Why.LEFT_EARLIER
                    verdicts.append(self._publishing.delete_or_mark(record, reason, why, in_use))
        except CkptdError as error:
            _log.warning("retention must wait: %s", error)
            verdicts = [Verdict(self._store.url, Action.KEEP, f"retention must wait: {error}", Why.POSTPONED)]
        ledger.kept([verdict for verdict in verdicts if verdict.action is Action.KEEP or verdict.why is Why.NOT_OURS])
        return verdicts

    def next_sweep_at(self) -> float | None:
        """Return when the time to undo a deletion is next over, by wall clock; `retire` then frees its space."""
        times = (self._undo.next_sweep_at(), self._uncommitted.elsewhere.next_at())
        return min((at for at in times if at is not None), default=None)
