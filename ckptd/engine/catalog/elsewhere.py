"""Saves that agents on other hosts write: for how long one may still go on, and for how long its number stays taken.

A coordinator that dies leaves such a save in its agents, which hold the bytes and the receipts. So the next one waits
for them where it would sweep, and no longer than `WAIT_S`.

An agent that is cut off may still create a key of an attempt that was aborted. So no later attempt has that many shards
until every writer has heard how the save ended, or for `TAKEN_S`: the record stays that long, as a tombstone. Likewise
one that hangs may create the key of a shard that its next life has written, and that retention has deleted since: so
the record of a published save stays as well, if not all have heard, or if it was begun by a former owner, which may
hang in a request of its own. At the tombstone's end what has come is swept.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection

from ckptd.engine.catalog.ledger import Ledger
from ckptd.engine.catalog.records import Record
from ckptd.engine.wording import describe_seconds

_log = logging.getLogger(__name__)

WAIT_S = 60.0
TAKEN_S = 24 * 3600.0


class Elsewhere:
    """The saves of one run that other hosts write. Not thread-safe: it has one owner, the run's catalog."""

    def __init__(self, ledger: Ledger) -> None:
        """Know of none; see `found`."""
        self._ledger = ledger
        self._until: dict[str, float] | None = None  # by save: forward-only clock; None: nothing was read yet
        self._heard: dict[str, set[str]] = {}  # by save: the writers that have heard its end
        self._former: set[str] = set()  # saves that a former owner began, which may hang

    def found(self, records: Collection[Record], new: Collection[str]) -> None:
        """Take up what the run holds when it is read; what is there at the first time may go on for a while.

        `new` are the saves that were not known: former owners began them.
        """
        now = self._ledger.clock.boot_s()
        if self._until is None:
            may_go_on = (each for each in records if each.writers and not each.published and each.aborted_at is None)
            self._until = {each.save_id: now + WAIT_S for each in may_go_on}
        self._former |= {
            each.save_id for each in records if each.writers and not each.published and each.save_id in new
        }
        for record in records:
            if self._until.get(record.save_id, math.inf) <= now:
                del self._until[record.save_id]
                _log.warning(
                    "%s waits no longer for the agents on %s: they have not come back to it within %s",
                    self._ledger.store.location(record.prefix_key),
                    ", ".join(record.writers),
                    describe_seconds(WAIT_S),
                )
        self._ledger.waiting = set(self._until)

    def may_go_on(self, record: Record) -> bool:
        """Whether the agents that write a save may still come back, so that nothing of it may be deleted."""
        return record.save_id in self._ledger.waiting

    def wait_no_longer(self, save_id: str) -> None:
        """End the wait for a save: it goes on now, or never will."""
        (self._until or {}).pop(save_id, None)
        self._ledger.waiting.discard(save_id)

    def is_taken(self, record: Record) -> bool:
        """Whether a writer may still write under the keys of a save that is over, or a former owner that began it."""
        is_ours = not record.revived and record.save_id not in self._former
        heard = self._heard.get(record.save_id, set())
        # Of thousands each is heard, one after the other: all of them are looked at once.
        if is_ours and len(heard) >= len(record.writers) and set(record.writers) <= heard:
            return False
        over_at = record.saved_at if record.published else record.aborted_at
        return over_at is None or self._ledger.clock.wall_s() < over_at + TAKEN_S

    def heard(self, record: Record, host: str) -> bool:
        """Note that a writer has heard that a save is over, and writes no more; return whether all have."""
        self._heard.setdefault(record.save_id, set()).add(host)
        return not self.is_taken(record)

    def forget(self, save_id: str) -> None:
        """Forget a save that nothing is left of."""
        self.wait_no_longer(save_id)
        self._heard.pop(save_id, None)
        self._former.discard(save_id)

    def next_at(self, besides: Collection[str] = ()) -> float | None:
        """Return when the time of a save is next over, wall clock; None if there is none `besides` these."""
        ledger, now = self._ledger, self._ledger.clock.wall_s() - self._ledger.clock.boot_s()
        times = [now + until for save_id, until in (self._until or {}).items() if save_id in ledger.records]
        for record in ledger.records.values():
            is_ours = record.latest_filename == ledger.latest_filename and record.save_id not in besides
            if record.aborted_at is not None and not record.published and is_ours:
                times.append(record.aborted_at + TAKEN_S)
        return min(times, default=None)
