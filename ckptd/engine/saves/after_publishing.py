"""What follows the publication of a save: watchers are notified, retention deletes, and the free space is checked."""

from __future__ import annotations

from concurrent.futures import Future

from ckptd.engine.catalog import free_space
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.journal import Actor
from ckptd.engine.log import logger
from ckptd.engine.saves.listeners import Listeners
from ckptd.engine.saves.served_catalog import ServedCatalog
from ckptd.engine.saves.shares import Share
from ckptd.errors import CkptdError
from ckptd.storage.base import Store


class AfterPublishing:
    """See the module. It works on the run's threads.

    Attributes:
        shortage: why what retention keeps will not fit, in words; None while it does. Noted once.
    """

    def __init__(self, name: str, store: Store, stored: ServedCatalog, listeners: Listeners, workers: Share) -> None:
        """Begin with the first save that is published."""
        self.shortage: str | None = None
        self._name, self._store, self._stored = name, store, stored
        self._listeners, self._workers = listeners, workers
        self._num_published = 0  # guarded by the run's lock

    def begin(
        self, checkpoint: Checkpoint, *, is_listed: bool, retired: Future[None], actors: tuple[Actor, ...] = ()
    ) -> None:
        """Start it; `retired` is done once retention is. The run's lock is held: publications come in order.

        `actors` have saved it, and so cause what retention deletes now.
        """
        self._num_published += 1
        if is_listed:
            self._stored.passed_by = ()
        try:
            self._workers.submit(self._carry_out, checkpoint, self._num_published, is_listed, retired, actors)
        except BaseException:
            retired.set_result(None)  # the engine was closed: the next opening of the run does this work
            raise

    def _carry_out(
        self, checkpoint: Checkpoint, number: int, is_listed: bool, retired: Future[None], actors: tuple[Actor, ...]
    ) -> None:
        """Do it for publication `number`; a newer one may have been announced already, as these run side by side."""
        try:
            if is_listed:  # an unlisted one is not the latest, which watchers follow
                self._listeners.tell(checkpoint, number)
            self._stored.retire(actors)
        finally:
            retired.set_result(None)
        self._look_for_room(checkpoint)

    def _look_for_room(self, checkpoint: Checkpoint) -> None:
        """Warn once where what retention keeps will not fit."""
        if self.shortage is not None or self._stored.is_closed:
            return
        try:
            free_bytes = self._store.free_bytes()
        except CkptdError:
            return  # the check is no part of a save
        kept, most = len(self._stored.checkpoints()), self._stored.catalog.upkeep.policy.max_to_keep
        self.shortage = free_space.shortage(checkpoint.size_bytes, kept, most, free_bytes)
        if self.shortage is not None:
            logger.warning("%s: %s", self._name, self.shortage)
