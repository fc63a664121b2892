"""Being a member of a run: a Join call that is kept alive, and made again after a break.

The daemon treats the end of the call as the loss of this process, after a lease. So the call runs in a thread of its
own as long as the process does, and is made again with the same incarnation after the network or the daemon was away.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

import grpc

from ckptd.client.daemon.contact import FirstContact
from ckptd.client.deadline import Backoff, Deadline
from ckptd.engine.identity import Member, RunOptions
from ckptd.errors import (
    CkptdError,
    ConflictError,
    EvictedError,
    InvalidRequestError,
    SessionAbortedError,
    UnavailableError,
    VersionMismatchError,
)
from ckptd.wire import addresses, convert, last_word, status, versions
from ckptd.wire.v1 import common_pb2, save_pb2

FIRST_CONFLICT_WAIT_S = 20.0
"""How long to wait for a place that is taken: longer than the usual lease of a daemon, and of a host's agent (15 s),
which we do not know yet."""

_LONGEST_PAUSE_S = 0.5  # for a daemon that was away: training waits meanwhile
_LONGEST_CONFLICT_PAUSE_S = 2.0  # for a lease to pass, which takes longer
_JUST_AFTER_S, _GRACE_S = 0.05, 1.0  # after a place is free: to try, and to go on trying
_CONFLICT_NOTICE_S = (1.0, 10.0)  # after so long the user is told, and again so often
STORE_WAIT_S = 5.0
"""How long a daemon that answers, but can't take us in because its store or its host fails, is tried again."""

_FINAL = VersionMismatchError, EvictedError
"""Conflicts that time does not end: no other process gives its place up."""

_LEAVE_TIMEOUT_S = 5.0
_FOREVER_S = 10.0 * 365 * 24 * 3600


