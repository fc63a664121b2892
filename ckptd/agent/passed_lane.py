"""One lane of a rank of this host that belongs into the shard of another host: sent on to the agent there.

It is the `ByteSink` of a `LaneWriter`, which takes the bytes as those of any lane do: from captured memory, or from
the rank's own stream. What the other agent has not confirmed is kept, a window at most, so that a broken stream goes on
where it stopped. An agent that began anew has nothing of it, and only captured memory can be read again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from ckptd.agent.other_agents import OtherAgents, PeerStubs
from ckptd.engine.identity import SaveRef
from ckptd.errors import (
    CkptdError,
    CorruptionError,
    InvalidRequestError,
    NotPermittedError,
    StorageFullError,
    UnavailableError,
)
from ckptd.format import crc32c
from ckptd.storage.base import Buffer
from ckptd.wire import convert, status
from ckptd.wire.chunks import CHUNK_BYTES, Chunk, WriteMessage
from ckptd.wire.v1 import save_pb2

_log = logging.getLogger("ckptd.agent")

WINDOW_BYTES = 24 * CHUNK_BYTES
"""How much may be unconfirmed. The other end confirms every 16 chunks."""

ANSWER_S = 5.0
"""How long an agent may take to say what it has of a lane; then another of its addresses is tried."""

_PAUSES_S = (0.1, 0.2, 0.5, 1.0)
_CRCS_PER_PART = 100_000
_FINAL = (CorruptionError, InvalidRequestError, NotPermittedError, StorageFullError)


class PassedLane:
    """See the module. `write` and `end` are called by one thread at a time, `run` by another."""

    def __init__(
        self,
        key: str,
        size_bytes: int,
        save: SaveRef,
        shard: int,
        host: str,
        *,
        stubs: Callable[[], PeerStubs],
        peers: OtherAgents,
        now: Callable[[], float],
        on_passed: Callable[[], None],
        on_anew: Callable[[], None],
        on_failure: Callable[[CkptdError], None],
    ) -> None:
        """Send nothing yet.

        Args:
            key: of the shard.
            size_bytes: of the lane.
            save: as the rank names it.
            shard: its number.
            host: whose agent takes it.
            stubs: returns how that agent is reached.
            peers: counts bytes.
            now: seconds on a forward-only clock.
            on_passed: called when the other agent has all of it.
            on_anew: called when that agent has begun anew, and wants bytes that are not kept any more.
            on_failure: called with what makes the save impossible.
        """
        self.key, self.size_bytes = key, size_bytes
        self._save, self._shard, self._host = save, shard, host
        self._stubs, self._peers, self._now = stubs, peers, now
        self.progressed_at = now()
        self._on_passed, self._on_anew, self._on_failure = on_passed, on_anew, on_failure
        self._changed = threading.Condition()
        self._pending = bytearray()  # less than a chunk
        self._kept: deque[Chunk] = deque()  # not confirmed
        self._unsent: deque[Chunk] = deque()  # in the present stream
        self._kept_bytes = 0
        self._position = 0  # of what comes next
        self._confirmed = 0
        self._sums: NDArray[np.uint32] | None = None
        self._closed: CkptdError | None = None
        self._call: Any = None
        self._stream: threading.Event | None = None  # the present one; set once it is answered
        self._has_begun = False
        self.is_passed = False
        self.trouble = ""
        """Why nothing goes at this moment, "" if it does."""

    @property
    def confirmed(self) -> int:
        """How many bytes the other agent has for sure."""
        return self.size_bytes if self.is_passed else self._confirmed

    # The lane's writer

    def write(self, offset: int, data: Buffer) -> None:
        """Take the next bytes of the lane, wherever they are in the shard; blocks while too many are unconfirmed."""
        view = memoryview(data).cast("B")
        while len(view):
            taken = view[: CHUNK_BYTES - len(self._pending)]
            self._pending += taken
            view = view[len(taken) :]
            if len(self._pending) == CHUNK_BYTES:
                self._flush()

    def _flush(self) -> None:
        data = bytes(self._pending)
        self._pending.clear()
        chunk = Chunk(self._position, crc32c.crc32c(data), data)
        with self._changed:
            self._changed.wait_for(lambda: self._closed is not None or self._kept_bytes < WINDOW_BYTES)
            if self._closed is not None:
                raise self._closed
            self._kept.append(chunk)
            self._unsent.append(chunk)
            self._kept_bytes += len(data)
            self._position += len(data)
            self._begin()

    def _begin(self) -> None:
        """Let the stream know that there is something to send. The lock is held."""
        self._changed.notify_all()
        if not self._has_begun:
            self._has_begun = True
            threading.Thread(target=self._run, name="ckptd-pass-on", daemon=True).start()

    def end(self, sums: NDArray[np.uint32]) -> None:
        """Say that all of it was written; `sums` are of its segments."""
        if self._pending:
            self._flush()
        with self._changed:
            self._sums = sums.astype("<u4")
            self._begin()

    def wait(self) -> None:
        """Return when the other agent has all of it, or `close` was called."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_passed or self._closed is not None)

    def close(self, reason: CkptdError) -> None:
        """Send nothing more."""
        with self._changed:
            self._closed = self._closed or reason
            self._kept.clear()
            self._unsent.clear()
            call = self._call
            self._changed.notify_all()
        if call is not None:
            call.cancel()

    # The stream

    def _run(self) -> None:
        """Send it until the other agent has all of it, on as many streams as that takes, or `close` was called."""
        attempt = 0
        while self._closed is None:
            confirmed = self._confirmed
            try:
                error = self._attempt()
            except Exception as bug:  # this thread has no caller: the save must not wait for it
                self._on_failure(CkptdError(f"a bug in ckptd ended the passing on of a lane: {bug!r}"))
                return
            if error is None or self._closed is not None:
                return  # what closed it has ended the call, and knows why
            attempt = attempt + 1 if self._confirmed == confirmed else 0
            if isinstance(error, _FINAL) and not (isinstance(error, CorruptionError) and attempt < len(_PAUSES_S)):
                self._on_failure(error)
                return
            if not self.trouble:
                _log.info("rank %d waits to pass bytes on to the agent on %s: %s", self._save.rank, self._host, error)
            self.trouble = str(error)
            with self._changed:
                pause_s = _PAUSES_S[min(attempt, len(_PAUSES_S) - 1)]
                if self._changed.wait_for(lambda: self._closed is not None, pause_s):
                    return

    def _attempt(self) -> CkptdError | None:
        """Send on one stream; return why it ended, None when nothing is left to do."""
        try:
            stubs = self._stubs()
        except CkptdError as error:
            return error
        answered = threading.Event()
        with self._changed:
            if self._closed is not None:
                return self._closed
            self._stream = answered
            call = self._call = stubs.save.Write(self._requests(answered))
        impatience = threading.Timer(ANSWER_S, call.cancel)
        impatience.daemon = True
        impatience.start()
        try:
            with self._peers.busy(self._host):
                for reply in call:
                    impatience.cancel()
                    if not self._confirm(reply.received, is_first=not answered.is_set()):
                        self._on_anew()
                        return None
                    answered.set()
                    if reply.ended:
                        with self._changed:
                            self.is_passed, self.trouble = True, ""
                            self._changed.notify_all()
                        self._on_passed()
                        return None
            return UnavailableError("the stream ended before the lane was whole", key=self.key)
        except grpc.RpcError as error:
            if not answered.is_set():
                self._peers.avoid(stubs)
            return status.from_wire(error, address=stubs.address)
        finally:
            impatience.cancel()
            with self._changed:
                self._call = self._stream = None
                self._changed.notify_all()
            answered.set()
            call.cancel()

    def _confirm(self, received: int, *, is_first: bool) -> bool:
        """Forget what has arrived; return whether all that has not is kept."""
        with self._changed:
            while self._kept and self._kept[0].position + len(self._kept[0].data) <= received:
                self._kept_bytes -= len(self._kept.popleft().data)
            if received < (self._kept[0].position if self._kept else self._position):
                return False
            if received > self._confirmed:
                self._peers.sent(self._host, received - self._confirmed)
                self.progressed_at = self._now()
            self._confirmed, self.trouble = max(self._confirmed, received), ""
            if is_first:
                self._unsent = deque(self._kept)
            self._changed.notify_all()
            return True

    def _requests(self, answered: threading.Event) -> Iterator[WriteMessage]:
        opened = save_pb2.WriteOpen(save=convert.save_to_wire(self._save), shard=self._shard)
        yield save_pb2.WriteRequest(open=opened)
        answered.wait()
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stream is not answered or self._closed or self._unsent or self._sums is not None
                )
                if self._stream is not answered or self._closed is not None:
                    return
                chunk = self._unsent.popleft() if self._unsent else None
                sums = self._sums
            if chunk is not None:
                yield chunk
                continue
            assert sums is not None, "it is woken by either"
            for first in range(0, max(len(sums), 1), _CRCS_PER_PART):
                part, is_last = sums[first : first + _CRCS_PER_PART], first + _CRCS_PER_PART >= len(sums)
                yield save_pb2.WriteRequest(
                    end=save_pb2.LaneEnd(first_segment=first, crcs=part.tobytes(), last=is_last)
                )
            return
