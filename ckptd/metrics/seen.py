"""What is true at the moment of a scrape: read off the engine's memory, never off the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ckptd.engine.saves.session import Phase
from ckptd.engine.saves.views import RunView
from ckptd.metrics.run_labels import OTHER, RunLabels

_PHASES = {Phase.DECLARING: "declare", Phase.FILLING: "move"}
STATES = ("kept", "pinned", "quarantined")


class _Families:
    """The families of one scrape. Values of one label are added: there may be many runs beyond those with labels."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[str, tuple[str, ...], dict[tuple[str, ...], float]]] = {}

    def family(self, name: str, text: str, *labels: str) -> None:
        self._values[name] = (text, labels, {})

    def add(self, name: str, value: float, *labels: str) -> None:
        of = self._values[name][2]
        of[labels] = of.get(labels, 0.0) + value

    def most(self, name: str, value: float, *labels: str) -> None:
        of = self._values[name][2]
        of[labels] = max(of.get(labels, value), value)

    def least(self, name: str, value: float, *labels: str) -> None:
        of = self._values[name][2]
        of[labels] = min(of.get(labels, value), value)

    def __iter__(self) -> Iterator[GaugeMetricFamily]:
        for name, (text, labels, values) in self._values.items():
            family = GaugeMetricFamily(name, text, labels=labels)
            for key, value in values.items():
                family.add_metric(key, value)
            yield family


class SeenFigures(Collector):
    """See the module. A run that is no longer open keeps what was last seen of its checkpoints."""

    def __init__(
        self, runs: Callable[[], Sequence[RunView]], labels: RunLabels, wall_s: Callable[[], float] = time.time
    ) -> None:
        """`runs` describes those that are open, from memory."""
        self._runs, self._labels, self._wall_s = runs, labels, wall_s
        self._last: dict[str, RunView] = {}

    def describe(self) -> list[GaugeMetricFamily]:
        """Say nothing yet: registering must not look."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Look."""
        views = {view.run: view for view in self._runs()}
        self._labels.use(views)
        labels = {run: self._labels.label(run) for run in views}
        for run in [run for run in self._last if run not in views]:
            if self._labels.has(run):
                labels[run] = run
            else:
                del self._last[run]
        self._last.update({run: view for run, view in views.items() if labels[run] != OTHER})
        families = _declared()
        for run, label in labels.items():
            is_open = run in views
            _add(families, views.get(run) or self._last[run], label, self._wall_s(), is_open=is_open)
        yield from families


def _declared() -> _Families:
    families = _Families()
    families.family("ckptd_saves_in_progress", "Saves under way.", "run")
    families.family(
        "ckptd_oldest_save_in_progress_start_timestamp_seconds", "When the oldest save under way began.", "run"
    )
    families.family(
        "ckptd_ranks_waiting", "Ranks that saves under way wait for: to declare, or to send.", "run", "phase"
    )
    families.family("ckptd_last_committed_timestamp_seconds", "When the latest checkpoint was published.", "run")
    families.family("ckptd_last_committed_step", "The step of the latest checkpoint.", "run")
    families.family(
        "ckptd_last_verified_timestamp_seconds", "When a checkpoint was last read whole and found intact.", "run"
    )
    families.family("ckptd_checkpoints", "Checkpoints that are stored.", "run", "state")
    families.family("ckptd_checkpoint_bytes", "Bytes of checkpoints that are stored.", "run", "state")
    families.family("ckptd_quarantined_runs", "Runs that cannot be opened: a file of theirs is damaged.")
    families.add("ckptd_quarantined_runs", 0)
    return families


def _add(families: _Families, view: RunView, label: str, now: float, *, is_open: bool) -> None:
    saves = view.saves if is_open else ()
    families.add("ckptd_saves_in_progress", len(saves), label)
    for phase in _PHASES.values():
        families.add("ckptd_ranks_waiting", 0, label, phase)
    for save in saves:
        families.least("ckptd_oldest_save_in_progress_start_timestamp_seconds", now - save.age_s, label)
        if save.phase in _PHASES:
            families.add("ckptd_ranks_waiting", len(save.needed_ranks), label, _PHASES[save.phase])
    if view.latest is not None:
        families.most("ckptd_last_committed_timestamp_seconds", view.latest.saved_at, label)
        if view.latest.step is not None:
            families.most("ckptd_last_committed_step", view.latest.step, label)
    for each in view.checkpoints:
        if each.verified_at is not None:
            families.most("ckptd_last_verified_timestamp_seconds", each.verified_at, label)
    pinned = [each.size_bytes for each in view.checkpoints if each.pinned]
    kept = [each.size_bytes for each in view.checkpoints if not each.pinned]
    damaged = [each.size_bytes for each in view.damaged]
    for state, sizes in zip(STATES, (kept, pinned, damaged), strict=True):
        families.add("ckptd_checkpoints", len(sizes), label, state)
        families.add("ckptd_checkpoint_bytes", sum(sizes), label, state)
    families.add("ckptd_quarantined_runs", 1 if view.quarantined else 0)
