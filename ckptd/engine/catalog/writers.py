"""What a run's owner does about saves that agents on other hosts write: it goes on with one, or ends its tombstone."""

from __future__ import annotations

from collections.abc import Sequence

from ckptd.engine.catalog.ledger import Ledger
from ckptd.engine.catalog.presence import has_object
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.save_keys import SaveKeys
from ckptd.engine.catalog.uncommitted import Uncommitted
from ckptd.engine.catalog.upkeep import Upkeep
from ckptd.errors import CkptdError, ConflictError


class Writers:
    """See the module, and `ckptd.engine.catalog.elsewhere` for how long each waits."""

    def __init__(self, ledger: Ledger, uncommitted: Uncommitted, upkeep: Upkeep, keys: SaveKeys) -> None:
        """Look at a ledger."""
        self._ledger, self._uncommitted, self._upkeep, self._keys = ledger, uncommitted, upkeep, keys
        self._revived: set[str] = set()

    def waiting(self, name: str, step: int | None, calls: str) -> list[Record]:
        """Return the records of saves that former lives began for these calls and that may go on, the newest first.

        There are several if one that planned otherwise died as well; what agents were told last is the newest.
        """
        self._upkeep.refresh()
        prefix, ledger = self._keys.prefix(name, step), self._ledger
        found = (each for each in ledger.records.values() if each.save_id in ledger.waiting and not each.published)
        ours = [each for each in found if each.prefix == prefix and each.calls == calls]
        return sorted(ours, key=lambda each: -each.sequence)

    def revive(self, record: Record, keys: Sequence[str], *, term: int = 0) -> frozenset[str] | None:
        """Go on with a save that `waiting` has returned: from here on it is under way, and in the record it has `term`.

        `keys` are those of its shards that its owner writes itself. Returns which of these are there, all of them
        empty; None when one has bytes, which cannot be written anew, or when a former owner has just aborted it.
        Deleting it is no way: such a request may hang, and take effect when a later life has gone on with the same save
        and published it.
        """
        there = frozenset(key for key in keys if has_object(self._ledger.store, key))
        if any(self._ledger.store.stat(key).size_bytes for key in there):
            return None
        try:
            self._ledger.note_first(record, term=term, revived=True)
        except ConflictError:
            self._ledger.is_stale = True
            return None
        self._uncommitted.elsewhere.wait_no_longer(record.save_id)
        self._ledger.live.add(record.save_id)
        self._revived.add(record.save_id)
        return there

    def why_not_begin(self, step: int | None, *, is_new: bool) -> str:
        """Return why a save may not begin, in words; "" if it may.

        One that is not new may have been begun by a former owner, and published: once a later step is, to begin it
        again could take the state back, and whether it was saved nobody knows any more. Where a save of the step waits
        for its writers, it is known; see `check_order`.
        """
        if is_new or step is None:
            return ""
        self._upkeep.refresh()
        records, waiting = self._ledger.records.values(), self._ledger.waiting
        latest = max((each.step or 0 for each in records if each.published), default=-1)
        if step > latest or any(each.step == step and each.save_id in waiting for each in records):
            return ""
        return f"whether step {step} is saved is not known: step {latest} is, by now"

    def check_may_begin_anew(self, step: int | None) -> None:
        """Make sure that a save which is not new, and goes on with no other, does not take the state back.

        What waits for its writers may be of another call of `save`; see `why_not_begin`.

        Raises:
            ConflictError: a later step is published by now.
        """
        latest = max((each.step or 0 for each in self._ledger.records.values() if each.published), default=-1)
        if step is not None and step <= latest:
            raise ConflictError(f"whether step {step} is saved is not known: step {latest} is, by now")

    def check_order(self, record: Record) -> None:
        """Make sure that what was revived is not published after what began later: the state would go back.

        Raises:
            ConflictError: a save of a later step, which began later, is published by now.
        """
        if record.save_id not in self._revived:
            return
        for other in self._ledger.records.values():
            is_later = None not in (other.step, record.step) and (other.step or 0) > (record.step or 0)
            if other.published and is_later and other.sequence > record.sequence:
                reason = f"a later save, of step {other.step}, was published while this one waited for its writers"
                raise ConflictError(reason, key=record.prefix_key)

    def heard_end(self, save_id: str, host: str) -> None:
        """Note that a writer knows that a save is over, and that it writes nothing for it any more.

        Once all know, nothing is left of a save that was aborted; if the store fails, the next retention sees to it.
        """
        record = self._ledger.records.get(save_id)
        if record is None or save_id in self._ledger.waiting:
            return
        have_all = self._uncommitted.elsewhere.heard(record, host)
        if have_all and not record.published and save_id not in self._ledger.live:
            try:
                self._uncommitted.sweep_uploads_of(record)
                self._uncommitted.sweep(record)
            except CkptdError:
                self._ledger.is_stale = True
                raise
