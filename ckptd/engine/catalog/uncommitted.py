"""Saves that were never committed: when what they left may be deleted, and what must not be used again because of them.

In a store without locks a former owner may wake up and still commit one, or delete its shards once more.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from ckptd.engine.catalog import deleting
from ckptd.engine.catalog.elsewhere import Elsewhere
from ckptd.engine.catalog.ledger import Ledger
from ckptd.engine.catalog.records import Record
from ckptd.errors import NotFoundError


class Uncommitted:
    """The saves of one run that were begun and not committed, by us or by former owners."""

    def __init__(self, ledger: Ledger, elsewhere: Elsewhere) -> None:
        """Know of none; see `found`."""
        self._ledger = ledger
        self.elsewhere = elsewhere
        self._former: set[str] = set()  # saves that former owners began
        self._swept_counts: dict[str, set[int]] = {}  # of those that were swept, by prefix: the number of shards
        self._unswept: list[Record] = []  # a former owner might still commit them

    @property
    def has_unswept(self) -> bool:
        """Whether some were left alone, as a former owner might still commit them."""
        return bool(self._unswept)

    def found(self, records: Collection[Record], new: Collection[str]) -> None:
        """Take up what the run holds when it is read; the `new` saves, which were not known, are of former owners."""
        self.elsewhere.found(records, new)
        self._unswept = []
        self._former |= {record.save_id for record in records if not record.published and record.save_id in new}

    def leave(self, record: Record) -> None:
        """Note that one is not swept now; see `why_not`."""
        self._unswept.append(record)

    def can_sweep_more(self) -> bool:
        """Say whether some save that was never committed, and was not swept, may be by now."""
        due_at = self.elsewhere.next_at({record.save_id for record in self._unswept})
        if due_at is not None and due_at <= self._ledger.clock.wall_s():
            return True
        return any(not self.why_not(record) for record in self._unswept)

    def why_not(self, record: Record) -> str:
        """Say how a save that was never committed still could be, by a former owner that wakes up; "" if it can't.

        Its shards must stay then: an index that refers to them may come.
        """
        if self._ledger.store.has_locks:
            return ""
        if not self._ledger.state.keeps_others_out:
            return "it was never committed, and is swept once a state file keeps others out"
        if record.index_version is not None:
            with suppress(NotFoundError):
                if self._ledger.store.stat(record.index_key).version == record.index_version:
                    return "it was to replace the checkpoint in place, and is swept once that has changed"
        return ""

    def sweep(self, record: Record) -> None:
        """Delete what a save left that never got an index, and forget it; see `deleting.sweep`.

        The record stays while writers on other hosts may still write under its keys.
        """
        ledger = self._ledger
        others = [
            other
            for other in ledger.records.values()
            if other.prefix == record.prefix and other.save_id != record.save_id
        ]
        if record.writers and self.elsewhere.is_taken(record):
            self.elsewhere.wait_no_longer(record.save_id)
            if record.aborted_at is None:
                # Crash here: as before; the next owner waits for its writers, and comes back to this.
                ledger.on_step("sweep.aborted")
                # A later owner may go on with it: then nothing of it is deleted. Either notes that first, or the other.
                record = ledger.note_first(record, aborted_at=ledger.clock.wall_s())
            # Crash here: a tombstone with shards: `recovery` comes back to this, and waits for no writer.
            deleting.bury(ledger.store, record, others=others, on_step=ledger.on_step)
            return
        deleting.sweep(ledger.store, record, others=others, on_step=ledger.on_step)
        ledger.forget(record.save_id)
        self.elsewhere.forget(record.save_id)
        if not ledger.store.has_locks and record.save_id in self._former:
            self._swept_counts.setdefault(record.prefix_key, set()).add(record.num_shards)

    def used_counts(self, prefix_key: str) -> set[int]:
        """Return the numbers of shards that no new attempt at a checkpoint may have: their keys belong to others.

        In a store without locks that includes those of a former owner's attempt that was swept: its owner may wake up
        and delete them once more, by a request that is on its way.
        """
        ours = {record.num_shards for record in self._ledger.records.values() if record.prefix_key == prefix_key}
        return ours | self._swept_counts.get(prefix_key, set())

    def sweep_uploads_of(self, record: Record) -> None:
        """Abort what uploads of a save of ours are left that will not be committed."""
        ledger = self._ledger
        ledger.confirm(0.0)
        ledger.store.sweep_unfinished(ledger.run, given_up=record.shard_keys, spare=ledger.live_keys())
