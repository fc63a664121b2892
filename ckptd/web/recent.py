"""What has happened lately, for the page: in bounded rings, from what the journal and the log are told.

It is a `Journal`, so the engine knows nothing of it, and what a viewer costs is read off memory.
"""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ckptd.access.visits import Visitor
from ckptd.engine.journal import BEGUN, JournalEntry, Measured
from ckptd.engine.saves.views import RunView
from ckptd.printable import printable
from ckptd.web import wording
from ckptd.web.timeline import FailedSave

MOST_EVENTS = 500
MOST_RUNS = 200
MOST_SAVES = 720
"""Of one run."""

LAST_S = 3600.0
_MOST_STALLS = 256  # of the ranks of one save
_MOST_CHARACTERS = 2000
_RATE_S = 0.2  # between two looks at the bytes of a save
_PHASES = ("declare", "plan", "move", "seal", "commit", "publish")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log. `number` grows; `run` is "" where it is about none; `culprit` is what is to blame."""

    number: int
    at: float
    level: str
    text: str
    run: str
    culprit: str = ""


@dataclass(slots=True)
class _Save:
    at: float
    measured: Measured
    stalls_s: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _OfRun:
    saves: OrderedDict[int | None, _Save] = field(default_factory=OrderedDict)
    stalls: OrderedDict[int | None, list[float]] = field(default_factory=OrderedDict)
    failed: deque[FailedSave] = field(default_factory=lambda: deque(maxlen=30))
    num_saves: int = 0
    num_failed: int = 0
    num_stalls: int = 0


class RecentPast:
    """See the module, `Journal` and `ckptd.web.run_page.Recent`. Any thread may call."""

    complaint = ""

    def __init__(self, wall_s: Callable[[], float] = time.time) -> None:
        """Begin with nothing."""
        self._wall_s = wall_s
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, _OfRun] = OrderedDict()
        self._events: deque[LogLine] = deque(maxlen=MOST_EVENTS)
        self._number = 0
        self._seen: OrderedDict[str, tuple[float, int, float | None]] = OrderedDict()
        self.handler = _Handler(self)

    # As a journal.

    def begins(self, entry: JournalEntry) -> None:
        """See `Journal`."""

    def ended(self, entry: JournalEntry) -> None:
        """See `Journal`."""
        if entry.outcome == BEGUN or not entry.run:
            return
        if entry.event == "save":
            measured = entry.measured() if entry.measured is not None and entry.outcome == "committed" else None
            with self._lock:
                self._save(entry, measured)
        elif entry.event == "stall" and entry.measured is not None:
            stall_s = sum(entry.measured().stall_s.values())
            with self._lock:
                self._stall(entry, stall_s)

    def _save(self, entry: JournalEntry, measured: Measured | None) -> None:
        run = self._of(entry.run)
        if measured is None:
            run.num_failed += 1
            why = str(entry.details.get("reason") or entry.details.get("error") or entry.outcome)
            run.failed.append(FailedSave(self._wall_s(), entry.step, printable(why, limit=_MOST_CHARACTERS)))
            return
        run.num_saves += 1
        run.saves.pop(entry.step, None)
        run.saves[entry.step] = _Save(self._wall_s(), measured, run.stalls.pop(entry.step, []))
        while len(run.saves) > MOST_SAVES:
            run.saves.popitem(last=False)

    def _stall(self, entry: JournalEntry, stall_s: float) -> None:
        run = self._of(entry.run)
        step = entry.step if entry.step is not None else next(reversed(run.saves), None)  # not all clients tell
        known = run.saves.get(step)
        stalls = run.stalls.setdefault(step, []) if known is None else known.stalls_s
        run.num_stalls += 1
        if len(stalls) < _MOST_STALLS:
            stalls.append(stall_s)
        while len(run.stalls) > 8:
            run.stalls.popitem(last=False)

    def _of(self, run: str) -> _OfRun:
        found = self._runs.setdefault(run, _OfRun())
        self._runs.move_to_end(run)
        while len(self._runs) > MOST_RUNS:
            self._runs.popitem(last=False)
        return found

    # For the page.

    def failed(self, run: str) -> Sequence[FailedSave]:
        """Return the saves of a run that came to nothing, oldest first."""
        with self._lock:
            found = self._runs.get(run)
            return () if found is None else tuple(found.failed)

    def _saves(self, run: str) -> list[tuple[int | None, _Save]]:
        since = self._wall_s() - LAST_S
        with self._lock:
            found = self._runs.get(run)
            return [] if found is None else [(step, each) for step, each in found.saves.items() if each.at >= since]

    def charts(self, run: str) -> Mapping[str, object]:
        """Return columns of numbers: ``at``, and for each save of the last hour what was measured of it."""
        saves = self._saves(run)
        return {
            "at": [round(each.at, 2) for _, each in saves],
            "step": [step for step, _ in saves],
            "stall_p50": [_ms(_quantile(each.stalls_s, 0.5)) for _, each in saves],
            "stall_p95": [_ms(_quantile(each.stalls_s, 0.95)) for _, each in saves],
            "phases": {
                phase: [round(each.measured.phases_s.get(phase, 0.0), 4) for _, each in saves] for phase in _PHASES
            },
            "mb_per_s": [
                round(each.measured.size_bytes / each.measured.seconds / 1e6, 2) if each.measured.seconds else None
                for _, each in saves
            ],
            "lag": [_ms(each.measured.lag_s) for _, each in saves],
        }

    def summary(self, run: str) -> Sequence[Mapping[str, str]]:
        """Return the figures of the last hour; nothing before the first save."""
        saves = [each for _, each in self._saves(run)]
        if not saves:
            return ()
        stalls = [stall for each in saves for stall in each.stalls_s]
        durable = [each.measured.seconds for each in saves]
        lags = [each.measured.lag_s for each in saves if each.measured.lag_s is not None]
        size_bytes = sum(each.measured.size_bytes for each in saves)
        figures = [
            ("saves", str(len(saves))),
            ("stall, p50", wording.duration(_quantile(stalls, 0.5))),
            ("stall, p95", wording.duration(_quantile(stalls, 0.95))),
            ("durable after, p50", wording.duration(_quantile(durable, 0.5))),
            ("throughput", wording.rate(size_bytes / sum(durable)) if sum(durable) else "–"),
            ("slowest rank behind the median", wording.duration(_quantile(lags, 0.5))),
        ]
        return [{"name": name, "value": value} for name, value in figures]

    def rates(self, view: RunView) -> Mapping[str, float]:
        """Return how fast the saves under way come, in bytes per second, from how far they were when last looked at."""
        now, rates = time.monotonic(), {}
        with self._lock:
            for save in view.saves:
                key = save.save.save_id
                at, received, rate = self._seen.get(key, (now, save.received_bytes, None))
                if now - at >= _RATE_S:
                    fresh = max(0, save.received_bytes - received) / (now - at)
                    rate = fresh if rate is None else 0.6 * rate + 0.4 * fresh
                    at, received = now, save.received_bytes
                self._seen[key] = at, received, rate
                if rate is not None:
                    rates[key] = rate
            while len(self._seen) > MOST_RUNS:
                self._seen.popitem(last=False)
        return rates

    def version(self, run: str) -> tuple[int, int, int]:
        """Return what changes whenever `failed`, `charts` or `summary` of a run do."""
        with self._lock:
            found = self._runs.get(run)
            return (0, 0, 0) if found is None else (found.num_saves, found.num_failed, found.num_stalls)

    # Events.

    def note(self, record: logging.LogRecord) -> None:
        """Keep a line of the log."""
        told = getattr(record, "ckptd", None)
        fields = told if isinstance(told, Mapping) else {}
        text = printable(record.getMessage(), limit=_MOST_CHARACTERS)
        run, culprit = fields.get("run"), _culprit(fields)
        with self._lock:
            self._number += 1
            run = run if isinstance(run, str) else ""
            self._events.append(LogLine(self._number, record.created, record.levelname.lower(), text, run, culprit))

    def events(self, run: str | None, visitor: Visitor, after: int = 0) -> list[LogLine]:
        """Return those that a visitor may see, newest first; of one run, and those that are of none."""
        with self._lock:
            found = list(self._events)
        return [each for each in reversed(found) if each.number > after and _may_see(each, run, visitor)]

    @property
    def number(self) -> int:
        """Of the last event."""
        return self._number


class _Handler(logging.Handler):
    def __init__(self, past: RecentPast) -> None:
        super().__init__()
        self._past = past

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._past.note(record)
        except Exception:
            self.handleError(record)


def _may_see(event: LogLine, run: str | None, visitor: Visitor) -> bool:
    if not event.run:
        return visitor.sees_all  # it may name other runs
    return (run is None or event.run == run) and visitor.may_read(event.run)


def _culprit(fields: Mapping[str, object]) -> str:
    """Return what a line blames: the first that a save waits for, or the slowest rank."""
    waiting = fields.get("waiting_for")
    if isinstance(waiting, list) and waiting:
        return printable(str(waiting[0]), limit=200)
    return ""


def _quantile(values: Sequence[float], share: float) -> float | None:
    ordered = sorted(values)
    if not ordered:
        return None
    if share == 0.5:
        return statistics.median(ordered)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 2)
