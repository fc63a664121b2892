"""A `Checkpointer`'s hold on the engine of direct mode: the same engine as a daemon's, in this process.

One rank only: several need a process that sees all of them, and that is the daemon. Reading takes no lock, so that any
number of readers can follow a run; the first save takes the run for this process, which keeps it until the last
`Checkpointer` that saves into it has closed, see `engines`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from ckptd.client.direct.engines import ENGINES, EngineOfRun, new_coordinator
from ckptd.client.saving.own_saves import place_of
from ckptd.client.saving.sharing import SharedHold
from ckptd.client.saving.transport import Located
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Member, RunOptions
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.saves.served_catalog import ServedCatalog
from ckptd.errors import ConflictError, InvalidRequestError, NotPermittedError, StorageFullError
from ckptd.storage.base import Store

T = TypeVar("T")


class DirectConnection:
    """See the module. Any thread may use it.

    Attributes:
        store: that the engine works on.
        run: the run that all calls are about.
        member: this process.
        options: the run's.
        timeout_s: the bound of waits.
        hold: on the engine; None before the first call.
    """

    is_inherited = False  # nothing of it is bound to a process, but the engine, which `held` checks

    def __init__(self, store: Store, run: str, member: Member, options: RunOptions, *, timeout_s: float) -> None:
        """Open nothing yet."""
        self.store = store
        self.run = run
        self.member = member
        self.options = options
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self.hold: SharedHold[EngineOfRun] | None = None
        self._is_recovered = False
        self._is_closed = threading.Event()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed.is_set()

    def held(self) -> SharedHold[EngineOfRun]:
        """Return this process's share of the engine, which may not have been opened yet."""
        with self._lock:
            if self._is_closed.is_set():
                raise InvalidRequestError("the Checkpointer was closed")
            if self.hold is None:
                key = place_of(self.store, "")
                self.hold = ENGINES.hold((key, self.run), partial(EngineOfRun, self.store, self.run, self.member))
            elif self.hold.is_inherited:
                raise ConflictError(
                    "this Checkpointer was used before the process forked, and the run belongs to the parent: "
                    "make a new one in the child after the parent has closed its own"
                )
            return self.hold

    @property
    def coordinator(self) -> Coordinator | None:
        """The engine, if this process has it open."""
        hold = self.hold
        return None if hold is None else hold.common.if_open

    def open(self, *, to_save: bool = False) -> Coordinator:
        """Return the engine, after taking the run on the first call."""
        hold = self.held()
        if to_save:
            hold.join(self.run, self.options, self.timeout_s)
        coordinator = hold.common.open(self.options, to_save=to_save)
        self._is_recovered = True
        return coordinator

    def change(self, work: Callable[[ServedCatalog], T]) -> T:
        """Have the engine do work in the catalog of the run, after taking the run on the first call."""
        return self.open().in_catalog(self.run, work)

    def recover(self) -> None:
        """Complete or sweep what a crash left, once, before this process decides where to resume.

        Without this a checkpoint that was complete but not yet published would be found only by the first save, after
        training had been resumed from an older one.
        """
        with self._lock:
            if self._is_recovered or self._is_closed.is_set():
                return
            self._is_recovered = True
            if next(iter(self.store.list(self.run)), None) is None:
                return  # nothing there yet, and reading creates nothing
            coordinator = new_coordinator(self.store, self.member, takes_over=False)
            try:
                coordinator.open()
                coordinator.checkpoints(self.run)
            except (ConflictError, NotPermittedError, StorageFullError):
                pass  # another process works on it and repairs it; we may not write there; or the disk is full
            finally:
                coordinator.close()

    def located(self, checkpoint: Checkpoint) -> Located:
        """Return a checkpoint with its key in the store."""
        own = self.own(checkpoint)
        return Located(own, f"{self.run}/{own.prefix.rpartition('/')[2]}")

    def own(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return a checkpoint with its prefix as this process names the root: another may go by a link."""
        prefix = self.store.location(f"{self.run}/{checkpoint.prefix.rpartition('/')[2]}")
        return checkpoint if checkpoint.prefix == prefix else replace(checkpoint, prefix=prefix)

    def close(self) -> None:
        """See `EngineConnection`."""
        self._is_closed.set()

    def mark_dropped(self) -> None:
        """See `Droppable`."""
        if self.hold is not None:
            self.hold.is_dropped = True

    def release(self, *, is_dropped: bool = True) -> None:
        """See `Droppable`. What reads and watches needs the store only."""
        with self._lock:
            hold, self.hold = self.hold, None
        if hold is not None:
            hold.release(is_dropped=is_dropped)
