"""What a save needs of the run that it is part of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from ckptd.engine.clock import Clock
from ckptd.engine.layout import Layout
from ckptd.engine.manifest import Manifest
from ckptd.engine.saves.served_catalog import ServedCatalog
from ckptd.engine.settings import Settings
from ckptd.storage.base import Store

if TYPE_CHECKING:
    from ckptd.engine.saves.save import Save


class Surroundings(Protocol):
    """What a save needs of its run."""

    store: Store
    clock: Clock
    settings: Settings
    lock: threading.RLock  # guards every save of the run
    stored: ServedCatalog

    def writers(self) -> tuple[str, ...]:
        """Return the addresses of processes that take shards; empty means the one that answered."""

    def submit(self, work: Callable[..., None], *arguments: object) -> None:
        """Run blocking work on one of the run's threads."""

    def submit_feed(self, work: Callable[..., None], *arguments: object) -> None:
        """Run what takes a lane from captured memory, beside all else: it waits for ranks."""

    def layout_for(self, manifests: tuple[Manifest, ...], from_lowest: frozenset[str] = frozenset()) -> Layout:
        """Plan, or return the plan of an equal save. Of tensors `from_lowest` the lowest rank's bytes are stored."""

    def whereabouts(self, save: Save) -> Mapping[int, str]:
        """Say where the ranks are that a save still waits for; called with the lock held."""

    def save_ended(self, save: Save) -> None:
        """Hear that a save is over; called with the lock held."""

    def turn_wanted(self) -> None:
        """Hear that a save waits for its turn to commit; called with the lock held."""
