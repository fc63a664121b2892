"""What the saves of a run share, and what each needs of the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ckptd.engine.clock import Clock
from ckptd.engine.saves.known_layouts import KnownLayouts
from ckptd.engine.saves.served_catalog import ServedCatalog
from ckptd.engine.saves.shares import Share
from ckptd.engine.settings import Settings
from ckptd.storage.base import Store

if TYPE_CHECKING:
    from ckptd.engine.saves.save import Save


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """What all saves of a run share.

    Attributes:
        store: where they write.
        clock: both kinds of time.
        settings: bounds.
        lock: the run's; guards every save of it.
        stored: the run's checkpoints; their lock is never taken while `lock` is held by the same thread.
        layouts: those of lately, as most saves of a run are equal.
        workers: run blocking work.
        feeders: take lanes from captured memory, beside all other work: this waits for ranks.
        writers: returns the addresses of processes that take shards; empty means the one that answered.
    """

    store: Store
    clock: Clock
    settings: Settings
    lock: threading.RLock
    stored: ServedCatalog
    layouts: KnownLayouts
    workers: Share
    feeders: Share
    writers: Callable[[], tuple[str, ...]]


class Others(Protocol):
    """What a save needs of the other saves of its run. The run's lock is held in each call."""

    def whereabouts(self, save: Save) -> Mapping[int, str]:
        """Say where the ranks are that a save still waits for."""

    def turn_wanted(self) -> None:
        """Hear that a save waits for its turn to commit."""

    def ended(self, save: Save) -> None:
        """Hear that a save is over."""
