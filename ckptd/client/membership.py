"""Being a member of a run: a Join call that is kept alive, and made again after a break.

The daemon takes the end of the call for the loss of this process, after a lease; so the call lives in a thread of its
own as long as the process does, and comes back with the same incarnation when the network or the daemon was away.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import Any

import grpc

from ckptd.client.deadline import Backoff, Deadline
from ckptd.engine.identity import Member, RunOptions
from ckptd.errors import CkptdError, ConflictError, UnavailableError
from ckptd.wire import convert, status, versions
from ckptd.wire.v1 import common_pb2, save_pb2

FIRST_CONFLICT_WAIT_S = 15.0
"""How long a place that is taken is asked for: longer than a daemon's usual lease, of which we know nothing yet."""

_LONGEST_PAUSE_S = 0.5  # whoever waits for a lease to pass is a trainer that stands still
_LEAVE_TIMEOUT_S = 5.0
_FOREVER_S = 10.0 * 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the daemon said when this process joined."""

    epoch: int
    lease_s: float
    root: str
    root_id: str
    arena: common_pb2.ArenaAddress | None = None  # where memory is lent to this host


class Membership:
    """Joins a run in a thread of its own. The thread starts with the first `welcome`.

    A daemon may still count our place as taken: by the process that we replace, until its lease has passed. Refusals of
    that kind are retried for a while, and become final after that.
    """

    def __init__(
        self,
        stub: Any,
        address: str,
        run: str,
        member: Member,
        options: RunOptions,
        peer: common_pb2.Peer,
    ) -> None:
        self._stub = stub
        self._address = address
        self._run = run
        self._member = member
        self._options = options
        self._peer = peer
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._call: Any = None
        self._is_closing = threading.Event()
        self._welcome: Welcome | None = None
        self._latest: Welcome | None = None  # also while the connection is broken: its lease may still hold
        self._fatal: CkptdError | None = None
        self._last_error: CkptdError | None = None

    def welcome(self, deadline: Deadline) -> Welcome:
        """Wait until this process is a member, and return what the daemon said.

        Raises:
            ConflictError: another one has our place, or has fenced us off.
            UnavailableError: no daemon answered until the deadline.
        """
        with self._changed:
            if self._thread is None and not self._is_closing.is_set():
                self._thread = threading.Thread(target=self._run_forever, name="ckptd-member", daemon=True)
                self._thread.start()
            self._changed.wait_for(
                lambda: self._welcome or self._fatal or self._is_closing.is_set(), deadline.remaining_s
            )
            if self._fatal is not None:
                error = self._fatal
                if not isinstance(error, ConflictError):
                    # An operator may put it right. Who was fenced off stays so, whatever becomes of the other.
                    self._fatal = self._thread = None
                raise error
            if self._is_closing.is_set():
                raise UnavailableError("the Checkpointer was closed")
            if self._welcome is not None:
                return self._welcome
            raise self._last_error or UnavailableError(
                f"the daemon at {self._address} has not answered within {deadline.timeout_s:g} s"
            )

    def is_newer_than(self, epoch: int, wait_s: float) -> bool:
        """Wait a moment for a membership of another epoch than `epoch`; say whether it has come."""
        with self._changed:
            return bool(
                self._changed.wait_for(lambda: self._welcome is not None and self._welcome.epoch != epoch, wait_s)
            )

    def close(self) -> None:
        """Leave the run: the lease ends at once. Never raises."""
        self._is_closing.set()
        with self._changed:
            call, thread, latest = self._call, self._thread, self._latest
            self._changed.notify_all()
        if latest is not None:
            request = save_pb2.LeaveRequest(peer=self._peer, run=self._run, rank=self._member.rank, epoch=latest.epoch)
            with contextlib.suppress(grpc.RpcError):  # then the lease ends by itself
                self._stub.Leave(request, timeout=_LEAVE_TIMEOUT_S)
        if call is not None:
            call.cancel()
        if thread is not None:
            thread.join(_LEAVE_TIMEOUT_S)

    def _run_forever(self) -> None:
        backoff = Backoff(_LONGEST_PAUSE_S)
        forever = Deadline(_FOREVER_S)
        conflict_deadline: Deadline | None = None
        while not self._is_closing.is_set():
            error = self._join_once()
            if self._is_closing.is_set():
                return
            with self._changed:
                if self._welcome is not None:
                    # The connection held for a while: begin again with short pauses, for the lease is running.
                    backoff, conflict_deadline = Backoff(_LONGEST_PAUSE_S), None
                self._welcome = None
                self._last_error = error
                if isinstance(error, ConflictError):
                    wait_s = self._latest.lease_s if self._latest else FIRST_CONFLICT_WAIT_S
                    conflict_deadline = conflict_deadline or Deadline(wait_s)
                    is_final = conflict_deadline.has_passed
                else:
                    is_final = not error.retryable
                if is_final:
                    self._fatal = error
                    self._changed.notify_all()
                    return
            self._is_closing.wait(backoff.next_s(forever))

    def _join_once(self) -> CkptdError:
        """Join and stay joined; return why that ended."""
        request = convert.join_to_wire(self._peer, self._run, self._member, self._options)
        try:
            call = self._stub.Join(request, wait_for_ready=False)
            with self._changed:
                self._call = call
            for event in call:
                if event.HasField("welcome"):
                    self._take(event.welcome)
        except grpc.RpcError as error:
            return status.from_wire(error, address=self._address)
        except CkptdError as error:
            return error
        return UnavailableError(f"the daemon at {self._address} ended the connection")

    def _take(self, message: save_pb2.Welcome) -> None:
        versions.check_peer(message.peer, who="daemon")
        arena = message.arena if message.HasField("arena") else None
        welcome = Welcome(message.epoch, message.lease_s, message.root, message.root_id, arena)
        with self._changed:
            self._welcome = self._latest = welcome
            self._changed.notify_all()
