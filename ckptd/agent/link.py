"""An agent's connection to its coordinator: it attends, tells and hears, and passes calls of ranks on.

Where that is: `ckptd.agent.whereabouts`. A connection that breaks is made
again by the machine, which attends anew: nothing here is repeated but manifests that the coordinator may have lost.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import grpc

from ckptd.agent.other_agents import PeerStubs
from ckptd.agent.whereabouts import Whereabouts, channel_to
from ckptd.engine.hosts.messages import (
    Attached,
    Beat,
    DeclareHost,
    Fenced,
    FromAgent,
    FromCoordinator,
    Hello,
    HostDeclaration,
)
from ckptd.engine.manifest import Manifest
from ckptd.engine.refusals import NotNowError
from ckptd.errors import CkptdError, UnavailableError
from ckptd.wire import agents, methods, status
from ckptd.wire.credentials import NO_CREDENTIALS
from ckptd.wire.manifests import manifest_parts
from ckptd.wire.parts import MOST_TOLD_BYTES, Joined, in_parts
from ckptd.wire.v1 import agent_pb2

_log = logging.getLogger("ckptd.agent")

Result = TypeVar("Result")
_Requests = queue.SimpleQueue[agent_pb2.AgentMessage | None]

CALL_S = 20.0
"""How long a call that is passed on may take."""

_TELL_S, _LAST_S = 10.0, 2.0
_NOTICE_S = 30.0
_MOST_REASONS = 32


class Stubs(PeerStubs):
    """The services of one coordinator."""

    def __init__(self, address: str, channel: grpc.Channel) -> None:
        """Make no call yet."""
        super().__init__("", address, channel)
        self.agent = methods.Stub(channel, methods.AGENT)
        self.admin, self.watch = methods.Stub(channel, methods.ADMIN), methods.Stub(channel, methods.WATCH)


class AgentLink:
    """See the module. Any thread may use it."""

    def __init__(
        self,
        whereabouts: Whereabouts,
        *,
        find_manifest: Callable[[bytes], Manifest],
        prepare: Callable[[Hello], Hello] = lambda hello: hello,
        on_message: Callable[[FromCoordinator], None],
        on_broken: Callable[[], None],
    ) -> None:
        """Connect to nothing yet.

        Args:
            whereabouts: of the coordinator.
            find_manifest: returns what a rank has declared by digest.
            prepare: completes what is said first, on a thread that may wait.
            on_message: called, from a thread, with what the coordinator says.
            on_broken: called when it can say nothing any more.
        """
        self._whereabouts = whereabouts
        self._find_manifest, self._on_message, self._on_broken = find_manifest, on_message, on_broken
        self._prepare = prepare
        self._lock = threading.Lock()
        self._address, self._shown = "", NO_CREDENTIALS
        self._stubs: Stubs | None = None
        self._finding = threading.Lock()
        self._why_not = ""
        self._told_why_not: dict[str, float] = {}  # reasons, and when the log was told
        self._handed_over: set[bytes] = set()
        self._attending: Any = None
        self._heard_by: _Requests | None = None  # takes what is said by the call by which it attends
        self._numbers = itertools.count(1)
        self._number = 0
        self._outgoing: queue.SimpleQueue[FromAgent | None] = queue.SimpleQueue()
        self._teller = threading.Thread(target=self._tell_all, name="ckptd-tell", daemon=True)

    @property
    def address(self) -> str:
        """Where the coordinator is, as far as it is known; "" before that."""
        with self._lock:
            return self._address

    @property
    def why_not(self) -> str:
        """Why this agent does not attend, as far as that is no answer of its coordinator; "" while it does."""
        with self._lock:
            return self._why_not

    def start(self) -> None:
        """Begin to tell."""
        self._teller.start()

    def close(self) -> None:
        """Say nothing more."""
        with self._lock:
            attending, stubs = self._attending, self._stubs
            self._number = -1
        self._outgoing.put(None)
        self._teller.join(_TELL_S)
        if attending is not None:
            attending.cancel()
        if stubs is not None:
            stubs.channel.close()

    # What the machine says

    def find(self) -> None:
        """Look up where the coordinator is; a failure is met again by the next call."""
        with suppress(CkptdError):
            self._find()

    def _find(self) -> Stubs:
        """Connect to the coordinator as it is found now; raises why it is not."""
        with self._finding:
            try:
                address, shown = self._whereabouts.find()
                with self._lock:
                    if self._stubs is not None and (str(address), shown) == (self._address, self._shown):
                        return self._stubs
                made = Stubs(str(address), channel_to(address, shown))
            except CkptdError as error:
                self._log_once("the coordinator is not found", error)
                raise
            with self._lock:
                former, self._stubs = self._stubs, made
                self._address, self._shown = str(address), shown
                self._handed_over.clear()
        if former is not None:
            former.channel.close()
        return made

    def _log_once(self, what: str, why: CkptdError) -> None:
        """Log why the coordinator is not attended, and again only after a while: it is tried twice a second."""
        now, reason = time.monotonic(), str(why)
        with self._lock:
            self._why_not = reason
            told = self._told_why_not
            if reason in told and now - told[reason] < _NOTICE_S:
                return
            if len(told) >= _MOST_REASONS:
                told.clear()
            told[reason] = now
        _log.warning("%s: %s", what, reason)

    def say(self, message: FromAgent) -> None:
        """Tell the coordinator something, soon; it may be lost."""
        if not isinstance(message, Hello):
            self._outgoing.put(message)
            return
        with self._lock:
            if self._number < 0:
                return
            former, self._number = self._attending, next(self._numbers)
            self._heard_by = None
            number = self._number
        if former is not None:
            former.cancel()
        threading.Thread(target=self._attend, args=(message, number), name="ckptd-attend", daemon=True).start()

    def _attend(self, hello: Hello, number: int) -> None:
        requests: _Requests = queue.SimpleQueue()
        try:
            stubs = self.stubs()
            for carried in hello.saves:
                self._hand_over(stubs, carried.declaration)
            for part in in_parts(agents.from_agent_to_wire(self._prepare(hello))):
                requests.put(part)
            attending = stubs.agent.Attend(iter(requests.get, None))
            with self._lock:
                if self._number != number:
                    attending.cancel()
                    return
                self._attending = attending
            joined = Joined(agent_pb2.CoordinatorMessage, MOST_TOLD_BYTES)
            for reply in attending:
                if (whole := joined.add(reply)) is not None:
                    self._note_if_heard(whole, number, requests)
                    if isinstance(answer := self._hear(whole), Fenced):
                        self._log_once("the coordinator does not let this agent attend", NotNowError(answer.holder))
        except grpc.RpcError as error:
            ours = status.from_wire(error, address=self._address)
            with self._lock:
                is_ours = self._number == number
            if is_ours:  # else this one has hung up
                self._log_once("the coordinator does not let this agent attend", ours)
        except CkptdError as error:
            self._log_once("the coordinator cannot be attended", error)
        except Exception:  # an agent that goes on without this thread beats, and hears nothing of what it has to do
            _log.exception("a bug in ckptd: the coordinator is attended anew, as what it said was not understood")
        finally:
            requests.put(None)  # gRPC's thread waits for more
        with self._lock:
            is_ours = self._number == number
            if is_ours:
                self._heard_by = None
                self._handed_over.clear()  # what answers next may be another life
        if is_ours:
            self._on_broken()

    def _note_if_heard(self, reply: agent_pb2.CoordinatorMessage, number: int, requests: _Requests) -> None:
        """Say what there is by this call from now on, if the coordinator takes it so: an earlier version does not."""
        if reply.WhichOneof("kind") == "attached" and reply.attached.hears:
            with self._lock:
                if self._number == number:
                    self._heard_by = requests

    def _tell_all(self) -> None:
        while (message := self._outgoing.get()) is not None:
            try:
                stubs = self.stubs()
                if isinstance(message, DeclareHost):
                    self._hand_over(stubs, message.declaration)
                said = agents.from_agent_to_wire(message)
                with self._lock:
                    heard_by = self._heard_by
                if isinstance(message, Beat) and message.is_last:
                    stubs.agent.Tell(said, timeout=_LAST_S)  # the call by which it attends is cancelled now
                elif heard_by is not None:
                    heard_by.put(said)
                else:
                    self._hear(stubs.agent.Tell(said, timeout=_TELL_S))
            except grpc.RpcError as error:
                _log.debug("the coordinator was not told: %s", status.from_wire(error, address=self._address))
            except CkptdError as error:
                self._log_once("the coordinator was not told", error)
            except Exception:  # nor does it tell anything more without this one
                _log.exception("a bug in ckptd: the coordinator was not told, or its answer was not understood")

    def _hear(self, reply: Any) -> FromCoordinator:
        message = agents.from_coordinator_from_wire(reply)
        if isinstance(message, Attached):
            self._whereabouts.attended()
            with self._lock:
                self._why_not = ""
        if isinstance(message, Fenced):
            with self._lock:
                self._handed_over.clear()  # it may be another life, or has forgotten them
        self._on_message(message)
        return message

    def _hand_over(self, stubs: Stubs, said: HostDeclaration) -> None:
        for part in said.parts:
            digest = part.declaration.manifest_digest
            with self._lock:
                is_known = digest in self._handed_over
            if not is_known:
                stubs.save.PutManifest(manifest_parts(self._find_manifest(digest)), timeout=CALL_S)
                with self._lock:
                    self._handed_over.add(digest)

    # What is passed on

    def call(self, make: Callable[[Stubs, float], Result], timeout_s: float = CALL_S) -> Result:
        """Make a call to the coordinator; its errors are raised as they were there.

        Raises:
            NotNowError: it does not answer: the same call will be answered later.
        """
        stubs = self.stubs()
        try:
            return make(stubs, timeout_s)
        except grpc.RpcError as error:
            ours = status.from_wire(error, address=self._address)
            if ours.is_answer or not isinstance(ours, UnavailableError):
                raise ours from None
            raise NotNowError(f"the coordinator does not answer: {ours}") from None

    def stubs(self) -> Stubs:
        """Return the services of the coordinator; `NotNowError` while there is none."""
        with self._lock:
            stubs = self._stubs
        return stubs or self._find()
