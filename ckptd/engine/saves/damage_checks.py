"""Bytes that looked wrong to a reader are read again by the owner of the run; what is wrong is put in quarantine."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from ckptd.engine.catalog.catalog import Catalog
from ckptd.engine.catalog.records import Record
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import Clock
from ckptd.engine.identity import SaveRef
from ckptd.engine.journal import Actor
from ckptd.engine.log import log_quarantined, logger
from ckptd.engine.reading.damage import DamageVerdict, Suspicion, look_again
from ckptd.engine.saves.run_journal import RunJournal
from ckptd.errors import InvalidRequestError, NotFoundError, NotPermittedError, StorageFullError
from ckptd.storage.base import Store

_SOUND_FOR_S = 60.0
_SOUND = "the owner of the run reads these bytes without damage"


class CheckedRun(Protocol):
    """What it needs of the run's checkpoints: see `ServedCatalog`."""

    lock: threading.Lock
    catalog: Catalog

    def look(self) -> None:
        """Remember what the catalog holds; the lock is held."""

    def latest(self, name: str) -> Checkpoint | None:
        """Return the newest complete checkpoint that `name` means."""


class DamageChecks:
    """Of one run. Any thread may use it; one looks at a time."""

    def __init__(
        self,
        store: Store,
        name: str,
        stored: CheckedRun,
        *,
        clock: Clock,
        on_rolled_back: Callable[[Checkpoint], None],
        journal: RunJournal,
    ) -> None:
        """See `ServedCatalog`, whose catalog it changes."""
        self._store, self._name, self._stored, self._clock = store, name, stored, clock
        self._on_rolled_back, self._journal = on_rolled_back, journal
        self._checking = threading.Lock()
        self._sound: dict[tuple[str, str, int | None], float] = {}  # the results, and until when they count

    def check(
        self, key: str, save_id: str, suspicion: Suspicion, by: str, actors: tuple[Actor, ...] = ()
    ) -> DamageVerdict:
        """Read bytes again that looked wrong to a reader; only what is wrong here, too, goes into quarantine.

        `key` is the checkpoint's prefix. One that ckptd did not write has no `save_id`, and is only read.

        Raises:
            UnavailableError, NotPermittedError: when they can't be read, which says nothing about them.
        """
        stored = self._stored
        with self._checking:
            with stored.lock:
                record = stored.catalog.contents.record_of(save_id)
            if save_id and (record is None or record.quarantine):
                return DamageVerdict(True, "it is there no more" if record is None else record.quarantine)
            prefix = key if record is None else record.prefix_key
            if prefix.rpartition("/")[0] != self._name:
                raise InvalidRequestError("this is no checkpoint of the run", key=prefix)
            known = (save_id or prefix, suspicion.key, suspicion.offset)
            if self._sound.get(known, -math.inf) > self._clock.boot_s():
                return DamageVerdict(False, _SOUND)
            try:
                problem = look_again(self._store, prefix, suspicion)
            except NotFoundError:
                with stored.lock:
                    stored.catalog.upkeep.recover(None)
                    stored.look()
                return DamageVerdict(True, "it is there no more")
            if problem is None:
                self._journal.misread()
                # A reader that repeats its report again and again must not keep the store busy.
                self._sound = {known: self._clock.boot_s() + _SOUND_FOR_S}
                return DamageVerdict(False, _SOUND)
            if record is None:
                return DamageVerdict(True, str(problem), is_listed_no_more=False)
            try:
                return self._put_in_quarantine(record, str(problem), by, actors)
            except (StorageFullError, NotPermittedError) as error:
                logger.error("%s is damaged: %s; that could not be noted: %s", prefix, problem, error)
                return DamageVerdict(True, str(problem), is_listed_no_more=False)

    def _put_in_quarantine(self, record: Record, reason: str, by: str, actors: tuple[Actor, ...]) -> DamageVerdict:
        stored = self._stored
        with stored.lock, self._journal.quarantine(record, reason, actors):
            try:
                is_new = stored.catalog.edits.quarantine(record.save_id, reason, by)
            finally:
                stored.look()
            latest = stored.latest(record.name)
        if is_new:
            save = SaveRef(self._name, 0, record.step, record.save_id)
            log_quarantined(self._store.location(record.prefix_key), save, reason, by, latest)
            if latest is not None:
                self._on_rolled_back(replace(latest, rolled_back=f"{record.prefix}: {reason}"))
        return DamageVerdict(True, reason)
