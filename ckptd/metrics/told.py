"""Moves figures by what the journal is told: what happens to runs, with what was measured of it.

The same entries as the audit log's, so nothing of the engine or the service calls a figure.
"""

from __future__ import annotations

from collections.abc import Callable

from ckptd.engine.journal import BEGUN, DONE, JournalEntry, outcome_of_save
from ckptd.metrics.figures import Figures


class ToldFigures:
    """A `Journal` (`ckptd.engine.journal`) that counts. Any thread may use it."""

    complaint = ""

    def __init__(self, figures: Figures) -> None:
        """Count in these."""
        self._figures = figures
        self._by_event: dict[str, Callable[[JournalEntry], None]] = {
            "save": self._save,
            "keep": self._keep,
            "misread": self._misread,
            "verify": self._verify,
            "remove": self._remove,
            "quarantine": self._quarantine,
            "take-over": self._take_over,
            "evict": self._evict,
            "refusal": self._refusal,
            "revoked": self._revoked,
            "stall": self._stall,
            "restore": self._restore,
        }

    def begins(self, entry: JournalEntry) -> None:
        """See `Journal`: what is only begun has moved nothing."""

    def ended(self, entry: JournalEntry) -> None:
        """See `Journal`."""
        count = self._by_event.get(entry.event)
        if count is not None and entry.outcome != BEGUN:
            count(entry)

    def _save(self, entry: JournalEntry) -> None:
        figures = self._figures
        run, exemplar = figures.runs.label(entry.run), {"save_id": str(entry.details.get("save_id", ""))}
        error = str(entry.details.get("error", ""))
        figures.saves.labels(run, outcome_of_save(entry)).inc(exemplar=exemplar)
        measured = None if entry.measured is None else entry.measured()
        if error == "CorruptionError":
            # Shared memory is checked against the sums of the capture: between the two there is no wire.
            is_captured = measured is not None and measured.received_bytes.get("shm", 0) > 0
            figures.failures["capture" if is_captured else "wire"].inc()
        if measured is None:
            return
        for path, size_bytes in measured.received_bytes.items():
            figures.paths[path].inc(size_bytes)
        if entry.outcome != "committed":
            return
        figures.save_duration.labels(run).observe(measured.seconds, exemplar)
        figures.written.labels(figures.store).inc(measured.size_bytes)
        for phase, seconds in measured.phases_s.items():
            figures.phases[phase].observe(seconds)
        if measured.lag_s is not None:
            figures.rank_lag.observe(measured.lag_s, exemplar)

    def _remove(self, entry: JournalEntry) -> None:
        if entry.outcome != DONE or entry.measured is None:
            return
        measured = entry.measured()
        for why, count in measured.whys.items():
            self._figures.drops[why].inc(count)
        self._figures.deleted.labels(self._figures.runs.label(entry.run)).inc(measured.size_bytes)

    def _keep(self, entry: JournalEntry) -> None:
        if entry.measured is not None:
            for why, count in entry.measured().whys.items():
                self._figures.keeps[why].inc(count)

    def _quarantine(self, entry: JournalEntry) -> None:
        if entry.outcome == DONE:
            self._figures.failures["disk"].inc()

    def _misread(self, entry: JournalEntry) -> None:
        self._figures.failures["read"].inc()

    def _verify(self, entry: JournalEntry) -> None:
        if entry.measured is not None:
            for outcome, count in entry.measured().tensors.items():
                self._figures.verified[outcome].inc(count)

    def _take_over(self, entry: JournalEntry) -> None:
        if entry.run:
            lost = entry.outcome.startswith("lost")
            self._figures.fenced.labels("run_lost" if lost else "run_taken_back").inc()

    def _evict(self, entry: JournalEntry) -> None:
        if entry.outcome == DONE:
            evicted = entry.details.get("evicted", ())
            self._figures.fenced.labels("evicted").inc(len(evicted) if isinstance(evicted, list | tuple) else 1)

    def _refusal(self, entry: JournalEntry) -> None:
        left_out = entry.details.get("not_recorded", 0)
        is_known = any(actor.identity for actor in entry.actors)
        more = left_out if isinstance(left_out, int) else 0
        self._figures.denied.labels("forbidden" if is_known else "unauthenticated").inc(1 + more)

    def _revoked(self, entry: JournalEntry) -> None:
        self._figures.denied.labels("revoked").inc()

    def _restore(self, entry: JournalEntry) -> None:
        if entry.measured is not None:
            measured = entry.measured()
            self._figures.restore_duration.observe(measured.seconds)
            for path, size_bytes in measured.received_bytes.items():
                self._figures.restored[path].inc(size_bytes)

    def _stall(self, entry: JournalEntry) -> None:
        if entry.measured is not None:
            for part, seconds in entry.measured().stall_s.items():
                self._figures.parts[part].observe(seconds)
