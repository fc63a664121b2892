"""Figures as text, in Prometheus' or OpenMetrics' form, as far as a caller may read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.samples import Sample

RUN = "run"


def render(
    registry: CollectorRegistry, accept: str, may_read: Callable[[str], bool], *, sees_all: bool
) -> tuple[bytes, str]:
    """Return the text and its type, by what the request's `Accept` header prefers.

    A series of a run is shown to those that may read it. What is of all runs together is shown to all, but not the
    saves that it gives as examples.
    """
    encoder, content_type = choose_encoder(accept)
    shown: object = _Shown(registry, may_read, sees_all)
    return encoder(shown), content_type  # type: ignore[arg-type]  # it collects, and that is all that is called


@dataclass(frozen=True, slots=True)
class _Shown:
    registry: CollectorRegistry
    may_read: Callable[[str], bool]
    sees_all: bool

    def collect(self) -> Iterator[Metric]:
        for family in self.registry.collect():
            if not self.sees_all:
                family.samples = [sample for each in family.samples if (sample := self._shown(each)) is not None]
            yield family

    def _shown(self, sample: Sample) -> Sample | None:
        run = sample.labels.get(RUN)
        if run is None:
            return sample._replace(exemplar=None)
        return sample if self.may_read(run) else None
