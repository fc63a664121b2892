"""The threads of an engine, divided among its runs, so that a run whose store hangs leaves threads to the others."""

from __future__ import annotations

from ckptd.engine.saves.shares import Share, Shares
from ckptd.engine.saves.workers import MakePool, Workers
from ckptd.engine.settings import Settings

_SHARES = 4  # runs that may each keep all threads of their share busy before one has to wait for another


class EngineThreads:
    """Workers work on the store. Feeders, separate from them, take lanes from captured memory: they wait for ranks."""

    def __init__(self, settings: Settings, pools: MakePool = Workers) -> None:
        """Start no thread yet."""
        self._workers = pools(_SHARES * settings.threads, "ckptd-engine", None)
        self._feeders = pools(_SHARES * settings.feeders, "ckptd-feed", settings.priority)
        self._worker_shares = Shares(self._workers.submit, settings.threads)
        self._feeder_shares = Shares(self._feeders.submit, settings.feeders)

    def open(self) -> None:
        """Start a thread of each kind that stays; `UnavailableError` if that cannot be."""
        self._workers.open()
        self._feeders.open()

    def workers_of(self, run: str) -> Share:
        """Return a run's share of the threads that work on the store."""
        return Share(self._worker_shares, run)

    def feeders_of(self, run: str) -> Share:
        """Return a run's share of the threads that take lanes from captured memory."""
        return Share(self._feeder_shares, run)

    def settle(self, timeout_s: float) -> bool:
        """Wait until no work on the store is left, at most so long; return whether that happened in time."""
        return self._workers.settle(timeout_s)

    def close(self) -> None:
        """Finish what was submitted, and stop."""
        self._feeders.close()
        self._workers.close()
