"""A save from the call to its threads: one carries it out, and the arrays are copied in the caller's or in another."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from ckptd import threads
from ckptd.client.capture.preparing import Preparation, Prepared
from ckptd.client.capture.snapshot import why
from ckptd.client.progress import Bars
from ckptd.client.replicas import with_digests
from ckptd.client.saving import end_of_process, waits
from ckptd.client.saving.completion import Completion
from ckptd.client.saving.pending import PendingSave
from ckptd.client.saving.save_order import Turn
from ckptd.client.saving.stall import COPYING, DECLARING, PREPARING, Stall
from ckptd.client.saving.transport import SaveRequest, SaveTransport
from ckptd.client.saving.under_way import UnderWay
from ckptd.client.saving.undertaking import Undertaking
from ckptd.errors import UnavailableError

_NUM_RESERVED = 5
"""Threads for what a save needs after its call has returned: to carry it out, to sum, and the engine of direct mode."""


class SaveListener(Protocol):
    """Hears of saves. Nothing of it waits or raises."""

    def begun(self, completion: Completion, request: SaveRequest) -> None:
        """This save has begun; it may have ended, too."""

    def refused(self, step: int | None, stall: Stall, error: BaseException) -> None:
        """One could not begin."""

    def slow(self, step: int | None) -> waits.Tell | None:
        """Return what to call with what a save that takes long waits for."""


class Launcher:
    """Launches the saves of one `Checkpointer`. Any thread may use it."""

    def __init__(
        self,
        transport: SaveTransport,
        preparation: Preparation,
        under_way: UnderWay,
        listener: SaveListener,
        bars: Bars | None = None,
    ) -> None:
        """Launch none yet. `listener` hears of each, and of those that could not begin; `bars` draw how far each is."""
        self._bars = bars
        self._listener = listener
        self._transport = transport
        self._preparation = preparation
        self._under_way = under_way
        self._lock = threading.Lock()
        self._last_turn: Turn | None = None

    def launch(
        self,
        request: SaveRequest,
        arrays: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
        *,
        immutable: bool,
        replicas: str = "warn",
        may_differ: Collection[str] = (),
    ) -> PendingSave:
        """Begin a save; return once the arrays may be changed again, or, if they never change, at once.

        With several ranks, what is to be done about values that differ between them is one of `replicas.POLICIES`.

        Whatever ends this call, Ctrl-C too, ends the save: it gives its memory back, and the next one may begin.

        Raises:
            InvalidRequestError: naming the tensor that can't be saved.
            UnavailableError: no memory for one more copy, or no thread can be started.
        """
        prepared: Prepared | None = None
        save: Undertaking | None = None
        request.stall.goes_on_with(PREPARING)
        try:
            arrays = _given(arrays)
            prepared = self._preparation.prepare(arrays)
            if self._transport.world_size > 1:
                request = with_digests(request, arrays, prepared.inventory, replicas, may_differ)
            with self._lock:
                turn = Turn(self._last_turn)
                slow = self._listener.slow(request.step)
                save = Undertaking(self._transport, self._preparation, request, prepared, turn, slow, self._bars)
                self._last_turn = turn
                self._under_way.add(save.completion)
            self._listener.begun(save.completion, request)
            request.stall.goes_on_with(DECLARING)
            save.begin()
            _start(save.carry, f"ckptd-save-{request.step}")
            if immutable:
                _start(save.capture_behind, f"ckptd-save-{request.step}-capture")
            else:
                request.stall.goes_on_with(COPYING)
                save.capture()
                request.stall.goes_on_with(DECLARING)
            with contextlib.suppress(RuntimeError):  # it may need no memory, and its thread will report this
                threads.reserve(_NUM_RESERVED)
        except BaseException as error:
            if save is not None:
                save.give_up(error)
            else:
                if prepared is not None:
                    prepared.release()
                self._transport.withdraw(request, why(error))
                self._listener.refused(request.step, request.stall, error)
            raise
        finally:
            request.stall.ended()
        end_of_process.settle_if_late()
        return save.pending


def _given(arrays: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = arrays() if inspect.isroutine(arrays) else arrays
    return found


def _start(work: Callable[[], None], name: str) -> None:
    try:
        threads.start(work, name)
    except RuntimeError as error:  # a limit of the container or the user, or the interpreter ends
        raise UnavailableError(f"the save can't begin, as no thread can be started: {error}") from error
