"""The runs of one root. Each is opened when it is needed and closed when idle, so only runs in use cost memory.

A run that cannot be opened is quarantined with its reason: calls about it raise that, and the other runs go on. It is
tried again by later calls, and from time to time, so that nothing has to be restarted once it is mended.

A query never makes a run: only `use` with `create` opens one of which nothing is stored.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass

from ckptd.engine.catalog import rest
from ckptd.engine.catalog.root import is_stored
from ckptd.engine.clock import Clock
from ckptd.engine.log import logger
from ckptd.engine.refusals import NotNowError
from ckptd.engine.saves.listeners import Listeners, OnPublished
from ckptd.engine.saves.run import Run
from ckptd.engine.saves.run_quarantine import Quarantine, Quarantines
from ckptd.engine.saves.views import RunView
from ckptd.engine.saves.workers import MakePool, Workers
from ckptd.engine.settings import Settings
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError, NotFoundError
from ckptd.format import names
from ckptd.storage.base import Store

PATIENCE_S = 20.0
"""How long a call waits for a run that another thread opens or closes."""

_OPENERS = 32


@dataclass(slots=True, eq=False)
class _Place:
    """One run by name. The lock of `Runs` guards it."""

    users: int = 0  # calls under way
    run: Run | None = None
    busy: Future[None] | None = None  # while it is being opened or closed
    rests_since: float | None = None


class Runs:
    """See the module. Thread-safe."""

    def __init__(
        self,
        store: Store,
        build: Callable[[str, Listeners], Run],
        *,
        settings: Settings,
        clock: Clock,
        closes_at_rest: bool,
        pools: MakePool = Workers,
    ) -> None:
        """Open nothing yet.

        Args:
            store: where the runs are.
            build: makes a run that `Run.open` has not been called of; may take its lock.
            settings: how many may be open at once, and how long one is idle before it is closed.
            clock: both kinds of time.
            closes_at_rest: a daemon closes idle runs. In direct mode a run stays its trainer's until the end.
            pools: makes the pool that opens and closes runs.
        """
        self._store = store
        self._build = build
        self._settings = settings
        self._clock = clock
        self._closes_at_rest = closes_at_rest
        self._notes_rest = closes_at_rest and not store.has_locks
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}
        self._quarantines = Quarantines()
        self._listeners: dict[str, Listeners] = {}
        self._opening: dict[tuple[str, bool], Future[None]] = {}  # what `when_open` has begun
        self._openers = pools(_OPENERS, "ckptd-open", None)
        self._closing = False

    def start(self) -> None:
        """Start a thread that stays, so that no run waits for want of one; `UnavailableError` if that cannot be."""
        self._openers.open()

    # Using

    @contextmanager
    def use(self, name: str, *, create: bool = False) -> Iterator[Run | None]:
        """Yield a run, open for as long as the block runs; None where nothing is stored and `create` is False.

        Raises:
            InvalidRequestError: when no run may have this name.
            UnavailableError: when it takes too long to open, or too many are open.
            CkptdError: why it is quarantined.
        """
        names.check_run_name(name)
        with self._lock:
            place = self._places.setdefault(name, _Place())
            place.users += 1
        try:
            yield self._opened(name, place, create)
        finally:
            with self._lock:
                place.users -= 1
                self._forget_if_unused(name, place)

    @contextmanager
    def stored(self, name: str) -> Iterator[Run]:
        """Yield a run of which something is stored, as `use` does; `NotFoundError` when there is none."""
        with self.use(name) as run:
            if run is None:
                raise NotFoundError("there is no such run", key=name)
            yield run

    @contextmanager
    def joined(self, name: str) -> Iterator[Run]:
        """Yield a run that the caller must have joined before, as `use` does; else `ConflictError`."""
        with self.use(name) as run:
            if run is None:
                raise ConflictError(f"this process does not hold a place in {name}: it must join first")
            yield run

    def when_open(self, name: str, *, create: bool = False) -> Future[None]:
        """Return a future that is done when `use` need not wait for the store; how opening ended, `use` says.

        Never blocks: the run is opened on a thread of its own.
        """
        ready: Future[None] = Future()
        with self._lock:
            place = self._places.get(name)
            if self._closing or (place is not None and place.run is not None):
                ready.set_result(None)
                return ready
            # However many call, one thread waits for the store.
            known = self._opening.get((name, create))
            if known is not None:
                return known
            self._opening[name, create] = ready
            self._openers.submit(self._open_for, name, create, ready)
        return ready

    def _open_for(self, name: str, create: bool, ready: Future[None]) -> None:
        try:
            with self.use(name, create=create):
                pass
        except CkptdError:
            pass  # the call itself meets the error again, and raises it
        finally:
            with self._lock:
                self._opening.pop((name, create), None)
            ready.set_result(None)

    def opened(self) -> list[Run]:
        """Return the runs that are open, by name."""
        with self._lock:
            found = [(name, place.run) for name, place in self._places.items()]
        return [run for _, run in sorted(found, key=lambda each: each[0]) if run is not None]

    def if_open(self, name: str) -> Run | None:
        """Return a run only if it is open now. It may be closed at any moment: for reading only."""
        with self._lock:
            place = self._places.get(name)
            return None if place is None else place.run

    def quarantined(self) -> list[Quarantine]:
        """Return the runs that cannot be opened, by name."""
        with self._lock:
            return self._quarantines.all()

    def views(self) -> list[RunView]:
        """Describe every run that is open, quarantined, or damaged in part, by name."""
        with self._lock:
            problems, quarantined = self._quarantines.problems(), self._quarantines.all()
        views = {name: RunView.at_rest(name, problems=found) for name, found in problems.items()}
        views.update((each.run, RunView.at_rest(each.run, quarantined=each.reason)) for each in quarantined)
        views.update((run.name, run.view()) for run in self.opened())
        return [views[name] for name in sorted(views)]

    def subscribe(self, name: str, on_published: OnPublished) -> Callable[[], None]:
        """Call `on_published` for each checkpoint of a run from now on; return what ends that. Opens no run."""
        names.check_run_name(name)
        with self._lock:
            listeners = self._listeners.setdefault(name, Listeners(name))
            remove = listeners.add(on_published)

        def leave() -> None:
            with self._lock:
                remove()
                place = self._places.get(name)
                if listeners.is_empty and (place is None or place.run is None) and self._listeners.get(name):
                    del self._listeners[name]

        return leave

    @contextmanager
    def kept_closed(self, name: str) -> Iterator[None]:
        """Keep a run closed while the block runs: its users wait. For repairs from outside.

        Raises:
            UnavailableError: when calls about it are under way.
            ConflictError: when processes have joined it.
        """
        names.check_run_name(name)
        with self._lock:
            place = self._places.setdefault(name, _Place())
            run = place.run
            if place.users or place.busy is not None:
                raise NotNowError(f"run {name!r} is in use at this moment; try again")
            if run is not None and run.is_joined():
                raise ConflictError("processes have joined this run: it can be mended when they have left", key=name)
            done: Future[None] = Future()
            place.run, place.busy = None, done
        try:
            if run is not None:
                run.close()
            yield
        finally:
            with self._lock:
                self._quarantines.forget(name)
                place.busy = None
                self._forget_if_unused(name, place)
            done.set_result(None)

    # Opening

    def _opened(self, name: str, place: _Place, create: bool) -> Run | None:
        mine = self._claim(name, place)
        if mine is None:
            return place.run  # it stays open: we count as its user
        try:
            return self._open(name, place, create)
        finally:
            with self._lock:
                place.busy = None
            mine.set_result(None)

    def _claim(self, name: str, place: _Place) -> Future[None] | None:
        """Become the one that opens a run; None when it is open."""
        give_up_at = self._clock.boot_s() + PATIENCE_S
        while True:
            with self._lock:
                if place.run is not None:
                    return None
                busy = place.busy
                if busy is None:
                    self._check_may_open(name)
                    mine: Future[None] = Future()
                    place.busy = mine
                    return mine
            left = give_up_at - self._clock.boot_s()
            if left <= 0 or not wait([busy], left).done:
                raise NotNowError(
                    f"run {name!r} is still being opened or closed after {PATIENCE_S:g} s: its store answers slowly; "
                    "try again"
                )

    def _check_may_open(self, name: str) -> None:
        if self._closing:
            raise NotNowError("the daemon is stopping")
        self._quarantines.check_may_try(name, self._clock.boot_s())
        num_open = sum(place.run is not None for place in self._places.values())
        if num_open >= self._settings.open_runs and not self._close_one_at_rest():
            raise NotNowError(f"{num_open} runs are in use at once, which is the most; try again")

    def _open(self, name: str, place: _Place, create: bool) -> Run | None:
        try:
            # In a bucket one listing serves for all.
            versions = rest.versions_of(self._store, name) if self._notes_rest else None
            if not create and not (is_stored(self._store, name) if versions is None else versions):
                return None
            with self._lock:
                listeners = self._listeners.setdefault(name, Listeners(name))
            run = self._build(name, listeners)
            try:
                run.open(versions)
            except BaseException:
                run.close()
                raise
        except CkptdError as error:
            raise self._set_apart(name, error) from error
        except Exception as error:
            logger.exception("a bug in ckptd: %s could not be opened", name)
            bug = CkptdError(f"opening it failed with {type(error).__name__}: {error}")
            raise self._set_apart(name, bug) from error
        with self._lock:
            if not self._closing:
                place.run, place.rests_since = run, None
                self._quarantines.opened(name, run.stored.problems)
                return run
        run.close()
        raise NotNowError("the daemon is stopping")

    def _set_apart(self, name: str, error: CkptdError) -> CkptdError:
        """Note why a run cannot be opened; return what to raise."""
        if not self._closes_at_rest or isinstance(error, InvalidRequestError):
            return error
        since, now = self._clock.wall_s(), self._clock.boot_s()
        with self._lock:
            noted, is_news = self._quarantines.add(name, self._store.location(name), error, since=since, now=now)
        if is_news:
            noted.log()
        return noted.error()

    def _forget_if_unused(self, name: str, place: _Place) -> None:
        if place.users or place.run is not None or place.busy is not None:
            return
        if self._places.get(name) is place:
            del self._places[name]
        listeners = self._listeners.get(name)
        if listeners is not None and listeners.is_empty:
            del self._listeners[name]

    # Time, and the end

    def tick(self) -> None:
        """Apply the deadlines of open runs, close idle ones, and try quarantined ones again."""
        now = self._clock.boot_s()
        for run in self.opened():
            run.tick()
        if not self._closes_at_rest:
            return
        with self._lock:
            for name, place in list(self._places.items()):
                if not _may_be_closed(place):
                    place.rests_since = None
                elif place.rests_since is None:
                    place.rests_since = now
                elif now - place.rests_since >= self._settings.idle_s:
                    self._begin_to_close(name, place)
            to_try = [] if self._closing else self._quarantines.to_try(now)
        for name in to_try:
            self.when_open(name)

    def is_noted_at_rest(self, name: str) -> bool:
        """Whether a note says that there is nothing to be done in a run that is not open now."""
        if not self._notes_rest or self.if_open(name) is not None:
            return False
        names.check_run_name(name)
        return rest.load(self._store, name, rest.versions_of(self._store, name)) is not None

    def close_if_at_rest(self, name: str) -> None:
        """Close an unused run at once, without waiting until it has been idle for a while."""
        with self._lock:
            place = self._places.get(name)
            if place is not None and _may_be_closed(place):
                self._begin_to_close(name, place)

    def _close_one_at_rest(self) -> bool:
        for name, place in self._places.items():
            if _may_be_closed(place):
                self._begin_to_close(name, place)
                return True
        return False

    def _begin_to_close(self, name: str, place: _Place) -> None:
        """Close a run on a thread of its own; the lock is held."""
        if self._closing:
            return
        done: Future[None] = Future()
        run, place.run, place.busy = place.run, None, done

        def close_it() -> None:
            try:
                if run is not None:
                    run.close()
            finally:
                with self._lock:
                    place.busy = None
                    self._forget_if_unused(name, place)
                done.set_result(None)

        self._openers.submit(close_it)

    def begin_no_more(self) -> list[Run]:
        """Open no more runs; return those that are open."""
        with self._lock:
            self._closing = True
        return self.opened()

    def settle(self, timeout_s: float) -> bool:
        """Wait until no run is being opened or closed, at most so long; return whether that happened in time."""
        return self._openers.settle(timeout_s)

    def close(self) -> None:
        """Close every run. After `begin_no_more`, when nothing uses them any more."""
        for run in self.opened():
            if self._notes_rest:
                self._openers.submit(run.close)  # each takes two round trips to the store
            else:
                run.close()  # at the end of a program no thread can be started any more
        self._openers.close()


def _may_be_closed(place: _Place) -> bool:
    return place.run is not None and not place.users and place.busy is None and place.run.is_at_rest()
