"""Whether a run in a store without locks is still ours: checked ahead of the commits, and taken back if it is not."""

from __future__ import annotations

from ckptd.engine.log import logger
from ckptd.engine.saves.members import Members
from ckptd.engine.saves.save_queue import SaveQueue
from ckptd.engine.saves.surroundings import Surroundings
from ckptd.errors import CkptdError, ConflictError

_CONFIRM_AGAIN_S = 2.0  # while saves are under way; well below what a commit wants
_CONFIRM_IDLE_S = 10.0  # while none is: so that health shows it before a save fails
_TAKE_BACK_AGAIN_S = 60.0  # two owners that take a run from each other would let no save of either finish


class OwnershipWatch:
    """See the module. One thread calls `tick`; the work on the store is done on the run's threads."""

    def __init__(self, name: str, run: Surroundings, members: Members, saves: SaveQueue) -> None:
        """Begin with a run that is ours.

        Args:
            name: the run.
            run: what its saves share.
            members: fenced off by those that joined another owner meanwhile.
            saves: ended when the run is lost.
        """
        self._name, self._run, self._members, self._saves = name, run, members, saves
        self._confirmed_at = run.clock.boot_s()  # when it was last checked
        self._take_back_at = 0.0
        self._is_loss_told = False

    def tick(self) -> None:
        """Check it if it is time."""
        now, is_busy = self._run.clock.boot_s(), self._saves.are_any
        if self._run.stored.is_taken_over:
            if not self._is_loss_told:  # whatever found it out: this look, a save or a call
                self._is_loss_told = True
                owner = self._run.stored.catalog.upkeep.other_owner
                self._run.workers.submit(lambda: self._run.journal.taken_over(owner))
            if self._run.settings.takes_back and not is_busy and now >= self._take_back_at:
                self._take_back_at = now + _TAKE_BACK_AGAIN_S
                self._run.workers.submit(self._take_back)
        elif now >= self._confirmed_at + (_CONFIRM_AGAIN_S if is_busy else _CONFIRM_IDLE_S):
            self._confirmed_at = now
            self._run.workers.submit(self._confirm)

    def _take_back(self) -> None:
        """Own the run again, as a daemon that is started anew does: what the other owner has saved is part of it."""
        stored, lock = self._run.stored, self._run.lock
        try:
            with stored.lock:
                with lock:
                    was_in_force = self._members.are_in_force
                owner = stored.catalog.upkeep.other_owner
                epoch = stored.take_back(was_in_force=was_in_force)
                if epoch is None:
                    return
                with lock:
                    # Processes that joined the other owner are newer than ours: these are fenced off.
                    self._members.catch_up(epoch)
                    self._saves.last_error = ""
                stored.look()
        except CkptdError as error:
            logger.warning("%s could not be taken back now: %s", self._name, error)
        else:
            self._is_loss_told = False
            self._run.journal.taken_back(owner)
            logger.warning("%s is ours again: it was taken back from another owner", self._name)

    def _confirm(self) -> None:
        """Make sure, ahead of the commits, that the run is still ours; what is under way ends if it is not."""
        try:
            self._run.stored.confirm()
        except ConflictError as error:
            self._saves.last_error = str(error)
            self._saves.end_all(error)
        except CkptdError as error:
            logger.warning("cannot tell now whether %s is still ours: %s", self._name, error)
