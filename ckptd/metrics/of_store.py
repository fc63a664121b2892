"""What the store is requested to do, how long that takes, and how often it has to be requested again.

A save makes some thirty requests. They are counted in plain numbers under one lock, and become series at a scrape: the
client library's counters and histograms take three times as long for each.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Collection, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ckptd.storage.metered import OF_BUCKET, OF_DISK, Cause, Operation, Result

OPERATION_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
_BOUNDS = tuple(floatToGoString(bound) for bound in (*OPERATION_S, math.inf))  # type: ignore[no-untyped-call]


class _Tally:
    """Of one operation: how many ended how, and how many took how long."""

    __slots__ = ("buckets", "results", "sum_s")

    def __init__(self) -> None:
        self.results = dict.fromkeys(Result, 0)
        self.buckets = [0] * len(_BOUNDS)
        self.sum_s = 0.0


class StoreFigures(Collector):
    """A `Meter` (`ckptd.storage.metered`). Any thread may use it."""

    def __init__(self, registry: CollectorRegistry, store: str) -> None:
        """Begin at 0 with what this kind of store can be requested."""
        self._store = store
        self._lock = threading.Lock()
        self._tallies = {operation: _Tally() for operation in _operations_of(store)}
        self._repeats = dict.fromkeys(Cause, 0)
        registry.register(self)

    def operated(self, operation: Operation, result: Result, seconds: float) -> None:
        """See `Meter`."""
        tally, bucket = self._tallies[operation], bisect_left(OPERATION_S, seconds)
        with self._lock:
            tally.results[result] += 1
            tally.buckets[bucket] += 1
            tally.sum_s += seconds

    def repeated(self, cause: Cause) -> None:
        """See `Meter`."""
        with self._lock:
            self._repeats[cause] += 1

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        counts = CounterMetricFamily(
            "ckptd_store_operations",
            "Requests to the store that have ended, repeated ones as one.",
            labels=["store", "op", "outcome"],
        )
        durations = HistogramMetricFamily(
            "ckptd_store_operation_duration_seconds",
            "How long requests to the store take, with their repetitions.",
            labels=["store", "op"],
        )
        repeats = CounterMetricFamily(
            "ckptd_store_retries",
            "Requests to the store that were made again, and why.",
            labels=["store", "reason"],
        )
        with self._lock:
            for operation, tally in self._tallies.items():
                for result, count in tally.results.items():
                    counts.add_metric([self._store, operation.value, result.value], count)
                buckets = list(zip(_BOUNDS, accumulate(tally.buckets), strict=True))
                durations.add_metric([self._store, operation.value], buckets, tally.sum_s)
            for cause, count in self._repeats.items():
                repeats.add_metric([self._store, cause.value], count)
        yield from (counts, durations, repeats)


def _operations_of(store: str) -> Collection[Operation]:
    """Return what is requested of a kind of store, by its scheme, each once. Memory is requested nothing."""
    if store == "memory":
        return ()
    return dict.fromkeys((OF_DISK if store == "file" else OF_BUCKET).values())
