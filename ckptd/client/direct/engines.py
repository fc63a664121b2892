"""The engine of direct mode: one per run and process, with the lock of the run, whichever `Checkpointer` uses it."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from functools import partial

from ckptd import threads
from ckptd.client.deadline import Deadline
from ckptd.client.saving.sharing import Commons
from ckptd.engine.catalog.nesting import check_apart
from ckptd.engine.identity import Member, RunOptions
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.settings import Settings
from ckptd.errors import ConflictError, InvalidRequestError, UnavailableError
from ckptd.storage.base import Store
from ckptd.storage.lock_holder import LockHolder

_ALLOW_UNFENCED = "CKPTD_ALLOW_UNFENCED"  # the daemon's setting of that name
_TICK_S = 0.2
LOCK_WAIT_S = 2.0  # a reader that repairs the run holds it for a moment


class EngineOfRun:
    """See the module. Any thread may use it.

    Attributes:
        member: as which this process has joined the run.
        epoch: of the run, once it is open.
    """

    def __init__(self, store: Store, run: str, member: Member) -> None:
        """Open nothing yet."""
        self.member = member
        self.epoch = 0
        self._store = store
        self._run = run
        self._lock = threading.Lock()
        self._coordinator: Coordinator | None = None
        self._options: RunOptions | None = None
        self._is_closed = threading.Event()
        self._has_ticked = threading.Event()  # for the last time

    @property
    def is_spent(self) -> bool:
        """See `Common`: in a bucket another process may have taken the run over."""
        return self._coordinator is not None and bool(self._coordinator.taken_over()[0])

    @property
    def if_open(self) -> Coordinator | None:
        """The coordinator, None before the run is open."""
        return self._coordinator

    def open(self, options: RunOptions, *, to_save: bool) -> Coordinator:
        """Return the coordinator, after taking the run on the first call; the first that saves decides the options.

        Raises:
            ConflictError: another process has the run.
            InvalidRequestError: it would lie inside another run, or another one inside of it.
        """
        with self._lock:
            if self._is_closed.is_set():
                raise InvalidRequestError("the Checkpointer was closed")
            if self._coordinator is None:
                self._coordinator, self._options = self._begin(options), options
            elif to_save and self._options != options:
                self.epoch = self._coordinator.join(self._run, self.member, options)
                self._options = options
            return self._coordinator

    def leave(self) -> None:
        """See `Common`: the lock belongs to all that are left."""

    def close(self, *, is_dropped: bool = False) -> None:
        """See `Common`."""
        self._is_closed.set()
        with self._lock:
            coordinator, self._coordinator = self._coordinator, None
        if coordinator is None:
            return
        try:
            coordinator.leave(self._run, self.member, self.epoch)
        finally:
            coordinator.close()
        self._has_ticked.wait(10 * _TICK_S)

    def _begin(self, options: RunOptions) -> Coordinator:
        coordinator, self.epoch = self._take_run(options)
        try:
            threads.start(partial(self._tick, coordinator), "ckptd-tick")
        except BaseException as error:  # Ctrl-C, too: the next call opens the run anew
            coordinator.close()
            if not isinstance(error, RuntimeError):
                raise
            raise UnavailableError(f"no thread could be started: {error}") from error
        return coordinator

    def _take_run(self, options: RunOptions) -> tuple[Coordinator, int]:
        """Open a coordinator and join the run, waiting a moment for a reader that repairs it."""
        deadline = Deadline(LOCK_WAIT_S)
        while True:
            coordinator = new_coordinator(self._store, self.member, takes_over=True)
            try:
                coordinator.open()
                return coordinator, coordinator.join(self._run, self.member, options)
            except ConflictError as error:
                coordinator.close()
                check_apart(self._store, self._run)  # of a run inside another one, that has the lock
                if deadline.has_passed or self._is_closed.wait(_TICK_S):
                    if LockHolder.parse(error.actual) != holder(self.member):
                        raise
                    raise ConflictError(
                        f"{self._run!r} of {self._store.url} is the directory of another Checkpointer of this process, "
                        "which names it by another root and run: name both alike, or close() that one first"
                    ) from None
            except BaseException:
                coordinator.close()
                raise

    def _tick(self, coordinator: Coordinator) -> None:
        try:
            while not self._is_closed.wait(_TICK_S):
                coordinator.tick()
        finally:
            self._has_ticked.set()


def holder(member: Member) -> LockHolder:
    """Return the holder that the lock of a run names."""
    return replace(holder_here(), host=member.host)


def holder_here() -> LockHolder:
    """Return the same if it is this process."""
    return LockHolder.here("direct mode")


def new_coordinator(store: Store, member: Member, *, takes_over: bool) -> Coordinator:
    """Return an engine for single runs below a root that others may use as well."""
    allow_unfenced = os.environ.get(_ALLOW_UNFENCED, "").lower() in ("1", "true", "yes")
    settings = Settings(shards=1, allow_unfenced=allow_unfenced)
    return Coordinator(store, settings=settings, owns_root=False, takes_over=takes_over, holder=holder(member).line)


ENGINES: Commons[EngineOfRun] = Commons()
"""The engines of this process, by root and run."""
