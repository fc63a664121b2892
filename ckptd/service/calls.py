"""One call, as the services see it. gRPC ends here: beyond, there are messages and our own errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from ckptd.access.callers import Caller
from ckptd.access.policy import Policy
from ckptd.access.roles import Right
from ckptd.engine.journal import Actor
from ckptd.engine.refusals import NotNowError
from ckptd.errors import NotPermittedError
from ckptd.service import audited, requirements
from ckptd.service.door import Door
from ckptd.service.proxied_call import END_OF_REQUESTS
from ckptd.service.refusal_log import host_of, network_of
from ckptd.service.requirements import Requirement
from ckptd.wire.methods import Method

_log = logging.getLogger("ckptd.service")

T = TypeVar("T")

_NETWORKS = ("ipv4", "ipv6")

_WRITE_S = 0.5  # for a reply that is on its way when its call is ended

_CONTROL_BYTES = 4096  # shorter ones of calls that bring no data are counted, and not delayed: saves depend on them
_PACE_S = 1.0  # a delay is slept in such pieces: a policy that is replaced ends it

Behaviour = Callable[..., Awaitable[Any]]
"""``await behaviour(request, call)``, or ``behaviour(call)`` where requests are streamed; returns the reply of a method
with one reply, and writes them to the call where they are streamed."""


class Call:
    """One call in progress: the caller, what comes in and what goes out. Belongs to the task that handles it.

    Attributes:
        peer: the host that it comes from, see `host_of`.
        caller: the identity behind it.
        shares: on whose account it takes parts of budgets: the identity's at this peer, and the identity's as a whole.
        on_pause: is called while the policy's limit of bytes delays it, so that its peer is not taken for slow.
        is_revoked: whether it was ended because the caller lost the right to make it.
    """

    def __init__(self, method: Method, context: Any, caller: Caller, door: Door) -> None:
        self.peer = host_of(context.peer())
        self.caller = caller
        self.on_pause: Callable[[], None] = _nothing
        self.shares: tuple[str, ...] = (f"{caller} at {self.peer}", str(caller))
        self._door, self._gate, self._pacing = door, door.gate, door.pacing
        self._network = network_of(context.peer())
        self._unpaid_s = 0.0
        self.step: int | None = None  # that the first request names
        self._needed: Requirement | None = None
        self._method = method
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._end: Exception | None = None
        self._is_waiting = self._is_writing = False
        self.is_revoked = False
        # A timer of its own for each of thousands of messages a second would cost as much as the message: one is
        # kept, which looks at this when it fires and sets itself anew.
        self._patient_until: float | None = None
        self._waits_since = 0.0
        self._patience = (0.0, "")
        self._timer: asyncio.TimerHandle | None = None

    @property
    def run(self) -> str:
        """The run that the first request names; "" before that, or for none."""
        return "" if self._needed is None else self._needed.run or ""

    @property
    def actor(self) -> Actor:
        """The actor to record as the cause of what the call does."""
        return Actor(str(self.caller), self.peer)

    @property
    def where(self) -> str:
        """The peer as gRPC names it."""
        return str(self._context.peer())

    @property
    def is_remote(self) -> bool:
        """Whether the peer came over a network, be it this host's own."""
        return self.peer.startswith(_NETWORKS)

    async def read(self, *, stall_s: float) -> Any | None:
        """Return the next request, None after the last; `NotNowError` when none comes for `stall_s`."""
        await self.pay()
        data = await self._within(stall_s, self._context.read(), "sent")
        return None if data is END_OF_REQUESTS else self.decode(data)

    async def following(self) -> Any | None:
        """Return the next request of a call that lasts, None after the last. Another task may write meanwhile.

        Each counts as a call of its own; what comes too often is read later.
        """
        data = await self._context.read()
        if data is END_OF_REQUESTS:
            return None
        await self._door.in_turn(self.caller, self.where)
        request = self.decode(data)
        await self._pay(lambda pause: pause)
        return request

    def decode(self, data: Any) -> Any:
        """Return a request; the first one says which run the call is about, and the caller must have a right there."""
        self._count(len(data))
        request = self._method.decode_request(data)
        if self._needed is None:
            self._needed = requirements.of(self._method, request)
            self.step = audited.step_of(request)
            self.check_still()  # the first request of a stream may come long after its identity
        return request

    def check_still(self) -> None:
        """Raise as at the start of the call, by what holds now: for calls that last, before they tell more."""
        self._gate.check_known(self.caller)
        if self._needed is not None:
            self._gate.check(self.caller, self._needed)

    @property
    def policy(self) -> Policy:
        """What holds now."""
        return self._gate.access.policy

    def may(self, right: Right, run: str) -> bool:
        """Say whether the caller has another right, on any run that the call comes across."""
        return self._gate.access.policy.allows(self.caller, right, run)

    def names_inside(self, run: str) -> str:
        """Return a pattern of names inside `run` that others may save to, and the caller must not take; "" if none."""
        return self._gate.access.policy.names_inside(self.caller, run)

    def allowed(self, right: Right) -> Callable[[str], bool]:
        """Return what `may` says of one run after the other."""
        return self._gate.access.policy.allowed(self.caller, right)

    @property
    def is_admin(self) -> bool:
        """Whether the caller may do everything, on every run."""
        return self._gate.access.policy.allows_everywhere(self.caller, Right.ADMIN)

    async def write(self, message: Any, *, stall_s: float = 60.0) -> None:
        """Send a reply, a message or its bytes; `NotNowError` when the peer takes nothing for `stall_s`."""
        data = self._method.encode_reply(message)
        self._count(len(data))
        await self.pay()
        self._is_writing = True
        try:
            await self._within(stall_s, self._context.write(data), "took")
        finally:
            self._is_writing = False

    def _count(self, size_bytes: int) -> None:
        wait_s = self._pacing.moved(self.caller, self._network, size_bytes)
        if size_bytes > _CONTROL_BYTES or self._method.brings_data:
            self._unpaid_s = wait_s

    async def pay(self) -> None:
        """Wait until the caller may move more bytes. A place that it holds meanwhile can be others', as of one idle."""
        await self._pay(lambda pause: self._within(3600.0, pause, "moved"))

    async def _pay(self, waited: Callable[[Awaitable[None]], Awaitable[None]]) -> None:
        if not self._unpaid_s:
            return
        until, self._unpaid_s = self._loop.time() + self._unpaid_s, 0.0
        policy = self._pacing.policy
        while (left_s := until - self._loop.time()) > 0 and self._pacing.policy is policy:
            self.on_pause()
            await waited(asyncio.sleep(min(left_s, _PACE_S)))

    @property
    def idle_s(self) -> float:
        """How long it has waited for its peer by now."""
        return 0.0 if self._patient_until is None else self._loop.time() - self._waits_since

    def end(self, error: Exception) -> None:
        """Let the call end with `error`: what waits for the peer, now or later, raises it. On the event loop only."""
        if self._end is not None:
            return
        self._end = error
        if self._is_writing:
            # Interrupted in its first write, gRPC can tell no status any more: it has a moment to be done.
            self._be_patient(max(0.0, _WRITE_S - self.idle_s), "took")
        elif self._is_waiting and self._task is not None:
            self._task.cancel()

    def revoke(self, error: NotPermittedError) -> None:
        """End the call because its caller may make it no longer. On the event loop only."""
        if self._end is None:
            self.is_revoked = True
        self.end(error)

    async def lasts(self, step: Awaitable[T]) -> T:
        """Await what takes as long as it takes, unless the call is ended meanwhile."""
        self._is_waiting = True
        try:
            if self._end is None:
                return await step
            if isinstance(step, Coroutine):
                step.close()
            raise self._end
        except asyncio.CancelledError as e:
            if self._end is None:
                raise
            raise self._end from e
        finally:
            self._is_waiting = False

    def close(self) -> None:
        """Release the timer; the call is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _within(self, seconds: float, step: Awaitable[Any], did: str) -> Any:
        self._waits_since = self._loop.time()
        self._be_patient(seconds, did)
        try:
            return await self.lasts(step)
        finally:
            self._patient_until = None

    def _be_patient(self, seconds: float, did: str) -> None:
        until = self._loop.time() + seconds
        self._patient_until, self._patience = until, (seconds, did)
        if self._timer is not None and self._timer.when() > until:
            self.close()
        if self._timer is None:
            self._timer = self._loop.call_at(until, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._patient_until is None:
            return  # nothing waits now; the next to wait sets it
        if self._loop.time() < self._patient_until:
            self._timer = self._loop.call_at(self._patient_until, self._look)
            return
        seconds, did = self._patience
        if self._end is None:
            self._end = NotNowError(
                f"the stream was ended because the peer {did} nothing for {seconds:g} s; it may be resumed"
            )
        if self._is_waiting and self._task is not None:
            self._task.cancel()


def _nothing() -> None:
    pass
