"""One save from its declaration to its end, over any transport."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from ckptd import threads
from ckptd.client.capture.handover import Handover
from ckptd.client.capture.snapshot import Snapshot
from ckptd.client.deadline import Backoff, Deadline
from ckptd.client.progress import Bars
from ckptd.client.saving import waits
from ckptd.client.saving.lane_source import LaneSource
from ckptd.client.saving.save_order import Turn
from ckptd.client.saving.transport import SaveRequest, SaveTransport
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import SaveRef
from ckptd.engine.layout import Assignment, LaneTransport
from ckptd.engine.wording import describe_bytes
from ckptd.errors import CkptdError, NotFoundError, UnavailableError

NUM_STREAMS = 2
"""Lanes under way at once: enough that one is summed while another is sent."""

_GRACE_S = 5.0  # the daemon knows which ranks a late save waits for; its error should come before ours
_SETTLE_S = 1.0  # a daemon that refused a lane knows the save's end by then


def carry_out(
    transport: SaveTransport,
    request: SaveRequest,
    snapshot: Snapshot,
    turn: Turn,
    handover: Handover | None = None,
    tell: waits.Tell | None = None,
    bars: Bars | None = None,
) -> Checkpoint:
    """Carry out one save; return the published checkpoint. The snapshot may still be under way.

    `tell` is called with what a save that takes long waits for; `bars` draw how far it is.

    A daemon that was restarted in the middle knows nothing of the save. The snapshot is still here, so the save starts
    again, as a repeated call.
    """
    what = "the save without a step" if request.step is None else f"the save of step {request.step}"
    with waits.told(what, tell):
        if bars is None:
            return _carry_out(transport, request, snapshot, turn, handover)
        with bars.of_save("save" if request.step is None else f"save step {request.step}", transport.look) as planned:
            return _carry_out(transport, request, snapshot, turn, handover, planned)


def _carry_out(
    transport: SaveTransport,
    request: SaveRequest,
    snapshot: Snapshot,
    turn: Turn,
    handover: Handover | None,
    planned: Callable[[SaveRef], None] = lambda _save: None,
) -> Checkpoint:
    deadline = Deadline(request.timeout_s + _GRACE_S)
    backoff = Backoff()
    while True:
        answer = transport.declare(request, snapshot.manifest, deadline, turn, handover)
        if isinstance(answer, Checkpoint):
            return answer
        turn.planned(answer.save.epoch)
        planned(answer.save)
        snapshot.lanes = answer.lanes
        try:
            return _finish(transport, answer, snapshot, deadline)
        except NotFoundError as forgotten:
            pause_s = backoff.next_s(deadline)
            if deadline.remaining_s <= pause_s:
                raise UnavailableError(
                    f"{answer.save} was not saved within {deadline.timeout_s:g} s: the daemon was restarted meanwhile"
                ) from forgotten
            time.sleep(pause_s)


def _finish(transport: SaveTransport, planned: Assignment, snapshot: Snapshot, deadline: Deadline) -> Checkpoint:
    """Send what was planned and wait for the end; `NotFoundError` when the daemon has no record of the save."""
    lanes = [lane for lane in planned.lanes if lane.transport is LaneTransport.STREAM]
    try:
        if lanes:
            waits.waiting_for("its arrays to be copied")
            snapshot.wait(deadline.remaining_s)
        sources = [LaneSource(lane, snapshot, transport.chunk_bytes) for lane in lanes]
        waits.waiting_for(lambda: _left(sources))
        _send_all(transport, planned.save, sources, deadline)
    except CkptdError as error:
        if snapshot.has_failed:
            transport.abort(planned.save, str(error))
            raise
        return _settle(transport, planned.save, error)
    return transport.outcome(planned.save, deadline)


def _left(sources: Sequence[LaneSource]) -> str:
    """Say how much is still to be sent."""
    total = sum(source.size_bytes for source in sources)
    left = total - sum(source.arrived for source in sources)
    return f"the daemon to take {describe_bytes(left)} of {describe_bytes(total)}"


def _settle(transport: SaveTransport, save: SaveRef, error: CkptdError) -> Checkpoint:
    """End a save whose lanes could not all be sent: raise why, or return the checkpoint if it was made all the same.

    If the save had ended before, for example because another rank was lost, our lanes were refused for that reason,
    and that reason is raised. We end only a save that still waits for us.
    """
    try:
        return transport.outcome(save, Deadline(_SETTLE_S))
    except UnavailableError as unknown:
        if unknown.is_answer:
            raise unknown from error
        transport.abort(save, f"rank {save.rank} could not send its part: {error}")
        raise error from error.__cause__
    except CkptdError as reason:
        raise reason from error


def _send_all(transport: SaveTransport, save: SaveRef, sources: Sequence[LaneSource], deadline: Deadline) -> None:
    """Send all lanes, a few at a time; the first error stops the others and is raised.

    Every rank goes from the first shard to the last. Where several fill one shard in turns, as with a tensor of
    float16, its parts are complete soon after each other that way; if each began elsewhere, a daemon that writes to
    a bucket would hold most of the checkpoint in parts that still want bytes.
    """
    stop = threading.Event()
    errors: list[BaseException] = []

    def send(source: LaneSource) -> None:
        try:
            transport.send(save, source, deadline, stop)
        except BaseException as error:
            errors.append(error)
            stop.set()
            raise

    try:
        # Ends with the deadline, as every call that is made here does.
        threads.each(send, sources, NUM_STREAMS, "ckptd-lane")
    except BaseException as error:
        first = (errors or [error])[0]
        raise first from first.__cause__
