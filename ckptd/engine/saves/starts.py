"""Which checkpoint the ranks of one start of a job restore: the one that its first rank was given.

Ranks call `restore` one by one, each when it is ready, and must all end up with one step. The first call begins a
start; a rank that calls a second time begins the next. Each name of a run has its starts: a rank that restores two
names is in both. Damage lets a rank go back alone only while no other has been
given the step. Ranks that restore "together" report what they found, and go back together.

A job may be restarted before all of its ranks have called. Then the first calls of some ranks fall into the start that
the job before has begun, and nothing tells them apart from its calls. So a rank that got the same step in the start
before counts as one that has it. And ranks that restore together keep their start until it has agreed: a second call
takes the place of the first, and a report counts once it was repeated after the last rank's, which the dead cannot do.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.wording import describe_ranks
from ckptd.errors import ConflictError, CorruptionError, InvalidRequestError

Latest = Callable[[], Checkpoint | None]

_REMEMBERED_CALLS = 1 << 16  # as many as a job may have ranks
_REMEMBERED_NAMES = 256  # clients may send any name
_REMEMBERED_RUNS = 256


@dataclass(frozen=True, slots=True)
class Restoring:
    """One call of `restore`, of one rank of several: its id is the same however often it is repeated."""

    id: str
    rank: int
    world_size: int
    is_together: bool = False


class Agreement(Enum):
    """The answer to ranks that restore together, after they have reported."""

    WAITING = "waiting"  # for other ranks
    AGREED = "agreed"  # all have read it and found it intact
    GO_BACK = "go back"  # another checkpoint is restored


@dataclass(slots=True)
class _Start:
    """One start: its processes by rank, what it restores, and which have found that intact.

    Attributes:
        before: ranks that were given the same in the start before, perhaps by the job that is starting.
        reports: by rank what it has found, and the number of its last report.
        num_reports: how many reports there were.
        complete_at: the number of the report with which all ranks had reported; None: some have not.
        has_agreed: all ranks that restore together have found it intact.
    """

    world_size: int
    chosen: Checkpoint | None
    before: frozenset[int] = frozenset()
    calls: dict[int, str] = field(default_factory=dict)
    reports: dict[int, tuple[bool, int]] = field(default_factory=dict)
    num_reports: int = 0
    complete_at: int | None = None
    has_agreed: bool = False

    def forget(self, rank: int) -> None:
        """Forget what a rank has reported."""
        self.reports.pop(rank, None)
        self.complete_at = None

    def choose(self, chosen: Checkpoint | None) -> None:
        """Restore another checkpoint, about which no rank has reported yet."""
        self.chosen, self.reports, self.complete_at = chosen, {}, None

    def take(self, rank: int, is_whole: bool) -> set[int]:
        """Take a report; return the ranks that have not reported, or not again since all had."""
        self.num_reports += 1
        self.reports[rank] = (is_whole, self.num_reports)
        missing = set(range(self.world_size)) - set(self.reports)
        if missing or not all(was_whole for was_whole, _ in self.reports.values()):
            return missing
        if self.complete_at is None:
            self.complete_at = self.num_reports
        return {rank for rank, (_, number) in self.reports.items() if number < self.complete_at}


class Starts:
    """The starts of one run. Safe from any thread; nothing here waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: OrderedDict[str, _Start] = OrderedDict()  # by name, the one that was used last at the end
        self._by_call: OrderedDict[str, _Start] = OrderedDict()

    def choose(
        self, call: Restoring, name: str, latest: Latest, is_there: Callable[[Checkpoint], bool]
    ) -> Checkpoint | None:
        """Return what the start restores that this call belongs to; `latest` tells what a new one of `name` does.

        Raises:
            CorruptionError: when other ranks restored a checkpoint that is not there any more.
        """
        with self._lock:
            start = self._of(call, name, latest, is_there)
            if start.chosen is not None and not call.is_together and not is_there(start.chosen):
                others = _others(start, call)
                if others:
                    raise CorruptionError(
                        f"{others} of this start restored a checkpoint that is in quarantine now, or deleted: start "
                        "the job again, and all ranks restore the newest that verifies",
                        key=start.chosen.prefix,
                    )
                start.chosen = None
            if start.chosen is None:
                start.chosen = latest()
            return start.chosen

    def go_back(self, call: Restoring) -> str:
        """Let this rank's start go on to the next checkpoint, as the one that it was given is damaged.

        Returns in words which other ranks were given it: then nothing has changed, and no rank may go back alone.
        """
        with self._lock:
            start = self._by_call.get(call.id)
            others = "" if start is None else _others(start, call)
            if start is not None and not others:
                start.chosen = None
            return others

    def report(self, call: Restoring, prefix: str, is_whole: bool, latest: Latest) -> tuple[Agreement, str]:
        """Take what a rank found in the checkpoint at `prefix`; return what follows, and the ranks to wait for."""
        with self._lock:
            start = self._by_call.get(call.id)
            if start is None:
                raise ConflictError("this restore is not known: the daemon was restarted meanwhile; restore again")
            if start.calls.get(call.rank) != call.id:
                raise ConflictError(f"rank {call.rank} of {call.world_size} has called restore again since")
            if start.chosen is None or start.chosen.prefix != prefix:
                return Agreement.GO_BACK, ""
            if start.has_agreed:
                return Agreement.AGREED, ""
            missing = start.take(call.rank, is_whole)
            if missing:
                return Agreement.WAITING, describe_ranks(missing, start.world_size)
            if all(was_whole for was_whole, _ in start.reports.values()):
                start.has_agreed = True
                return Agreement.AGREED, ""
            start.choose(latest())
            if start.chosen is None or start.chosen.prefix == prefix:
                start.chosen = None
                raise CorruptionError("no checkpoint of this run is whole", key=prefix)
            return Agreement.GO_BACK, ""

    def _of(self, call: Restoring, name: str, latest: Latest, is_there: Callable[[Checkpoint], bool]) -> _Start:
        known = self._by_call.get(call.id)
        if known is not None:
            return known
        if not 0 <= call.rank < call.world_size:
            raise InvalidRequestError("rank out of range", expected=f"0 to {call.world_size - 1}", actual=call.rank)
        start = self._current.get(name)
        if start is not None and start.chosen is not None and is_there(start.chosen):
            newest = latest()
            if newest is not None and not is_same_save(newest, start.chosen):
                start = None  # something newer was published, so that all ranks of that start had restored
        if start is None or start.world_size != call.world_size:
            start = _Start(call.world_size, latest())
        elif call.rank in start.calls and call.is_together and not start.has_agreed:
            start.forget(call.rank)  # other ranks may wait for this one here
            if start.chosen is not None and not is_there(start.chosen):
                start.choose(None)
        elif call.rank in start.calls:
            start = _after(start, latest())
        self._current[name] = start
        self._current.move_to_end(name)
        while len(self._current) > _REMEMBERED_NAMES:
            self._current.popitem(last=False)
        start.calls[call.rank] = call.id
        self._by_call[call.id] = start
        while len(self._by_call) > _REMEMBERED_CALLS:
            self._by_call.popitem(last=False)
        return start


class StartsByRun:
    """The starts of each run. They outlive its being open: ranks come minutes apart. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts: OrderedDict[tuple[str, str], Starts] = OrderedDict()  # the one that was used last at the end

    def of(self, run: str, reader: str = "") -> Starts:
        """Return the starts of a run that exists, those of one reader, see `restores`."""
        with self._lock:
            starts = self._starts.setdefault((run, reader), Starts())
            self._starts.move_to_end((run, reader))
            while len(self._starts) > _REMEMBERED_RUNS:
                self._starts.popitem(last=False)
            return starts


def is_same_save(one: Checkpoint, other: Checkpoint) -> bool:
    """Return whether both describe one save at one place."""
    return (one.prefix, one.save_id) == (other.prefix, other.save_id)


def _others(start: _Start, call: Restoring) -> str:
    others = start.before.union(start.calls) - {call.rank}
    return describe_ranks(others, start.world_size) if others else ""


def _after(start: _Start, chosen: Checkpoint | None) -> _Start:
    is_same = chosen is not None and start.chosen is not None and is_same_save(chosen, start.chosen)
    return _Start(start.world_size, chosen, start.before.union(start.calls) if is_same else frozenset())
