"""What one run tells the journal: its saves, what retention and recovery do, damage, and changes of its owner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.recovery import Fate, RecoveryOutcome
from ckptd.engine.identity import SaveRef
from ckptd.engine.journal import BEGUN, DAEMON, DONE, Actor, Journal, JournalEntry
from ckptd.errors import CkptdError

_UNTOLD = (Fate.NOTHING, Fate.LEAVE, Fate.DROP)  # nothing was done, or it is told as a removal


class RunJournal:
    """See the module. Any thread may use it; `caused_by` only one that holds the catalog's lock."""

    def __init__(self, journal: Journal, run: str) -> None:
        """Begin with removals that no caller causes."""
        self._journal, self._run = journal, run
        self._causes: tuple[Actor, ...] = (DAEMON,)

    # Saves

    def save_begins(self, save: SaveRef, prefix: str, actors: tuple[Actor, ...]) -> None:
        """Tell that a save begins to write; `CkptdError` when it must not, as it cannot be recorded."""
        self._journal.begins(self._of_save(save, actors, prefix=prefix))

    def save_ended(
        self, save: SaveRef, actors: tuple[Actor, ...], *, prefix: str = "", error: CkptdError | None = None
    ) -> None:
        """Tell how a save ended."""
        if error is None:
            self._journal.ended(self._of_save(save, actors, prefix=prefix).ended("committed"))
        else:
            told = {"error": type(error).__name__, "reason": str(error)}
            self._journal.ended(self._of_save(save, actors, prefix=prefix).ended("aborted", told))

    def _of_save(self, save: SaveRef, actors: tuple[Actor, ...], *, prefix: str) -> JournalEntry:
        named = {"prefix": prefix, "save_id": save.save_id, "epoch": save.epoch}
        return JournalEntry("save", BEGUN, self._run, save.step, actors or (DAEMON,), details=named)

    # What the catalog does by itself

    @contextmanager
    def caused_by(self, actors: tuple[Actor, ...]) -> Iterator[None]:
        """Say who causes what is removed in the block."""
        before, self._causes = self._causes, actors or (DAEMON,)
        try:
            yield
        finally:
            self._causes = before

    def removal(self, record: Record, reason: str, outcome: str) -> None:
        """Tell that a checkpoint is about to be removed, or has been. Before it, `CkptdError` when it must not be."""
        named = {"prefix": record.prefix, "save_id": record.save_id, "reason": reason}
        entry = JournalEntry("remove", outcome, self._run, record.step, self._causes, uses_reserve=True, details=named)
        (self._journal.begins if outcome == BEGUN else self._journal.ended)(entry)

    def recovered(self, outcome: RecoveryOutcome) -> None:
        """Tell what was done about what a crash left."""
        if outcome.fate not in _UNTOLD:
            told = {"checkpoint": outcome.subject, "fate": outcome.fate.value, "reason": outcome.reason}
            self._journal.ended(JournalEntry("recovery", DONE, self._run, details=told))

    @contextmanager
    def quarantine(self, record: Record, reason: str, actors: tuple[Actor, ...]) -> Iterator[None]:
        """Tell that a damaged checkpoint goes into quarantine in the block, and how that ended."""
        named = {"prefix": record.prefix, "save_id": record.save_id, "reason": reason}
        who = actors or (DAEMON,)
        entry = JournalEntry("quarantine", BEGUN, self._run, record.step, who, uses_reserve=True, details=named)
        self._journal.begins(entry)
        try:
            yield
        except CkptdError as error:
            self._journal.ended(entry.ended("failed", {"error": type(error).__name__}))
            raise
        self._journal.ended(entry.ended())

    def taken_over(self) -> None:
        """Tell that another owner has taken the run."""
        self._journal.ended(JournalEntry("take-over", "lost to another owner", self._run))

    def taken_back(self) -> None:
        """Tell that the run was taken back from another owner."""
        self._journal.ended(JournalEntry("take-over", "taken back from another owner", self._run))
