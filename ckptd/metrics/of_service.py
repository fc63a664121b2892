"""Calls over gRPC, what streams of saves wait for, and what watchers and readers are sent.

`grpc_server_call_*` have the names, labels and units of gRPC's own metrics (its proposal A66), so that dashboards for
those fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from prometheus_client import CollectorRegistry, Counter, Histogram

CALL_S = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)
DELIVERY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 600.0)
BLOCKED = ("memory", "disk", "network")


class ServiceFigures:
    """A `ServiceMeter` (`ckptd.service.meter`). Any thread may use it."""

    def __init__(self, registry: CollectorRegistry, methods: Iterable[str] = ()) -> None:
        """Begin at 0, with these methods."""
        started = Counter("grpc_server_call_started", "Calls that have begun.", ["grpc_method"], registry=registry)
        self._durations = Histogram(
            "grpc_server_call_duration_seconds",
            "How long calls took that have ended; streams last as long as they are needed.",
            ["grpc_method", "grpc_status"],
            buckets=CALL_S,
            registry=registry,
        )
        blocked = Counter(
            "ckptd_flow_blocked_seconds",
            "How long streams of saves could not go on, by what they waited for; several at once add up.",
            ["cause"],
            registry=registry,
        )
        self._delivery = Histogram(
            "ckptd_watch_delivery_seconds",
            "From the publication of a checkpoint until a watcher was sent the news.",
            buckets=DELIVERY_S,
            registry=registry,
        )
        self._sent = Counter("ckptd_sent_bytes", "Bytes of checkpoints that readers were sent.", registry=registry)
        self._started = {method: started.labels(method) for method in methods}
        self._blocked = {cause: blocked.labels(cause) for cause in BLOCKED}
        self._ended: dict[tuple[str, str], Histogram] = {}  # looking them up by label would cost as much as all else

    def call_began(self, method: str) -> None:
        """See `ServiceMeter`."""
        self._started[method].inc()

    def call_ended(self, method: str, status: str, seconds: float) -> None:
        """See `ServiceMeter`."""
        known = self._ended.get((method, status))
        if known is None:
            known = self._ended[method, status] = self._durations.labels(method, status)
        known.observe(seconds)

    def blocked(self, cause: Enum, seconds: float) -> None:
        """See `ServiceMeter`."""
        self._blocked[cause.value].inc(max(0.0, seconds))

    def watcher_told(self, seconds: float) -> None:
        """See `ServiceMeter`."""
        self._delivery.observe(seconds)

    def sent(self, size_bytes: int) -> None:
        """See `ServiceMeter`."""
        self._sent.inc(size_bytes)
