"""One call, as the services see it. gRPC ends here: beyond, there are messages and our own errors.

The boundary decodes, checks the peer's version, bounds the time, and turns what a service raises into a status. An
exception that is not ours is a bug: it is logged whole, and the caller is told no more than its type.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from ckptd.errors import CkptdError, UnavailableError
from ckptd.wire import status, versions
from ckptd.wire.methods import Method

_log = logging.getLogger("ckptd.service")

Behaviour = Callable[..., Awaitable[Any]]
"""``await behaviour(request, call)``, or ``behaviour(call)`` where requests are streamed; returns the reply of a method
with one reply, and writes them to the call where they are streamed."""


class Call:
    """One call under way: who is there, what comes in and what goes out. Belongs to the task that handles it."""

    def __init__(self, method: Method, context: Any, requests: AsyncIterator[bytes] | None) -> None:
        self.peer = host_of(context.peer())
        self._method = method
        self._context = context
        self._requests = requests
        self._stalled = False

    async def read(self, *, stall_s: float) -> Any | None:
        """Return the next request, None after the last; `UnavailableError` when none comes for `stall_s`."""
        assert self._requests is not None, "only streamed requests are read"
        try:
            data = await self._within(stall_s, self._requests.__anext__(), "sent")
        except StopAsyncIteration:
            return None
        return self._method.decode_request(data)

    async def write(self, message: Any, *, stall_s: float = 60.0) -> None:
        """Send a reply, a message or its bytes; `UnavailableError` when the peer takes nothing for `stall_s`."""
        await self._within(stall_s, self._context.write(self._method.encode_reply(message)), "took")

    async def _within(self, seconds: float, step: Awaitable[Any], did: str) -> Any:
        # `asyncio.wait_for` would make a task for each of thousands of messages a second.
        task = asyncio.current_task()
        assert task is not None, "services run in tasks"
        timer = asyncio.get_running_loop().call_later(seconds, self._stall, task)
        try:
            return await step
        except asyncio.CancelledError as e:
            if not self._stalled:
                raise
            raise UnavailableError(
                f"the stream was ended because the peer {did} nothing for {seconds:g} s; it may be resumed"
            ) from e
        finally:
            timer.cancel()

    def _stall(self, task: asyncio.Task[Any]) -> None:
        self._stalled = True
        task.cancel()


class Boundary:
    """Makes gRPC behaviours of services' methods.

    `limit_s` bounds every call with one request and one reply; streams end by their own rules, mostly by what moves on
    them.
    """

    def __init__(self, *, limit_s: float) -> None:
        self._limit_s = limit_s

    def around(self, method: Method, behaviour: Behaviour) -> Callable[..., Awaitable[bytes | None]]:
        """Return what gRPC calls for `method`."""
        if method.request_streaming:

            async def answer_stream(requests: AsyncIterator[bytes], context: Any) -> bytes | None:
                call = Call(method, context, requests)
                return await self._answer(method, context, lambda: behaviour(call))

            return answer_stream

        async def answer_one(data: bytes, context: Any) -> bytes | None:
            def begin() -> Awaitable[Any]:
                request = method.decode_request(data)
                # A tool without a version of its own, grpcurl say, may look around; members tell theirs.
                if "peer" in method.request_type.DESCRIPTOR.fields_by_name and (
                    method.name == "Join" or request.HasField("peer")
                ):
                    versions.check_peer(request.peer, who="client")
                return behaviour(request, Call(method, context, None))

            return await self._answer(method, context, begin)

        return answer_one

    async def _answer(self, method: Method, context: Any, begin: Callable[[], Awaitable[Any]]) -> bytes | None:
        started = time.monotonic()
        failed: status.Status | None = None
        try:
            reply = await self._bounded(method, begin())
            _report(method, context, started, "OK", logging.DEBUG)
            return None if method.reply_streaming else method.encode_reply(reply)
        except asyncio.CancelledError:
            _report(method, context, started, "CANCELLED", logging.DEBUG)
            raise
        except CkptdError as e:
            failed = status.to_wire(e)
            level = logging.WARNING if failed.code is grpc.StatusCode.INTERNAL else logging.INFO
            _report(method, context, started, failed.code.name, level, e)
        except Exception as e:
            # What gRPC raises when a peer vanishes in the middle of a write is nobody's bug.
            if context.cancelled() or context.done():
                _report(method, context, started, "CANCELLED", logging.DEBUG)
                raise asyncio.CancelledError from e
            _log.exception("a bug in ckptd: %s failed", method.path)
            failed = status.to_wire(
                CkptdError(f"a bug in the daemon, see its log: {type(e).__name__} in {method.name}")
            )
        await context.abort(failed.code, failed.details, failed.metadata)
        return None

    async def _bounded(self, method: Method, answer: Awaitable[Any]) -> Any:
        if method.request_streaming or method.reply_streaming:
            return await answer
        try:
            return await asyncio.wait_for(answer, self._limit_s)
        except asyncio.TimeoutError as e:
            raise UnavailableError(f"the daemon is busy: {method.name} took longer than {self._limit_s:g} s") from e


def host_of(peer: str) -> str:
    """Return whom limits are counted for: the host of a TCP peer without its port, all of a Unix socket together."""
    kind, _, rest = peer.partition(":")
    return f"{kind}:{rest.rpartition(':')[0]}" if kind in ("ipv4", "ipv6") else kind


def _report(
    method: Method, context: Any, started: float, code: str, level: int, error: CkptdError | None = None
) -> None:
    if not _log.isEnabledFor(level):
        return
    took_ms = (time.monotonic() - started) * 1e3
    fields = {"method": method.path, "peer": context.peer(), "code": code, "took_ms": round(took_ms, 1)}
    text = "" if error is None else f": {error}"
    _log.log(level, "%s from %s: %s%s", method.name, context.peer(), code, text, extra={"ckptd": fields})
