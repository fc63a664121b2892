"""Around every call: identity and version are checked, the time is bounded, and what a service raises becomes a status.

An exception that is not ours is a bug: it is logged whole, and the caller gets only its type.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from ckptd.engine.journal import Actor
from ckptd.engine.refusals import NotNowError
from ckptd.errors import CkptdError, NotPermittedError, UnavailableError
from ckptd.service import audited, refusal_log
from ckptd.service.calls import Behaviour, Call
from ckptd.service.door import Door
from ckptd.service.gate import refusal_of
from ckptd.service.guarded_server import is_of_a_peer_gone
from ckptd.service.meter import NO_METER, ServiceMeter
from ckptd.service.recorder import Recorder
from ckptd.service.refusal_log import host_of
from ckptd.service.subjects import Subjects
from ckptd.service.under_way import CallsUnderWay
from ckptd.wire import status, versions
from ckptd.wire.methods import Method

_log = logging.getLogger("ckptd.service")


class Boundary:
    """Makes gRPC behaviours of services' methods.

    `limit_s` bounds every call with one request and one reply; streams end by their own rules, mostly by what moves on
    them. `meter` is told of each call.
    """

    def __init__(
        self,
        door: Door,
        recorder: Recorder,
        subjects: Subjects,
        under_way: CallsUnderWay,
        *,
        limit_s: float,
        meter: ServiceMeter = NO_METER,
    ) -> None:
        self._door, self._under_way, self._meter = door, under_way, meter
        self._recorder, self._subjects = recorder, subjects
        self._limit_s = limit_s

    def around(self, method: Method, behaviour: Behaviour) -> Callable[..., Awaitable[bytes | None]]:
        """Return what gRPC calls for `method`."""
        if method.request_streaming:

            async def answer_stream(_requests: Any, context: Any) -> bytes | None:
                return await self._answer(method, context, behaviour)

            return answer_stream

        async def answer_one(data: bytes, context: Any) -> bytes | None:
            def begin(call: Call) -> Awaitable[Any]:
                request = call.decode(data)
                # A tool without a version of its own, grpcurl say, may look around; members tell theirs.
                if "peer" in method.request_type.DESCRIPTOR.fields_by_name and (
                    method.name == "Join" or request.HasField("peer")
                ):
                    versions.check_peer(request.peer, role="client")
                if method.reply_streaming:
                    return behaviour(request, call)
                return self._recorded(method, behaviour, request, call)

            return await self._answer(method, context, begin)

        return answer_one

    async def _recorded(self, method: Method, behaviour: Behaviour, request: Any, call: Call) -> Any:
        await call.pay()
        entry = audited.entry_of(method, request, call.actor)
        if entry is not None and not self._recorder.is_deaf:
            entry = await self._subjects.found(entry, method, request)
        async with self._recorder.recorded(entry) as recorded:
            reply = await behaviour(request, call)
            if recorded is not None:
                await recorded.done(**audited.result_of(method, reply))
            return reply

    async def _answer(self, method: Method, context: Any, begin: Callable[[Call], Awaitable[Any]]) -> bytes | None:
        started = time.monotonic()
        self._meter.call_began(method.path[1:])
        call: Call | None = None
        failed: status.Status | None = None
        try:
            call = Call(method, context, await self._door.caller(context), self._door)
            self._door.check_rate(call.caller, context.peer())
            with self._door.inside(call.caller, context.peer()), self._under_way.noted(call):
                reply = await self._bounded(method, begin, call)
            self._report(method, context, call, started, "OK", logging.DEBUG)
            return None if method.reply_streaming else method.encode_reply(reply)
        except asyncio.CancelledError:
            self._report(method, context, call, started, "CANCELLED", logging.DEBUG)
            raise
        except CkptdError as e:
            if isinstance(e, NotPermittedError) and call is not None and call.is_revoked:
                self._recorder.revoked(method.name, call.actor, call.run, str(e), step=call.step)
            elif isinstance(e, NotPermittedError):
                actor = Actor("", host_of(context.peer())) if call is None else call.actor
                run = "" if call is None else call.run
                step = None if call is None else call.step
                self._recorder.refused(context.peer(), method.name, actor, run, str(e), step=step)
            is_answer = isinstance(e, UnavailableError) and not isinstance(e, NotNowError)
            failed = refusal_of(e, is_answer=is_answer)
            level = logging.WARNING if failed.code is grpc.StatusCode.INTERNAL else logging.INFO
            self._report(method, context, call, started, failed.code.name, level, e)
        except Exception as e:
            if is_of_a_peer_gone(e) or context.cancelled() or context.done():
                self._report(method, context, call, started, "CANCELLED", logging.DEBUG)
                raise asyncio.CancelledError from e
            refusal_log.log.bug(context.peer(), f"a bug in ckptd: {method.path} failed")
            self._meter.call_ended(method.path[1:], grpc.StatusCode.INTERNAL.name, time.monotonic() - started)
            failed = status.to_wire(
                CkptdError(f"a bug in the daemon, see its log: {type(e).__name__} in {method.name}")
            )
        finally:
            if call is not None:
                call.close()
        try:
            await context.abort(failed.code, failed.details, failed.metadata)
        except Exception as e:
            if is_of_a_peer_gone(e):
                raise asyncio.CancelledError from e
            raise
        return None

    async def _bounded(self, method: Method, begin: Callable[[Call], Awaitable[Any]], call: Call) -> Any:
        answer = begin(call)
        if method.request_streaming or method.reply_streaming:
            return await answer
        try:
            return await asyncio.wait_for(answer, self._limit_s)
        except asyncio.TimeoutError as e:
            raise NotNowError(f"the daemon is busy: {method.name} took longer than {self._limit_s:g} s") from e

    def _report(
        self,
        method: Method,
        context: Any,
        call: Call | None,
        started: float,
        code: str,
        level: int,
        error: CkptdError | None = None,
    ) -> None:
        took_s = time.monotonic() - started
        self._meter.call_ended(method.path[1:], code, took_s)
        identity = "" if call is None else str(call.caller)
        peer = context.peer()
        fields = {
            "method": method.path,
            "peer": peer,
            "identity": identity,
            "code": code,
            "took_ms": round(took_s * 1e3, 1),
        }
        said = f"{method.name} {f'by {identity} ' if identity else ''}from {peer}: {code}"
        if error is None:
            _log.log(level, "%s", said, extra={"ckptd": fields})
            return
        if level is logging.INFO and refusal_log.log.is_repeated(f"{method.name} {code} {error}"):
            level = logging.DEBUG  # a client that waits for its turn calls every two seconds
        if _log.isEnabledFor(level):
            refusal_log.log.refused(context.peer(), f"{said}: {error}", fields, level=level)
