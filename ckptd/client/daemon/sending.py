"""One lane over the Write stream: open, find out what has arrived, send the rest, send the checksums.

After a break the daemon says how much it has, and sending goes on from there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc

from ckptd.client.daemon.routes import Routes
from ckptd.client.daemon.stream_queue import OVERLAP_BYTES, QueuePlace
from ckptd.client.deadline import Backoff, Deadline
from ckptd.client.saving.lane_source import LaneSource
from ckptd.engine.identity import SaveRef
from ckptd.errors import CkptdError, ConflictError, SessionAbortedError, UnavailableError
from ckptd.wire import convert, status
from ckptd.wire.chunks import Chunk, WriteMessage
from ckptd.wire.v1 import save_pb2

_ANSWER_TIMEOUT_S = 5.0  # of a process that is not the only one


def send_lane(
    routes: Routes,
    save: SaveRef,
    source: LaneSource,
    deadline: Deadline,
    stop: threading.Event,
    line: threading.Semaphore,
) -> None:
    """Send one lane until the daemon says that it is whole, on as many streams as that takes, one after the other.

    Of the lanes that share `line` one has it at a time, until all but its last chunks are sent. Two streams at once
    are slower than one after the other, by a quarter: gRPC then interleaves their frames on the one connection.

    Raises:
        UnavailableError: at the deadline, telling how much had arrived.
        SessionAbortedError: `stop` was set, or the save has ended.
    """
    backoff = Backoff()
    received = 0
    while True:
        route = routes.to(source.lane.stream_port)
        attempt = _Attempt(save, source, stop, QueuePlace(line), _ANSWER_TIMEOUT_S if route.port else None)
        try:
            attempt.run(route.stub, deadline)
            return
        except grpc.RpcError as failure:
            error = attempt.failure or status.from_wire(failure, address=route.address)
        except CkptdError as refused:
            error = refused
        if route.port and attempt.led_nowhere:
            routes.avoid(route, error)
            continue
        if not error.retryable or error.is_answer:
            raise error
        if attempt.received > received:
            received, backoff = attempt.received, Backoff()
        pause_s = backoff.next_s(deadline)
        if deadline.remaining_s <= pause_s or stop.wait(pause_s):
            error.add_note(f"shard {source.lane.shard} of {save}: {received} of {source.size_bytes} bytes had arrived")
            raise error


class _Attempt:
    """One stream: its requests are made by gRPC's thread, its replies read by ours."""

    def __init__(
        self,
        save: SaveRef,
        source: LaneSource,
        stop: threading.Event,
        place: QueuePlace,
        answer_timeout_s: float | None,
    ) -> None:
        self._place = place
        self._answer_timeout_s = answer_timeout_s
        self._save = save
        self._source = source
        self._stop = stop
        self._is_answered = threading.Event()
        self._is_using_source = threading.Lock()
        self._is_over = False
        self._call: Any = None
        self._has_reply = False
        self.received = 0
        self.failure: CkptdError | None = None

    @property
    def led_nowhere(self) -> bool:
        """Whether the stream was opened, and no answer came from a process that knows the lane."""
        return self._call is not None and not self._has_reply and not self._stop.is_set()

    def run(self, stub: Any, deadline: Deadline) -> None:
        """Send everything that is missing; return when the daemon has it whole."""
        if not self._place.take(deadline, self._stop):
            if self._stop.is_set():
                raise SessionAbortedError(f"{self._save} was given up")
            raise UnavailableError("the lanes before this one took until the deadline", key=self._source.lane.key)
        try:
            self._run(stub, deadline)
        finally:
            self._place.give_up()

    def _run(self, stub: Any, deadline: Deadline) -> None:
        call = self._call = stub.Write(self._requests(), timeout=max(deadline.remaining_s, 0.001))
        impatience = threading.Timer(self._answer_timeout_s or 0.0, self._wait_no_longer)
        if self._answer_timeout_s is not None:
            impatience.start()
        try:
            for reply in call:
                if reply.moved_to:
                    raise ConflictError(
                        "the daemon sends this shard to another writer, which this version can't reach",
                        key=self._source.lane.key,
                        actual=reply.moved_to,
                    )
                self.received = self._source.arrived = max(self.received, reply.received)
                self._has_reply = True
                impatience.cancel()
                self._is_answered.set()
                if reply.ended:
                    return
            raise UnavailableError("the daemon ended the stream before the lane was whole", key=self._source.lane.key)
        finally:
            impatience.cancel()
            self._is_answered.set()
            call.cancel()
            # gRPC's thread may outlive the call by a moment: it must not touch the source beside the next attempt.
            with self._is_using_source:
                self._is_over = True

    def _wait_no_longer(self) -> None:
        self.failure = self.failure or UnavailableError(f"no answer within {self._answer_timeout_s:g} s")
        self._call.cancel()

    def _requests(self) -> Iterator[WriteMessage]:
        yield save_pb2.WriteRequest(
            open=save_pb2.WriteOpen(save=convert.save_to_wire(self._save), shard=self._source.lane.shard)
        )
        self._is_answered.wait()
        messages = self._messages()
        while (message := self._next(messages)) is not None:
            yield message

    def _next(self, messages: Iterator[WriteMessage]) -> WriteMessage | None:
        """Make the next message, unless the call has ended or the save was given up."""
        with self._is_using_source:
            if self._is_over:
                return None
            if self._stop.is_set():
                self.failure = SessionAbortedError(f"{self._save} was given up")
                if self._call is not None:
                    self._call.cancel()
                return None
            return next(messages, None)

    def _messages(self) -> Iterator[WriteMessage]:
        last = self._source.size_bytes - OVERLAP_BYTES
        for chunk in self._source.chunks(self.received):
            if chunk.position >= last:
                self._place.give_up()  # The next lane is opened while the rest of this one is under route.
            yield Chunk(chunk.position, chunk.crc32c, chunk.joined())
        self._place.give_up()
        for first, crcs, last in self._source.segment_crcs():
            yield save_pb2.WriteRequest(end=save_pb2.LaneEnd(first_segment=first, crcs=crcs, last=last))
