"""What each identity may have at once, and how much may be stored of runs: the limits and quotas of the policy.

Whatever a limit refuses, its error names it, its subject, and what to do. Both are checked before anything is written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ckptd.access import callers
from ckptd.access.callers import Caller
from ckptd.access.patterns import matches
from ckptd.access.policy import Limit, Quota
from ckptd.engine.identity import Declaration, SaveRef
from ckptd.engine.refusals import NotNowError
from ckptd.errors import CkptdError, StorageFullError, UnavailableError, readable_size
from ckptd.printable import counted
from ckptd.service.gate import Gate
from ckptd.service.pacing import Pacing
from ckptd.service.refusal_log import LineBudget

if TYPE_CHECKING:
    from ckptd.engine.front import Engine

_Key = TypeVar("_Key", bound=Hashable)

_log = logging.getLogger("ckptd.service")

_STORED = "stored_bytes"
NEW_RUNS_AT_ONCE = 1000
"""Runs that an identity may make at once; then one a second. Each leaves directories and a file."""

_LIST_RUNS_S = 60.0  # runs that another program copied below the root count from then on


@dataclass(frozen=True, slots=True)
class Use:
    """How much of a limit or quota is used; `used` None: that is not known yet."""

    subject: str
    what: str
    used: int | None
    most: int
    runs: tuple[str, ...] = ("**",)  # those with the right to read these may see it

    def subject_for(self, may_know: Callable[[str], bool]) -> str:
        """Say whose it is: of a quota, by those patterns of runs that the reader may know."""
        return in_words(self.runs, may_know) if self.what == _STORED else self.subject


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A save that may write."""

    run: str
    size_bytes: int
    is_reserved: bool


_NOT_ADMITTED = _Admitted("", 0, is_reserved=False)


def in_words(patterns: Sequence[str], may_know: Callable[[str], bool]) -> str:
    """Name the patterns of a quota that its reader may know, and that there are others."""
    known = [pattern for pattern in patterns if may_know(pattern)]
    return ", ".join(known) + ("" if len(known) == len(patterns) else " and others")


