"""The figures that events move, with their names, labels and buckets. All series are there from the start, at 0.

No label names a rank, a step, a tensor, a peer or a save: there may be ten thousand of each. They are in the log.
"""

from __future__ import annotations

import platform

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from ckptd.engine.catalog.retention import DROPS, Why
from ckptd.metrics.of_service import ServiceFigures
from ckptd.metrics.of_store import StoreFigures
from ckptd.metrics.run_labels import MOST_RUNS, RunLabels
from ckptd.wire import methods

DURATION_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
STALL_S = (0.001, 0.0025, *DURATION_S)
LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

OUTCOMES = ("committed", "aborted", "refused", "failed")
PHASES = ("declare", "plan", "move", "seal", "commit", "publish")
PARTS = ("waiting", "preparing", "copying", "declaring")
PATHS = ("shm", "grpc")
KEPT = tuple(why.value for why in Why if why not in DROPS)
DROPPED = tuple(why.value for why in DROPS)
WHERE = ("capture", "wire", "disk", "read")
DENIED = ("unauthenticated", "forbidden", "revoked")
FENCED = ("run_lost", "run_taken_back", "evicted")


class Figures:
    """See the module. Any thread may move them.

    Attributes:
        registry: has them all.
        of_store, of_service: what the store is requested to do, and the service; they are to be told.
        runs: which of them have series of their own.
        phases, paths, restored, parts: the series of durations, received and restored bytes, stalls, by their label.
        keeps, drops: the series of retention's decisions, by their reason.
        failures, verified: the series of wrong bytes by where they were, and of tensors that were read again.
    """

    def __init__(self, *, version: str, grpc: str, role: str, store: str, most_runs: int = MOST_RUNS) -> None:
        """Make them, for a daemon of this version and role over this kind of store."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the number of series
        self.registry = registry = CollectorRegistry()
        self.store = store
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        build = Gauge(
            "ckptd_build_info", "Versions and role; always 1.", ["version", "python", "grpc", "role"], registry=registry
        )
        build.labels(version, platform.python_version(), grpc, role).set(1)

        self.saves = Counter("ckptd_saves", "Saves that have ended.", ["run", "outcome"], registry=registry)
        self.save_duration = Histogram(
            "ckptd_save_duration_seconds",
            "From the first rank's declaration of a save to its acknowledgement; of committed saves.",
            ["run"],
            buckets=DURATION_S,
            registry=registry,
        )
        self.phase_duration = Histogram(
            "ckptd_save_phase_duration_seconds",
            "Where the time of committed saves goes; commit includes the wait for earlier saves of the run.",
            ["phase"],
            buckets=DURATION_S,
            registry=registry,
        )
        self.rank_lag = Histogram(
            "ckptd_rank_lag_seconds",
            "Slowest rank minus median, once for each committed save of several ranks.",
            buckets=STALL_S,
            registry=registry,
        )
        self.received = Counter(
            "ckptd_received_bytes", "Bytes of ended saves, by the way they came.", ["path"], registry=registry
        )
        self.written = Counter("ckptd_written_bytes", "Bytes of committed saves.", ["store"], registry=registry)
        self.restored_bytes = Counter(
            "ckptd_restored_bytes",
            "Bytes that calls of restore returned, by the way they came, as ranks report it.",
            ["path"],
            registry=registry,
        )
        self.restore_duration = Histogram(
            "ckptd_restore_duration_seconds",
            "How long calls of restore took that succeeded, as ranks report it.",
            buckets=DURATION_S,
            registry=registry,
        )
        self.decisions = Counter(
            "ckptd_retention_decisions",
            "What retention decided of checkpoints, and why: keep at each save, drop when one is deleted.",
            ["verdict", "reason"],
            registry=registry,
        )
        self.deleted = Counter(
            "ckptd_deleted_bytes",
            "Bytes of deleted checkpoints, as far as no caller deleted them.",
            ["run"],
            registry=registry,
        )
        self.checksum_failures = Counter(
            "ckptd_checksum_failures",
            "Wrong bytes: in a save (capture, wire), in a stored checkpoint (disk), or in what one reader read (read).",
            ["where"],
            registry=registry,
        )
        self.verified_tensors = Counter(
            "ckptd_verify_tensors", "Tensors that the daemon has read again.", ["outcome"], registry=registry
        )
        self.fenced = Counter("ckptd_fenced", "Places and runs that were taken away.", ["reason"], registry=registry)
        self.denied = Counter("ckptd_auth_denied", "Calls that were refused or ended.", ["reason"], registry=registry)
        self.loop_lag = Histogram(
            "ckptd_event_loop_lag_seconds",
            "How much later than it should the event loop of the daemon turned.",
            buckets=LAG_S,
            registry=registry,
        )
        self.stall = Histogram(
            "ckptd_client_stall_seconds",
            "How long calls of save made training stand still, as ranks report it, by what it was for.",
            ["part"],
            buckets=STALL_S,
            registry=registry,
        )
        self.of_store = StoreFigures(registry, store)
        self.of_service = ServiceFigures(registry, (method.path[1:] for method in methods.ALL))
        self.runs = RunLabels(self._forget, self._begin, most_runs)
        self._begin_shared()

    def _begin_shared(self) -> None:
        # Each save and each rank moves several of these: looking them up by label would cost as much as all else.
        self.phases = {phase: self.phase_duration.labels(phase) for phase in PHASES}
        self.paths = {path: self.received.labels(path) for path in PATHS}
        self.restored = {path: self.restored_bytes.labels(path) for path in (*PATHS, "direct")}
        self.parts = {part: self.stall.labels(part) for part in PARTS}
        self.written.labels(self.store)
        self.keeps = {reason: self.decisions.labels("keep", reason) for reason in KEPT}
        self.drops = {reason: self.decisions.labels("drop", reason) for reason in DROPPED}
        self.failures = {where: self.checksum_failures.labels(where) for where in WHERE}
        self.verified = {outcome: self.verified_tensors.labels(outcome) for outcome in ("ok", "corrupt")}
        for reason in FENCED:
            self.fenced.labels(reason)
        for reason in DENIED:
            self.denied.labels(reason)

    def _begin(self, run: str) -> None:
        for outcome in OUTCOMES:
            self.saves.labels(run, outcome)
        self.save_duration.labels(run)
        self.deleted.labels(run)

    def _forget(self, run: str) -> None:
        for outcome in OUTCOMES:
            self.saves.remove(run, outcome)
        for each in (self.save_duration, self.deleted):
            each.remove(run)
