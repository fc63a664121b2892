"""One save that has begun: the caller's part of it, the part of the thread that carries it out, and how it ends.

The caller's part may fail at any point: by an array that can't be copied, for want of memory or of a thread, by Ctrl-C.
Then the save ends at once, with that cause. The thread that carries it out frees what it holds, or the caller
does if there is no such thread.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from functools import partial

from ckptd import threads
from ckptd.client.capture.capturing import takes_long
from ckptd.client.capture.handover import Handover
from ckptd.client.capture.preparing import Preparation, Prepared
from ckptd.client.capture.snapshot import Snapshot, why
from ckptd.client.progress import Bars
from ckptd.client.saving import waits
from ckptd.client.saving.carrying_out import carry_out
from ckptd.client.saving.completion import Completion
from ckptd.client.saving.pending import PendingSave
from ckptd.client.saving.save_order import Turn
from ckptd.client.saving.transport import SaveRequest, SaveTransport
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Declaration
from ckptd.errors import CkptdError, SessionAbortedError, UnavailableError

_log = logging.getLogger(__name__)

_TOLD_S = 2.0  # how long an error of the caller's part waits at most until the daemon knows of it


class Undertaking:
    """See the module.

    Attributes:
        completion: how it ends.
        pending: the caller's view of it.
    """

    def __init__(
        self,
        transport: SaveTransport,
        preparation: Preparation,
        request: SaveRequest,
        prepared: Prepared,
        turn: Turn,
        tell: waits.Tell | None = None,
        bars: Bars | None = None,
    ) -> None:
        """Begin nothing yet. `tell` is called with what it waits for, if it takes long; `bars` draw how far it is."""
        self._tell, self._bars = tell, bars
        self.completion = Completion(request.step, request.name, transport)
        self.pending = PendingSave(self.completion)
        self._transport = transport
        self._preparation = preparation
        self._request = request
        self._prepared: Prepared | None = prepared
        self._turn = turn
        self._snapshot = Snapshot(prepared.inventory, prepared.placement, prepared.room)
        self._handover: Handover | None = None
        self._lock = threading.Lock()
        self._is_carried = False
        self._is_given_up = False
        self._end_is_known = False

    # The caller.

    def begin(self) -> None:
        """Let the engine follow the capture, where it can."""
        prepared, manifest = self._prepared, self._snapshot.manifest
        assert prepared is not None  # until it is captured

        def declared(epoch: int, connection: object) -> Declaration | None:
            if not self._turn.may_begin(epoch, connection):
                return None
            return self._transport.declaration(self._request, manifest.digest, epoch)

        self._handover = prepared.room.begin(declared, prepared.placement, manifest)

    def capture(self) -> None:
        """Copy the arrays; on return they may be changed."""
        began = time.monotonic()
        prepared, self._prepared = self._prepared, None
        assert prepared is not None  # captured once
        try:
            self._snapshot.capture()
        finally:
            for room in prepared.outgrown:
                room.release()
        if self._handover is not None:
            self._handover.seal(self._snapshot.sums)
        if self._handover is not None and self._snapshot.sums is None:
            pause_s = time.monotonic() - began if takes_long(self._snapshot.manifest) else 0.0
            try:
                threads.start(partial(_sum_behind, self._snapshot, self._handover, pause_s), "ckptd-sums")
            except RuntimeError:  # then the caller has to wait for it
                _sum_behind(self._snapshot, self._handover, 0.0)

    def capture_behind(self) -> None:
        """Copy the arrays in a thread of its own; the save fails if that does."""
        try:
            self.capture()
        except BaseException as error:  # this thread has no caller: the save fails, and its error says why
            _log.exception("%s: the arrays could not be copied", self.pending)
            self.give_up(error, is_known=False)

    def give_up(self, cause: BaseException, *, is_known: bool = True) -> None:
        """End the save because of the caller's part, at once; `is_known` if the caller is told of the cause otherwise.

        Called by the thread that does the caller's part, or that could not start one for it.
        """
        if isinstance(cause, CkptdError):
            error = cause
        else:
            error = SessionAbortedError(f"{self.pending} was given up, as its arrays could not be copied: {why(cause)}")
            error.__cause__ = cause
        with self._lock:
            self._is_given_up, is_carried = True, self._is_carried
            self._end_is_known = is_known  # whichever thread comes to end it first
        self._turn.give_up(why(cause))
        if self._handover is not None:
            self._handover.drop(why(cause))
        elif self._prepared is not None:
            self._prepared.room.drop(self._request.request_id, why(cause))
        self._snapshot.give_up(error)
        try:
            self.completion.fail(error, is_known=is_known)
            if not is_carried:
                self._transport.withdraw(self._request, why(cause))
            elif self._transport.world_size > 1:
                # What other ranks do because of the error comes after it, for the daemon as well.
                self._turn.await_end(_TOLD_S)
        finally:
            if not is_carried:
                self._clean_up(is_skipped=True)

    # The thread.

    def carry(self) -> None:
        """Carry the save out, in a thread of its own."""
        with self._lock:
            if self._is_given_up:
                return  # before this thread ran: the caller has cleaned up
            self._is_carried = True
        checkpoint: Checkpoint | None = None
        error: CkptdError | None = None
        try:
            checkpoint = carry_out(
                self._transport, self._request, self._snapshot, self._turn, self._handover, self._tell, self._bars
            )
        except CkptdError as failure:
            error = failure
        except BaseException as failure:  # it has to reach the caller, which is another thread
            if threads.is_refusal(failure):  # gRPC, say, while CPython 3.12.0 or 3.12.1 ends
                error = UnavailableError(f"no thread could be started: {failure}")
            else:
                error = CkptdError(f"a bug in ckptd ended {self.pending}: {failure!r}")
            error.__cause__ = failure
        try:
            self._clean_up()
        finally:
            if checkpoint is not None:
                self.completion.finish(checkpoint)
            else:
                with self._lock:
                    is_known = self._end_is_known
                self.completion.fail(error or CkptdError(f"{self.pending} was interrupted"), is_known=is_known)

    def _clean_up(self, *, is_skipped: bool = False) -> None:
        with ExitStack() as each:  # each of them, even if others fail; the last one first
            each.callback(self._snapshot.release)
            each.callback(self._preparation.learn, self._snapshot)
            each.callback(self._turn.ended, is_skipped=is_skipped)


def _sum_behind(snapshot: Snapshot, handover: Handover, pause_s: float) -> None:
    """Sum what was captured, and pass the sums on, while training goes on.

    After a long copy there is a pause of the same length: other ranks on this host may not have come to the end of
    theirs, and training stands still until the last of them has.
    """
    time.sleep(pause_s)
    try:
        handover.give_sums(snapshot.sum())
    except Exception as error:  # this thread has no caller
        handover.drop(f"what was copied could not be summed: {error}")