_log = logging.getLogger("ckptd.client")


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the daemon said when this process joined."""

    epoch: int
    lease_s: float
    root: str
    root_id: str
    arena: common_pb2.ArenaAddress | None = None  # where memory is lent to this host
    awaits_plans: bool = False  # what was declared over shared memory need not be declared again


class JoinCall:
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
        contact: FirstContact | None = None,
    ) -> None:
        self._stub = stub
        self._address = address
        self._run = run
        self._member = member
        self._options = options
        self._peer = peer
        self._contact = contact or FirstContact(addresses.parse(address))
        self._lock = threading.RLock()  # entered itself, as in `Completion`
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._call: Any = None
        self._is_closing = threading.Event()
        self._welcome: Welcome | None = None
        self._latest: Welcome | None = None  # also while the connection is broken: its lease may still hold
        self._fatal: CkptdError | None = None
        self._is_refused = False
        self._last_error: CkptdError | None = None

    @property
    def is_refused(self) -> bool:
        """Whether the daemon has refused us the place for good: another one has it, or the job has other options."""
        return self._is_refused

    def welcome(self, deadline: Deadline) -> Welcome:
        """Wait until this process is a member, and return what the daemon said.

        Raises:
            ConflictError: another one has our place, or has fenced us off.
            UnavailableError: no daemon answered until the deadline.
        """
        deadline = self._contact.bounded(deadline)
        with self._lock:
            if self._thread is None and not self._is_closing.is_set():
                self._thread = threading.Thread(target=self._run_forever, name="ckptd-member", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError as cause:
                    self._thread = None
                    raise UnavailableError(f"no thread could be started: {cause}") from cause
            while not (self._welcome or self._fatal or self._is_closing.is_set() or deadline.has_passed):
                self._changed.wait(deadline.remaining_s)
            if self._fatal is not None:
                error = self._fatal
                if not isinstance(error, ConflictError):
                    # An operator may put it right. What was fenced off stays so, whatever happens to the other.
                    self._fatal = self._thread = None
                raise error
            if self._is_closing.is_set():
                raise UnavailableError("the Checkpointer was closed")
            if self._welcome is not None:
                return self._welcome
            if self._last_error is not None:
                raise self._contact.given_up(self._last_error, deadline)
            raise UnavailableError(f"the daemon at {self._address} has not answered within {deadline.timeout_s:g} s")

    def is_newer_than(self, epoch: int, wait_s: float) -> bool:
        """Wait a moment for a membership of another epoch than `epoch`; say whether it has come."""
        with self._lock:
            return bool(
                self._changed.wait_for(lambda: self._welcome is not None and self._welcome.epoch != epoch, wait_s)
            )

    def close(self) -> None:
        """Leave the run: the lease ends at once. Never raises."""
        self._is_closing.set()
        with self._lock:
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
        backoff, conflict = Backoff(_LONGEST_PAUSE_S), _Conflict()
        forever = Deadline(_FOREVER_S)
        answer_deadline: Deadline | None = None
        while not self._is_closing.is_set():
            error = self._join_once()
            if self._is_closing.is_set():
                return
            with self._lock:
                if self._welcome is not None:
                    # The connection held for a while: begin again with short pauses, as the lease runs out.
                    backoff, conflict, answer_deadline = Backoff(_LONGEST_PAUSE_S), _Conflict(), None
                self._welcome = None
                self._last_error = error
                is_conflict = isinstance(error, ConflictError) and not isinstance(error, _FINAL)
                if is_conflict:
                    conflict.go_on(error, self._latest.lease_s if self._latest else FIRST_CONFLICT_WAIT_S)
                    is_final = conflict.is_over
                elif error.retryable and error.is_answer:
                    answer_deadline = answer_deadline or Deadline(STORE_WAIT_S)
                    is_final = answer_deadline.has_passed
                else:
                    if isinstance(error, UnavailableError) and (why := last_word.read(self._contact.address)):
                        error = SessionAbortedError(
                            f"the agent at {self._address} has ended and does not come back there: {why}. Start this "
                            "process again with the address of the one that runs (CKPTD_ADDRESS)"
                        )
                    is_final = not error.retryable
                if is_final:
                    self._fatal = self._told_of_this_process(error) if is_conflict else error
                    self._is_refused = isinstance(error, ConflictError | InvalidRequestError)
                    self._changed.notify_all()
                    return
            self._is_closing.wait(conflict.pause_s() if is_conflict else backoff.next_s(forever))

    def _told_of_this_process(self, error: CkptdError) -> CkptdError:
        """Return a conflict as it is reported: those of one process share a place if they name the daemon alike."""
        if not isinstance(error, ConflictError) or error.holder != str(self._member):
            return error
        return ConflictError(
            f"the run is in use by another Checkpointer of this process, as rank {self._member.rank}, which names this "
            f"daemon otherwise than {self._address}, or has another token or CA: give both the same, or close() that "
            "one before this one is made",
            expected=error.expected,
            actual=error.actual,
        )

    def _join_once(self) -> CkptdError:
        """Join and stay joined; return why that ended."""
        request = convert.join_to_wire(self._peer, self._run, self._member, self._options)
        try:
            self._contact.check()
            call = self._stub.Join(request, wait_for_ready=False)
            with self._lock:
                self._call = call
            for event in call:
                if event.HasField("welcome"):
                    self._take(event.welcome)
        except grpc.RpcError as error:
            return self._failed(status.from_wire(error, address=self._address), of_call=True)
        except CkptdError as error:
            return self._failed(error)
        except RuntimeError as error:  # of gRPC's own
            return self._failed(UnavailableError(f"no thread could be started: {error}"))
        return UnavailableError(f"the daemon at {self._address} ended the connection")

    def _failed(self, error: CkptdError, *, of_call: bool = False) -> CkptdError:
        self._contact.failed(error, of_call=of_call)
        return error

    def _take(self, message: save_pb2.Welcome) -> None:
        self._contact.made()
        versions.check_peer(message.peer, role="daemon")
        arena = message.arena if message.HasField("arena") else None
        awaits_plans = versions.AWAIT_PLAN in message.peer.capabilities
        welcome = Welcome(message.epoch, message.lease_s, message.root, message.root_id, arena, awaits_plans)
        with self._lock:
            self._welcome = self._latest = welcome
            self._is_refused = False
            self._changed.notify_all()


class _Conflict:
    """A place that is taken, for as long as it is: how long it is tried, how often, and when the user is told."""

    def __init__(self) -> None:
        self._backoff = Backoff(_LONGEST_CONFLICT_PAUSE_S)
        self._deadline: Deadline | None = None
        self._free_in_s: float | None = None
        self._began = 0.0
        self._notice_s = _CONFLICT_NOTICE_S[0]

    @property
    def is_over(self) -> bool:
        """Whether the holder has kept its place for longer than its lease."""
        return self._deadline is not None and self._deadline.has_passed

    def pause_s(self) -> float:
        """Return how long to pause now: until the place is free, if that is known and soon."""
        assert self._deadline is not None, "a refusal came first"
        pause_s = self._backoff.next_s(self._deadline)
        return pause_s if self._free_in_s is None else min(pause_s, self._free_in_s + _JUST_AFTER_S)

    def go_on(self, error: CkptdError, wait_s: float) -> None:
        """Note one more refusal; the first begins the time of `wait_s`, which lasts until the place can be free."""
        now = time.monotonic()
        if self._deadline is None:
            self._deadline, self._began = Deadline(wait_s), now
        self._free_in_s = error.free_in_s if isinstance(error, ConflictError) else None
        if self._free_in_s is not None and self._deadline.remaining_s < self._free_in_s + _GRACE_S:
            self._deadline = Deadline(self._free_in_s + _GRACE_S)
        if now - self._began >= self._notice_s and not self.is_over:
            self._notice_s = now - self._began + _CONFLICT_NOTICE_S[1]
            free = (
                ""
                if self._free_in_s is None
                else f", as that one is gone: its place is free in {self._free_in_s:.0f} s"
            )
            _log.warning("%s; trying for %.0f s more%s", error, self._deadline.remaining_s, free)
