"""Which checkpoint the ranks of a job restore, where they restore together; see `starts`.

A `reader` is an identity that may only read: its ranks agree among themselves, and have no say in what the ranks of
those restore that may save. For these it is "".
"""

from __future__ import annotations

from ckptd.engine.catalog import survey
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.saves.runs import Runs
from ckptd.engine.saves.served_catalog import ServedCatalog
from ckptd.engine.saves.starts import Agreement, Restoring, Starts, StartsByRun
from ckptd.format import names


class Restores:
    """The restores of all runs of one root. Thread-safe."""

    def __init__(self, runs: Runs) -> None:
        """No rank restores yet."""
        self._runs = runs
        self._starts, self._of_readers = StartsByRun(), StartsByRun()

    def latest(self, run: str, name: str, restoring: Restoring, reader: str = "") -> Checkpoint | None:
        """Return the newest complete checkpoint that `name` means, or the one that this start's first rank was given.

        Raises:
            CorruptionError: when all that the run has are in quarantine.
        """
        with self._runs.use(run) as found:
            if found is None:
                return None
            stored = found.stored
            chosen = self._of(run, reader).choose(restoring, name, lambda: stored.latest(name), stored.is_there)
            if chosen is None:
                check_not_all_in_quarantine(stored, name)
            return chosen

    def go_back(self, run: str, restoring: Restoring, reader: str = "") -> str:
        """Let a rank restore an older checkpoint; return which others have the present one, see `Starts.go_back`."""
        return "" if restoring.is_together else self._of(run, reader).go_back(restoring)

    def agree(
        self, run: str, name: str, restoring: Restoring, prefix: str, is_whole: bool, reader: str = ""
    ) -> tuple[Agreement, str]:
        """Take what a rank that restores together with others has found; see `Starts.report`."""
        with self._runs.stored(run) as found:
            return self._of(run, reader).report(restoring, prefix, is_whole, lambda: found.stored.latest(name))

    def _of(self, run: str, reader: str) -> Starts:
        return (self._of_readers if reader else self._starts).of(run, reader)


def check_not_all_in_quarantine(stored: ServedCatalog, name: str) -> None:
    """Raise `CorruptionError` if a run without a latest checkpoint of that name has some in quarantine."""
    meant = [each for each in stored.quarantined() if name in (names.ANY_NAME, names.DEFAULT_NAME, each.name)]
    if meant:
        # "None yet" would let a trainer silently begin anew.
        raise survey.all_in_quarantine(meant[-1])
