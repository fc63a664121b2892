"""What one run tells the journal: its saves, what retention and recovery do, damage, and changes of its owner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.recovery import Fate, RecoveryOutcome
from ckptd.engine.catalog.retention import Verdict, Why
from ckptd.engine.identity import SaveRef
from ckptd.engine.journal import DAEMON, DONE, Actor, Journal, JournalEntry, Measured, Reserve, tell_figures
from ckptd.errors import CkptdError
from ckptd.format import names

_UNTOLD = (Fate.NOTHING, Fate.LEAVE, Fate.DROP)  # nothing was done, or it is told as a removal


class RunJournal:
    """See the module. Any thread may use it; `caused_by` only one that holds the catalog's lock."""

    def __init__(self, journal: Journal, run: str) -> None:
        """Begin with removals that no caller causes."""
        self._journal, self._run = journal, run
        self._causes: tuple[Actor, ...] = (DAEMON,)
        self._begun: dict[str, JournalEntry] = {}  # by id of the save

    # Saves

    def save_begins(self, save: SaveRef, prefix: str, actors: tuple[Actor, ...]) -> None:
        """Tell that a save begins to write; `CkptdError` when it must not, as it cannot be recorded."""
        entry = self._of_save(save, actors, prefix)
        self._journal.begins(entry)
        self._begun[save.save_id] = entry

    def save_ended(
        self,
        save: SaveRef,
        actors: tuple[Actor, ...],
        measured: Callable[[], Measured] | None = None,
        *,
        prefix: str = "",
        error: CkptdError | None = None,
    ) -> None:
        """Tell how a save ended."""
        entry = self._begun.pop(save.save_id, None) or self._of_save(save, actors, prefix)
        outcome, told = ("committed", None) if error is None else ("aborted", _told_of(error))
        self._journal.ended(entry.ended(outcome, told, measured))

    def _of_save(self, save: SaveRef, actors: tuple[Actor, ...], prefix: str) -> JournalEntry:
        named = {"prefix": prefix, "save_id": save.save_id, "epoch": save.epoch}
        return JournalEntry("save", run=self._run, step=save.step, actors=actors or (DAEMON,), details=named)

    # What the catalog does by itself

    @contextmanager
    def caused_by(self, actors: tuple[Actor, ...]) -> Iterator[None]:
        """Record these actors as the cause of what is removed in the block."""
        before, self._causes = self._causes, actors or (DAEMON,)
        try:
            yield
        finally:
            self._causes = before

    @contextmanager
    def removal(self, record: Record, reason: str, why: Why) -> Iterator[None]:
        """Tell that a checkpoint is removed in the block, and how that ended.

        Raises:
            CkptdError: it must not be removed, as that cannot be recorded.
        """
        with self._told(self._of_record("remove", record, reason, self._causes, Reserve.ALL, {why.value: 1})):
            yield

    def kept(self, verdicts: Sequence[Verdict]) -> None:
        """Tell what retention has left in place, where there are figures."""
        if verdicts:
            whys = Counter(verdict.why.value for verdict in verdicts)
            tell_figures(self._journal, "keep", self._run, lambda: Measured(0, whys=whys))

    def misread(self) -> None:
        """Tell that bytes which looked wrong to a reader are not, where there are figures."""
        tell_figures(self._journal, "misread", self._run, lambda: Measured(0))

    def recovered(self, outcome: RecoveryOutcome) -> None:
        """Tell what was done about what a crash left."""
        if outcome.fate not in _UNTOLD:
            told = {"checkpoint": outcome.subject, "fate": outcome.fate.value, "reason": outcome.reason}
            step = names.step_of(outcome.subject)
            self._journal.ended(JournalEntry("recovery", DONE, self._run, step, reserve=Reserve.HALF, details=told))

    @contextmanager
    def quarantine(self, record: Record, reason: str, actors: tuple[Actor, ...]) -> Iterator[None]:
        """Tell that a damaged checkpoint goes into quarantine in the block, and how that ended."""
        with self._told(self._of_record("quarantine", record, reason, actors, Reserve.HALF)):
            yield

    def _of_record(
        self,
        event: str,
        record: Record,
        reason: str,
        actors: tuple[Actor, ...],
        reserve: Reserve,
        whys: Mapping[str, int] = MappingProxyType({}),
    ) -> JournalEntry:
        named = {"prefix": record.prefix, "save_id": record.save_id, "reason": reason}
        return JournalEntry(
            event,
            run=self._run,
            step=record.step,
            actors=actors or (DAEMON,),
            reserve=reserve,
            details=named,
            measured=lambda: Measured(record.size_bytes, whys=whys),
        )

    @contextmanager
    def _told(self, entry: JournalEntry) -> Iterator[None]:
        self._journal.begins(entry)
        try:
            yield
        except Exception as error:
            self._journal.ended(entry.ended("failed", _told_of(error, "problem")))
            raise
        self._journal.ended(entry.ended())

    def taken_over(self, owner: str) -> None:
        """Tell that another owner has taken the run."""
        self._take_over("lost to another owner", owner)

    def taken_back(self, owner: str) -> None:
        """Tell that the run was taken back from another owner."""
        self._take_over("taken back from another owner", owner)

    def _take_over(self, outcome: str, owner: str) -> None:
        entry = JournalEntry("take-over", outcome, self._run, reserve=Reserve.HALF, details={"owner": owner})
        self._journal.ended(entry)


def _told_of(error: Exception, name: str = "reason") -> dict[str, object]:
    return {"error": type(error).__name__, name: str(error)}
