"""A save from the call to its threads: one carries it out, and the arrays are copied in the caller's or in another."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from ckptd.client.capturing import takes_long
from ckptd.client.pending import PendingSave
from ckptd.client.preparing import Preparation, Prepared
from ckptd.client.saving import carry_out
from ckptd.client.snapshot import Snapshot
from ckptd.client.transport import Handover, SaveRequest, Transport
from ckptd.client.turns import Turn
from ckptd.client.under_way import UnderWay
from ckptd.engine.checkpoint import Checkpoint
from ckptd.errors import CkptdError

_log = logging.getLogger(__name__)


class Launcher:
    """Launches the saves of one `Checkpointer`. Any thread may use it."""

    def __init__(self, transport: Transport, preparation: Preparation, under_way: UnderWay) -> None:
        self._transport = transport
        self._preparation = preparation
        self._under_way = under_way
        self._lock = threading.Lock()
        self._last_turn: Turn | None = None

    def launch(self, request: SaveRequest, arrays: Mapping[str, Any], *, immutable: bool) -> PendingSave:
        """Begin a save; return once the arrays may be changed again, or, if they never change, at once.

        Raises:
            InvalidRequestError: naming the tensor that can't be saved.
            UnavailableError: the memory for one more copy is not to be had.
        """
        prepared = self._preparation.prepare(arrays)
        pending = PendingSave(request.step)
        snapshot = Snapshot(prepared.inventory, prepared.placement, prepared.room)
        with self._lock:
            turn = self._last_turn = Turn(self._last_turn)
            self._under_way.add(pending)
        handover = self._transport.begin(request, snapshot.manifest, prepared.placement, prepared.room, turn)
        # No daemon threads: the interpreter waits for them, so that a program's last save is not lost by its end.
        name = f"ckptd-save-{request.step}"
        threading.Thread(target=self._carry, args=(pending, request, snapshot, turn, handover), name=name).start()
        if immutable:
            arguments = (pending, prepared, snapshot, handover)
            threading.Thread(target=self._capture_behind, args=arguments, name=f"{name}-capture").start()
            return pending
        try:
            self._capture(prepared, snapshot, handover)
        except BaseException:
            self._under_way.forget(pending)
            raise
        return pending

    def _capture_behind(
        self, pending: PendingSave, prepared: Prepared, snapshot: Snapshot, handover: Handover | None
    ) -> None:
        """Copy the arrays and hand them over, in a thread of its own; the save fails if that does."""
        try:
            self._capture(prepared, snapshot, handover)
        except Exception:  # this thread has no caller: the save fails, and the cause is told here
            _log.exception("%s: the arrays could not be copied", pending)

    def _capture(self, prepared: Prepared, snapshot: Snapshot, handover: Handover | None) -> None:
        """Copy the arrays and hand them over."""
        began = time.monotonic()
        try:
            snapshot.capture()
        except BaseException as error:
            if handover is not None:
                handover.drop(f"the arrays could not be copied: {error}")
            raise
        finally:
            for room in prepared.outgrown:
                room.give_back()
        if handover is not None:
            handover.seal(snapshot.sums)
        if handover is not None and snapshot.sums is None:
            pause_s = time.monotonic() - began if takes_long(snapshot.manifest) else 0.0
            arguments = (snapshot, handover, pause_s)
            threading.Thread(target=_sum_behind, args=arguments, name="ckptd-sums", daemon=True).start()

    def _carry(
        self, pending: PendingSave, request: SaveRequest, snapshot: Snapshot, turn: Turn, handover: Handover | None
    ) -> None:
        """Carry one save out, in a thread of its own."""
        checkpoint: Checkpoint | None = None
        error: CkptdError | None = None
        try:
            checkpoint = carry_out(self._transport, request, snapshot, turn, handover)
        except CkptdError as failure:
            error = failure
        except Exception as failure:  # it has to reach the caller, who is in another thread
            error = CkptdError(f"a bug in ckptd ended {pending}: {failure!r}")
            error.__cause__ = failure
        finally:
            turn.ended()
            self._preparation.learn(snapshot)
            snapshot.release()
        if checkpoint is not None:
            pending.finish(checkpoint)
        else:
            pending.fail(error or CkptdError(f"{pending} was interrupted"))


def _sum_behind(snapshot: Snapshot, handover: Handover, pause_s: float) -> None:
    """Sum what was captured, and hand the sums over, while training goes on.

    After a long copy there is a pause of the same length: other ranks on this host may not have come to the end of
    theirs, and training stands still until the last of them has.
    """
    time.sleep(pause_s)
    try:
        handover.give_sums(snapshot.sum())
    except Exception as error:  # this thread has no caller
        handover.drop(f"what was copied could not be summed: {error}")
