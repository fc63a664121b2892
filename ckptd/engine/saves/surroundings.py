"""What the saves of a run share."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ckptd.engine.clock import Clock
from ckptd.engine.identity import SaveRef
from ckptd.engine.saves.known_layouts import KnownLayouts
from ckptd.engine.saves.run_journal import RunJournal
from ckptd.engine.saves.served_catalog import ServedCatalog
from ckptd.engine.saves.shares import Share
from ckptd.engine.settings import Settings
from ckptd.storage.base import Store

Admit = Callable[[SaveRef, int], bool]
"""Says whether the space of a save may be reserved at once, or raises why it may not begin."""


def new_id() -> str:
    """Return a word that no other save has had."""
    return uuid.uuid4().hex


def admit_all(save: SaveRef, size_bytes: int) -> bool:
    """Let every save begin, and reserve its space."""
    return True


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """What all saves of a run share.

    Attributes:
        store: where they write.
        clock: both kinds of time.
        settings: bounds.
        lock: the run's; guards every save of it.
        stored: the run's checkpoints; their lock is never taken while `lock` is held by the same thread.
        layouts: the latest ones, as most saves of a run are equal.
        workers: run blocking work.
        feeders: take lanes from captured memory, beside all other work: this waits for ranks.
        writers: returns the addresses of the process that takes the shards of a host, "" being this one; none means
            the process that answered.
        gone: returns the hosts whose agents are gone, and for how many seconds.
        term: returns the term of this coordinator; 0 where no other host writes.
        admit: is called with a save and its size before anything of it is written.
        journal: is told of them.
        new_id: returns a word for each save.
    """

    store: Store
    clock: Clock
    settings: Settings
    lock: threading.RLock
    stored: ServedCatalog
    layouts: KnownLayouts
    workers: Share
    feeders: Share
    writers: Callable[[str], tuple[str, ...]]
    gone: Callable[[], Mapping[str, float]]
    term: Callable[[], int]
    admit: Admit
    journal: RunJournal
    new_id: Callable[[], str]
