"""Saves of direct mode: the engine in this process carries them out."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from ckptd.client.capture.handover import Handover
from ckptd.client.deadline import Deadline
from ckptd.client.direct.direct_connection import DirectConnection
from ckptd.client.saving.lane_source import LaneSource
from ckptd.client.saving.save_order import Turn
from ckptd.client.saving.transport import SaveRequest
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Declaration, SaveRef
from ckptd.engine.layout import Assignment
from ckptd.engine.manifest import Manifest
from ckptd.engine.saves.views import SaveProgress
from ckptd.errors import CkptdError, SessionAbortedError, UnavailableError

T = TypeVar("T")

_CHUNK_BYTES = 4 << 20  # no message limits it; larger ones would no longer fit a processor's cache


class DirectSaves:
    """A `SaveTransport` to the engine in this process."""

    chunk_bytes = _CHUNK_BYTES
    world_size = 1
    retains_here = True

    def __init__(self, connection: DirectConnection) -> None:
        self._connection = connection

    def declaration(self, request: SaveRequest, digest: bytes, epoch: int) -> Declaration:
        """See `SaveTransport.declaration`."""
        return request.declared(
            self._connection.run, self._connection.options, self._connection.held().common.member, epoch, digest
        )

    def withdraw(self, request: SaveRequest, reason: str) -> None:
        """See `SaveTransport.withdraw`. There are no other ranks."""

    def declare(
        self, request: SaveRequest, manifest: Manifest, deadline: Deadline, turn: Turn, handover: Handover | None
    ) -> Assignment | Checkpoint:
        """See `SaveTransport.declare`. Takes the run, if that has not happened yet."""
        coordinator = self._connection.open(to_save=True)
        engine = self._connection.held().common
        turn.await_earlier(engine.epoch, deadline)
        coordinator.manifests.add(manifest)
        declaration = self.declaration(request, manifest.digest, engine.epoch)
        capture = None if handover is None else handover.capture
        answer = _await(coordinator.declare(declaration, capture), deadline, "the save could not be planned")
        return self._connection.own(answer) if isinstance(answer, Checkpoint) else answer

    def send(self, save: SaveRef, source: LaneSource, deadline: Deadline, stop: threading.Event) -> None:
        """See `SaveTransport.send`."""
        lane = self._connection.open().lane(save, source.lane.shard)
        for chunk in source.chunks(lane.received):
            deadline.check(f"the store at {self._connection.store.url} did not take shard {source.lane.shard}")
            if stop.is_set():
                raise SessionAbortedError(f"{save} was given up")
            lane.write(chunk.position, chunk.joined(), chunk.crc32c)
        for first, crcs, last in source.segment_crcs():
            lane.end(first, crcs, last)

    def outcome(self, save: SaveRef, deadline: Deadline) -> Checkpoint:
        """See `SaveTransport.outcome`."""
        return self._connection.own(
            _await(self._connection.open().outcome(save), deadline, f"the outcome of {save} is not known")
        )

    def look(self, save: SaveRef) -> SaveProgress | None:
        """See `SaveTransport.look`."""
        coordinator = self._connection.coordinator
        saves = None if coordinator is None else coordinator.saves_of(save.run)
        return None if saves is None else saves.progress(save.save_id)

    def await_retention(self, checkpoint: Checkpoint, deadline: Deadline) -> None:
        """See `SaveTransport.await_retention`."""
        coordinator = self._connection.coordinator
        if coordinator is not None:  # closing it waits for that, too
            save = SaveRef(self._connection.run, 0, checkpoint.step, checkpoint.save_id)
            _await(coordinator.retired(save), deadline, "what retention deletes is not gone")

    def abort(self, save: SaveRef, reason: str) -> None:
        """See `SaveTransport.abort`."""
        with contextlib.suppress(CkptdError):  # then it has already ended
            self._connection.open().abort(save, reason)


def _await(future: Future[T], deadline: Deadline, what: str) -> T:
    try:
        return future.result(deadline.remaining_s)
    except (FutureTimeoutError, TimeoutError) as error:
        raise UnavailableError(f"{what} after {deadline.timeout_s:g} s") from error
