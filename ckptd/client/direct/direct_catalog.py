"""The checkpoints of a run in direct mode: read without a lock, changed by the engine in this process."""

from __future__ import annotations

from ckptd.client.direct.direct_connection import DirectConnection
from ckptd.client.direct.engines import holder, new_coordinator
from ckptd.client.saving.transport import Located, RestoreCall
from ckptd.client.watch import Source
from ckptd.engine.catalog import survey
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.reading.damage import DamageVerdict, Suspicion, look_again
from ckptd.engine.saves.starts import Agreement
from ckptd.engine.series import NamedStep
from ckptd.errors import ConflictError, NotPermittedError, StorageFullError
from ckptd.storage.base import Objects
from ckptd.watch.follower import Follower


class DirectCatalog:
    """A `RunCatalog` over a store."""

    def __init__(self, connection: DirectConnection) -> None:
        self._connection = connection

    def tell_restored(self, objects: Objects, size_bytes: int, seconds: float) -> None:
        """See `RunCatalog.tell_restored`. There is no daemon."""

    def latest(self, name: str, call: RestoreCall | None = None) -> Located | None:
        """See `RunCatalog.latest`. The first call repairs what a crash left, if no process works on the run."""
        connection = self._connection
        connection.recover()
        coordinator = connection.coordinator
        if coordinator is not None:
            checkpoint = coordinator.latest(self._connection.run, name)
        else:
            checkpoint = survey.latest_checkpoint(
                self._connection.store, self._connection.run, self._connection.options.latest_filename, name
            )
        return None if checkpoint is None else self._connection.located(checkpoint)

    def checkpoints(self) -> list[Located]:
        """See `RunCatalog.checkpoints`."""
        self._connection.recover()
        coordinator = self._connection.coordinator
        if coordinator is not None:
            found = coordinator.checkpoints(self._connection.run)
        else:
            found = survey.list_checkpoints(self._connection.store, self._connection.run)
        return [self._connection.located(checkpoint) for checkpoint in found]

    def agree(self, name: str, located: Located, call: RestoreCall, is_whole: bool) -> tuple[Agreement, str]:
        """See `RunCatalog.agree`. There is one rank."""
        return (Agreement.AGREED if is_whole else Agreement.GO_BACK), ""

    def check_damage(self, located: Located, suspicion: Suspicion, call: RestoreCall) -> DamageVerdict | None:
        """See `RunCatalog.check_damage`. Takes the run for that, unless another process works on it."""
        save_id, by = located.checkpoint.save_id, holder(self._connection.member).line
        coordinator, is_closed = self._connection.coordinator, self._connection.is_closed
        if coordinator is not None:
            return coordinator.in_catalog(
                self._connection.run, lambda stored: stored.check_damage(located.key, save_id, suspicion, by)
            )
        if not is_closed:
            owner = new_coordinator(self._connection.store, self._connection.member, takes_over=False)
            try:
                owner.open()
                return owner.in_catalog(
                    self._connection.run, lambda stored: stored.check_damage(located.key, save_id, suspicion, by)
                )
            except (ConflictError, NotPermittedError, StorageFullError):
                pass  # another process works on it, or the store is read-only: then only this process skips it
            finally:
                owner.close()
        problem = look_again(self._connection.store, located.key, suspicion)
        if problem is None:
            return DamageVerdict(False, "read once more, these bytes are correct")
        return DamageVerdict(True, str(problem), is_listed_no_more=False)

    def set_pinned(self, which: NamedStep, pinned: bool) -> Checkpoint:
        """See `RunCatalog.set_pinned`."""
        return self._connection.own(self._connection.change(lambda stored: stored.pin(which, pinned)))

    def delete(self, which: NamedStep, for_good: bool, even_latest: bool) -> None:
        """See `RunCatalog.delete`."""
        self._connection.open().in_catalog(
            self._connection.run, lambda stored: stored.delete(which, for_good, even_latest)
        )

    def undelete(self, which: NamedStep) -> Checkpoint:
        """See `RunCatalog.undelete`."""
        return self._connection.own(self._connection.change(lambda stored: stored.undelete(which)))

    def objects(self, key: str) -> Objects:
        """See `RunCatalog.objects`."""
        return self._connection.store

    def news(self, name: str) -> Source:
        """See `RunCatalog.news`. Reads the state file whenever its directory changes, and takes no lock."""
        connection = self._connection
        return Follower(connection.store, connection.run, latest_filename=connection.options.latest_filename, name=name)
