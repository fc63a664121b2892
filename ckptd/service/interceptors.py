"""What happens to calls of services that are not ours, health and reflection.

They need an identity, and no right; but the health of one run needs the right to read it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import grpc
from grpc import aio

from ckptd.access.roles import Right
from ckptd.errors import CkptdError
from ckptd.service import refusal_log, requirements
from ckptd.service.door import Door
from ckptd.service.gate import refusal_of
from ckptd.service.requirements import Requirement
from ckptd.wire import methods

_ALL_HEALTH = "/grpc.health.v1.Health/List"


class IdentityNeeded(aio.ServerInterceptor):  # type: ignore[type-arg]  # generic only in the stubs
    """Lets calls pass that show an identity. Those of our own services are checked where they are decoded."""

    def __init__(self, door: Door) -> None:
        self._gate, self._door = door.gate, door

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Answer a call without an identity UNAUTHENTICATED, before it reads anything streamed."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if method in requirements.ROWS:
            return handler
        return self._unknown(method) if handler is None else self._checked(method, handler)

    def _unknown(self, method: str) -> Any:
        async def refuse(_requests: Any, context: Any) -> None:
            await self._check(method, context)
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")

        # Of this kind whatever the method would be: then it reads no request.
        return grpc.stream_stream_rpc_method_handler(refuse)

    def _checked(self, method: str, handler: Any) -> Any:
        kinds: dict[tuple[bool, bool], tuple[Any, Any]] = {
            (False, False): (handler.unary_unary, grpc.unary_unary_rpc_method_handler),
            (False, True): (handler.unary_stream, grpc.unary_stream_rpc_method_handler),
            (True, False): (handler.stream_unary, grpc.stream_unary_rpc_method_handler),
            (True, True): (handler.stream_stream, grpc.stream_stream_rpc_method_handler),
        }
        answer, make = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]

        lasts = handler.request_streaming or handler.response_streaming  # else it is answered in any case: liveness

        async def checked(request: Any, context: Any) -> Any:
            with ExitStack() as held:
                await self._check(method, context, request, held if lasts else None)
                return await answer(request, context)

        async def checked_stream(request: Any, context: Any) -> Any:
            with ExitStack() as held:
                await self._check(method, context, request, held if lasts else None)
                async for reply in answer(request, context):
                    yield reply

        behaviour = checked_stream if inspect.isasyncgenfunction(answer) else checked
        return make(behaviour, handler.request_deserializer, handler.response_serializer)

    async def _check(self, method: str, context: Any, request: Any = None, held: ExitStack | None = None) -> None:
        try:
            caller = await self._door.caller(context)
            service = getattr(request, "service", "")  # of a question about health
            if method == _ALL_HEALTH:  # with the names of runs; gRPC's servicer for asyncio does not answer it yet
                self._gate.check(caller, Requirement(Right.ADMIN, None))
            if service.startswith(methods.RUN_HEALTH):
                self._gate.check(caller, Requirement(Right.READ, service.removeprefix(methods.RUN_HEALTH)))
            if held is not None:
                held.enter_context(self._door.inside(caller, context.peer()))
        except CkptdError as error:
            refused = refusal_of(error)
            fields = {"method": method, "peer": context.peer(), "code": refused.code.name}
            refusal_log.log.refused(context.peer(), f"{method} from {context.peer()} refused: {error}", fields)
            await context.abort(refused.code, refused.details, refused.metadata)
