"""Tells `on_event` what becomes of the saves and restores of one `Checkpointer`."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ckptd.client.process_rank import ProcessRank
from ckptd.client.saving import end_of_process
from ckptd.client.saving.completion import Completion, may_still_be_saved
from ckptd.client.saving.stall import Stall
from ckptd.client.saving.transport import SaveRequest
from ckptd.engine.checkpoint import Checkpoint
from ckptd.errors import CkptdError, InvalidRequestError
from ckptd.events import delivery
from ckptd.events.delivery import Receiver
from ckptd.events.event import Event, Failed, FellBack, Restored, Saved, Slow
from ckptd.events.tensorboard import TensorBoardWriter

TENSORBOARD = "CKPTD_TENSORBOARD"
"""The environment's variable that names a directory for `TensorBoardWriter`."""

_CALL_ENDS_S = 60.0  # a save may end before the call that began it returns: how long its stall is waited for
_NUM_USUAL = 5
_SLOWER = 2.0

_writers: dict[str, TensorBoardWriter] = {}  # one file a directory and process, however many `Checkpointer`s


def receivers(on_event: Receiver | Iterable[Receiver] | None, environ: Mapping[str, str], rank: int) -> list[Receiver]:
    """Return what is to hear of events: what was passed, and what the environment names.

    Raises:
        InvalidRequestError: it can't be called.
    """
    found = [] if on_event is None else [on_event] if callable(on_event) else list(on_event)
    for one in found:
        if not callable(one):
            raise InvalidRequestError(
                "on_event is a function of one event, or several", actual=f"{type(one).__name__}: {one!r}"
            )
    if rank == 0 and (logdir := environ.get(TENSORBOARD)):
        found.append(_writers.setdefault(str(Path(logdir).absolute()), TensorBoardWriter(logdir)))
    return found


class Teller:
    """See the module. Any thread may use it; nothing here waits or raises."""

    def __init__(self, heard_by: list[Receiver], run: str, place: ProcessRank) -> None:
        """Tell `heard_by` about this run, as the process with this rank."""
        self._heard_by = heard_by
        self._whose: dict[str, Any] = {"run": run, "rank": place.rank, "world_size": place.world_size}
        self._lock = threading.Lock()
        self._durations: deque[float] = deque(maxlen=_NUM_USUAL)

    @property
    def is_on(self) -> bool:
        """Whether anything hears of events."""
        return bool(self._heard_by)

    def begun(self, completion: Completion, request: SaveRequest) -> None:
        """Tell how this save ends, when it does."""
        if not self.is_on:
            return
        delivery.start()
        end_of_process.then(delivery.drain)
        completion.add_done_callback(lambda ended: self._ended(ended, request.stall), completion)

    def refused(self, step: int | None, stall: Stall, error: BaseException) -> None:
        """Tell that a save could not begin."""
        if self.is_on and isinstance(error, CkptdError):
            at, after_s = time.time(), time.monotonic() - stall.began
            self._tell(lambda: self._failed(step, stall, error, at, after_s))

    def slow(self, step: int | None) -> Callable[[str, float], None] | None:
        """Return what is to be called with what a save waits for, and for how long; None if nothing hears of it."""
        if not self.is_on:
            return None
        has_told = False

        def tell(waiting_for: str, waited_s: float) -> None:
            nonlocal has_told
            with self._lock:
                usual_s = statistics.median(self._durations) if self._durations else 0.0
            if has_told or waited_s < _SLOWER * usual_s:
                return
            has_told, at = True, time.time()
            self._tell(lambda: Slow(**self._whose, step=step, at=at, waited_s=waited_s, waiting_for=waiting_for))

        return tell

    def restored(self, checkpoint: Checkpoint, size_bytes: int, seconds: float) -> None:
        """Tell that arrays of so many bytes were restored."""
        at = time.time()
        self._tell(
            lambda: Restored(
                **self._whose,
                step=checkpoint.step,
                at=at,
                checkpoint=checkpoint,
                size_bytes=size_bytes,
                seconds=seconds,
            )
        )

    def fell_back(self, step: int | None, damaged_step: int | None, reason: str) -> None:
        """Tell that an older checkpoint is restored than the latest."""
        at = time.time()
        self._tell(lambda: FellBack(**self._whose, step=step, at=at, damaged_step=damaged_step, reason=reason))

    def _tell(self, make: Callable[[], Event]) -> None:
        delivery.tell(self._heard_by, make)

    def _ended(self, ended: Completion, stall: Stall) -> None:
        at, seconds = time.time(), time.monotonic() - stall.began
        checkpoint, error = ended.checkpoint, ended.error
        if checkpoint is not None:
            with self._lock:
                self._durations.append(seconds)
            saved = checkpoint
            self._tell(
                lambda: Saved(
                    **self._whose, step=ended.step, at=at, checkpoint=saved, stall=_seconds(stall), durable_s=seconds
                )
            )
        elif error is not None:
            why = error
            self._tell(lambda: self._failed(ended.step, stall, why, at, seconds))

    def _failed(self, step: int | None, stall: Stall, error: CkptdError, at: float, after_s: float) -> Failed:
        is_open = may_still_be_saved(error)
        return Failed(
            **self._whose, step=step, at=at, error=error, stall=_seconds(stall), after_s=after_s, is_open=is_open
        )


def _seconds(stall: Stall) -> Mapping[str, float]:
    return stall.seconds(_CALL_ENDS_S) or {}