class Allowances:
    """Counts what identities have. Any thread may use it."""

    def __init__(self, coordinator: Engine, gate: Gate, pacing: Pacing) -> None:
        """Judge by the policy of `gate`, as it is then; no work is done where that has neither limits nor quotas.

        `pacing` knows how fast bytes move.
        """
        self._coordinator, self._gate, self._pacing = coordinator, gate, pacing
        self.of_agents: Callable[[], Mapping[Caller, Collection[str]]] = dict
        """Returns the runs that identities have joined by agents of hosts."""
        self._guard = threading.Lock()
        self._runs: dict[Caller, Counter[str]] = {}
        self._watchers: Counter[Caller] = Counter()
        self._beginning: Counter[tuple[str, str]] = Counter()  # run and prefix: declared, and not under way yet
        self._admitted: dict[str, _Admitted] = {}  # each save that was, by its id
        self._new_runs: dict[str, LineBudget] = {}  # as many as there are identities
        self._measuring = threading.Lock()
        self._sizes: dict[str, int] = {}  # of runs, as they were seen last
        self._listed_at = float("-inf")

    def _limit(self, caller: Caller) -> Limit:
        return self._gate.access.policy.limit(caller)

    def takes_another_run(self, caller: Caller) -> bool:
        """Say whether an identity may make one more run now, if the one that it joins is new; it counts in any case."""
        now = time.monotonic()
        with self._guard:
            budget = self._new_runs.setdefault(str(caller), LineBudget(NEW_RUNS_AT_ONCE, now))
            return budget.take(now, NEW_RUNS_AT_ONCE, 1.0)

    @contextmanager
    def joined(self, caller: Caller, run: str) -> Iterator[None]:
        """Count a membership while the block runs; `UnavailableError` if its run is one too many."""
        most = self._limit(caller).runs

        def check() -> None:
            if most is not None and run not in (joined := self._joined_by(caller)) and len(joined) >= most:
                raise UnavailableError(
                    f"{caller} has joined {counted(len(joined), 'run')}, and the daemon's policy allows it {most} at "
                    "once: it joins another when it has left one"
                )

        with self._guard:
            runs = self._runs.setdefault(caller, Counter())
        try:
            with self._counted(runs, run, check):
                yield
        finally:
            with self._guard:
                if not runs and self._runs.get(caller) is runs:
                    del self._runs[caller]

    def _joined_by(self, caller: Caller) -> set[str]:
        """Return the runs that an identity has joined, by agents too."""
        return {*self._runs.get(caller, ()), *self.of_agents().get(caller, ())}

    @contextmanager
    def watching(self, caller: Caller) -> Iterator[None]:
        """Count a watcher while the block runs; `UnavailableError` if it is one too many."""
        most = self._limit(caller).watchers

        def check() -> None:
            if most is not None and self._watchers[caller] >= most:
                raise UnavailableError(
                    f"{caller} has {counted(self._watchers[caller], 'watcher')}, and the daemon's policy allows it "
                    f"{most} at once"
                )

        with self._counted(self._watchers, caller, check):
            yield

    @contextmanager
    def beginning(self, caller: Caller, declaration: Declaration) -> Iterator[None]:
        """Let the block declare; `NotNowError` if that begins a save too many."""
        most = self._limit(caller).saves
        if most is None:
            yield
            return
        key = declaration.save.run, declaration.prefix
        saves = self._coordinator.saves_of(key[0])

        def check() -> None:
            if key in self._beginning or (saves is not None and saves.is_under_way(declaration)):
                return
            under_way = self._num_under_way(caller)
            if under_way >= most:
                raise NotNowError(
                    f"{caller} has {counted(under_way, 'save')} under way, and the daemon's policy allows it {most} at "
                    "once: wait for one to end"
                )

        with self._counted(self._beginning, key, check):
            yield

    @contextmanager
    def _counted(self, counts: Counter[_Key], key: _Key, check: Callable[[], None]) -> Iterator[None]:
        """Count one more while the block runs, unless `check` raises."""
        with self._guard:
            check()
            counts[key] += 1
        try:
            yield
        finally:
            with self._guard:
                counts[key] -= 1
                if not counts[key]:
                    del counts[key]

    def _num_under_way(self, caller: Caller) -> int:
        runs = self._joined_by(caller)
        begun = sum(len(self._owed(run)) for run in runs)
        return begun + sum(run in runs for run, _ in self._beginning)

    def _owed(self, run: str) -> dict[str, int | None]:
        saves = self._coordinator.saves_of(run)
        return {} if saves is None else saves.owed_bytes()

    def admit(self, save: SaveRef, size_bytes: int) -> bool:
        """Let a save begin to write, or say why it may not. It may have to open runs to see how much there is.

        Returns whether its space may be reserved at once. It may not where the daemon has several identities, and one
        of those that have joined the run has claimed most of the disk then, without a limit that allows it.

        Raises:
            UnavailableError: it is more than one of the identities that have joined its run may have under way.
            StorageFullError: it is more than a quota leaves room for.
        """
        quotas = [quota for quota in self._gate.access.policy.quotas if quota.is_of(save.run)]
        with self._guard:
            joined = [caller for caller, runs in self._runs.items() if save.run in runs]
            joined += [each for each, runs in self.of_agents().items() if save.run in runs and each not in joined]
        limits = {caller: most for caller in joined if (most := self._limit(caller).claimed_bytes) is not None}
        unlimited = [caller for caller in joined if caller not in limits and self._is_one_of_several(caller)]
        free_bytes = self._free_bytes() if unlimited else None
        if not quotas and not limits and free_bytes is None:
            return True
        with self._measuring:  # of two saves that fit alone, and not together, the second is refused
            self._forget_ended()
            for caller, most in limits.items():
                self._check_claimed(caller, most, save, size_bytes)
            if quotas:
                self._measure()
            for quota in quotas:
                self._check_stored(quota, save, size_bytes)
            reserves = free_bytes is None or self._may_reserve(unlimited, save, size_bytes, free_bytes)
            self._admitted[save.save_id] = _Admitted(save.run, size_bytes, reserves)
            return reserves

    def _is_one_of_several(self, caller: Caller) -> bool:
        return self._gate.access.is_shared or caller.kind == callers.CERTIFICATE

    def _free_bytes(self) -> int | None:
        try:
            return self._coordinator.store.free_bytes()
        except CkptdError:
            return None

    def _may_reserve(self, joined: list[Caller], save: SaveRef, size_bytes: int, free_bytes: int) -> bool:
        if size_bytes > free_bytes:
            return True  # it will be refused, before anything is written
        for caller in joined:
            owed = self._claimed(caller, reserved_only=True)
            most = (free_bytes + owed) * 3 // 4
            if owed + size_bytes > most:
                _log.info(
                    "%s gets room for its %s as they come, not at once: %s has claimed %s unsent, and may claim %s",
                    save,
                    readable_size(size_bytes),
                    caller,
                    readable_size(owed),
                    readable_size(most),
                )
                return False
        return True

    def _check_claimed(self, caller: Caller, most: int, save: SaveRef, size_bytes: int) -> None:
        owed = self._claimed(caller)
        if owed + size_bytes > most:
            raise UnavailableError(
                f"{save} has {readable_size(size_bytes)}; {caller} has claimed {readable_size(owed)} that have not "
                f"arrived, and the daemon's policy allows it {readable_size(most)}: wait for a save to end"
            )

    def _claimed(self, caller: Caller, *, reserved_only: bool = False) -> int:
        with self._guard:
            runs = list(self._joined_by(caller))
        claimed = 0
        for run in runs:
            for save_id, left in self._owed(run).items():
                admitted = self._admitted.get(save_id, _NOT_ADMITTED)
                if admitted.is_reserved or not reserved_only:
                    claimed += admitted.size_bytes if left is None else left
        return claimed

    def _check_stored(self, quota: Quota, save: SaveRef, size_bytes: int) -> None:
        stored = self._stored(quota)
        if stored + size_bytes > quota.stored_bytes:
            told = in_words(quota.runs, lambda pattern: matches(pattern, save.run))
            raise StorageFullError(
                f"{save} has {readable_size(size_bytes)}; of the runs {told} {readable_size(stored)} "
                f"are stored, and the daemon's policy allows them {readable_size(quota.stored_bytes)}: delete "
                "checkpoints (what can be undeleted counts until then), or have an operator raise the quota",
            )

    def _forget_ended(self) -> None:
        for save_id, admitted in list(self._admitted.items()):
            if save_id not in self._owed(admitted.run):
                del self._admitted[save_id]

    def _measure(self) -> None:
        """See how much is stored of each run that a quota is of: those that are open are looked at each time."""
        now = time.monotonic()
        if now - self._listed_at >= _LIST_RUNS_S:
            self._listed_at = now
            for run in self._coordinator.stored_runs():
                self._sizes.setdefault(run, -1)
        with self._guard:
            for runs in self._runs.values():
                for run in runs:
                    self._sizes.setdefault(run, -1)
        quotas = self._gate.access.policy.quotas
        for run, known in list(self._sizes.items()):
            is_open = self._coordinator.saves_of(run) is not None
            if (is_open or known < 0) and any(quota.is_of(run) for quota in quotas):
                self._sizes[run] = self._size_of(run, known)

    def _size_of(self, run: str, known: int) -> int:
        try:
            return self._coordinator.look(run, lambda stored: stored.stored_bytes, 0)
        except CkptdError:  # a run that cannot be opened: it counts as it was seen last, and hides no other
            return max(known, 0)

    def _stored(self, quota: Quota) -> int:
        at_rest = sum(max(size, 0) for run, size in list(self._sizes.items()) if quota.is_of(run))
        return at_rest + sum(each.size_bytes for each in list(self._admitted.values()) if quota.is_of(each.run))

    def uses(self) -> list[Use]:
        """Return how much of each limit and quota is used, as far as that is known; nothing is waited for."""
        policy = self._gate.access.policy
        with self._guard:
            known = {*self._runs, *self.of_agents()}
            runs = {caller: len(self._joined_by(caller)) for caller in known}
            saves = {caller: self._num_under_way(caller) for caller in runs}
            watchers = dict(self._watchers)
        found = []
        for caller in sorted({*runs, *watchers}, key=str):
            limit = policy.limit(caller)
            for what, most, used in (
                ("saves", limit.saves, saves.get(caller, 0)),
                ("runs", limit.runs, runs.get(caller, 0)),
                ("watchers", limit.watchers, watchers.get(caller, 0)),
            ):
                if most is not None:
                    found.append(Use(str(caller), what, used, most))
            if limit.claimed_bytes is not None:
                found.append(Use(str(caller), "claimed_bytes", self._claimed(caller), limit.claimed_bytes))
        for rate in self._pacing.rates():
            what = f"bytes_per_s_per_host at {rate.host}" if rate.host else "bytes_per_s"
            found.append(Use(rate.whose, what, rate.used, rate.most))
        is_measured = self._listed_at > float("-inf")
        for quota in policy.quotas:
            stored = self._stored(quota) if is_measured else None
            found.append(Use(", ".join(quota.runs), _STORED, stored, quota.stored_bytes, quota.runs))
        return found
