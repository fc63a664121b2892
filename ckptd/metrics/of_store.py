"""What the store is requested to do, how long that takes, and how often it has to be requested again."""

from __future__ import annotations

from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Histogram

from ckptd.storage.metered import OF_BUCKET, OF_DISK, Cause, Operation, Result

OPERATION_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)


class StoreFigures:
    """A `Meter` (`ckptd.storage.metered`). Any thread may use it."""

    def __init__(self, registry: CollectorRegistry, store: str) -> None:
        """Begin at 0 with what this kind of store can be requested."""
        counts = Counter(
            "ckptd_store_operations",
            "Requests to the store that have ended, repeated ones as one.",
            ["store", "op", "outcome"],
            registry=registry,
        )
        durations = Histogram(
            "ckptd_store_operation_duration_seconds",
            "How long requests to the store take, with their repetitions.",
            ["store", "op"],
            buckets=OPERATION_S,
            registry=registry,
        )
        repeats = Counter(
            "ckptd_store_retries",
            "Requests to the store that were made again, and why.",
            ["store", "reason"],
            registry=registry,
        )
        operations = _operations_of(store)
        self._counts = {
            operation: {result: counts.labels(store, operation.value, result.value) for result in Result}
            for operation in operations
        }
        self._durations = {operation: durations.labels(store, operation.value) for operation in operations}
        self._repeats = {cause: repeats.labels(store, cause.value) for cause in Cause}

    def operated(self, operation: Operation, result: Result, seconds: float) -> None:
        """See `Meter`."""
        self._counts[operation][result].inc()
        self._durations[operation].observe(seconds)

    def repeated(self, cause: Cause) -> None:
        """See `Meter`."""
        self._repeats[cause].inc()


def _operations_of(store: str) -> Collection[Operation]:
    """Return what is requested of a kind of store, by its scheme, each once. Memory is requested nothing."""
    if store == "memory":
        return ()
    return dict.fromkeys((OF_DISK if store == "file" else OF_BUCKET).values())
