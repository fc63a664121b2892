"""Saves that a former owner notes after its successor has read the run: by a request that hung.

Only a store without locks takes such a note. Nobody can commit that save. Its record and its shards would stay until a
later owner reads the run; so the present one looks for it, less and less often.
"""

from __future__ import annotations

from collections.abc import Iterable

from ckptd.engine.catalog import records
from ckptd.engine.catalog.ledger import Ledger

FIRST_LOOK_S = 10.0
_MOST_S = 24 * 3600.0


class LateNotes:
    """See the module. Not thread-safe: it has one owner, the run's catalog."""

    def __init__(self, ledger: Ledger) -> None:
        """Nothing is read yet."""
        self._ledger = ledger
        self._unreadable: set[str | None] = set()
        self._began_at: float | None = None  # forward-only clock
        self._next_at = 0.0

    def read(self, unreadable: Iterable[str | None]) -> None:
        """Hear that the run has been read: of what there is, the records with these keys could not be."""
        self._unreadable = set(unreadable)
        if self._began_at is None and not self._ledger.store.has_locks:
            self._began_at = self._ledger.clock.boot_s()
            self._next_at = self._began_at + FIRST_LOOK_S

    def look(self) -> bool:
        """Look, if it is time, whether there is a record that was not there when the run was read. One listing."""
        ledger, now = self._ledger, self._ledger.clock.boot_s()
        if self._began_at is None or now < self._next_at or ledger.is_stale:
            return False
        # What came late by some time is found before it is twice as late.
        self._next_at = now + min(max(now - self._began_at, FIRST_LOOK_S), _MOST_S)
        known = {record.key for record in ledger.records.values()} | self._unreadable
        return any(key not in known for key in records.keys(ledger.store, ledger.run))
