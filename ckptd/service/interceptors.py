"""What happens to every call before any service sees it, health and reflection included: authentication."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from ckptd.errors import NotPermittedError
from ckptd.wire import status
from ckptd.wire.channels import TOKEN_KEY, authorization

_log = logging.getLogger("ckptd.service")


class Identity(aio.ServerInterceptor):  # type: ignore[type-arg]  # generic only in the stubs
    """Lets calls pass that show the daemon's bearer token. The token is never logged nor told."""

    def __init__(self, token: str) -> None:
        self._expected = authorization(token)[1].encode()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Answer a call without the right token UNAUTHENTICATED, whatever its method."""
        metadata: Any = handler_call_details.invocation_metadata or ()
        shown = next((value for key, value in metadata if key == TOKEN_KEY), None)
        refused = self.refusal(str(handler_call_details.method), shown)
        handler = await continuation(handler_call_details)
        return handler if refused is None else _refusing(handler, refused)

    def refusal(self, method: str, shown: str | bytes | None) -> status.Status | None:
        """Return what a call that shows this is answered with; None if it may pass."""
        if shown is not None and hmac.compare_digest(_bytes(shown), self._expected):
            return None
        _log.info("%s refused: %s token", method, "no" if shown is None else "a wrong")
        what = "shows no token" if shown is None else "shows a token that is not the daemon's"
        remedy = "pass the daemon's: token=, CKPTD_TOKEN, or --token-file of a command"
        return status.to_wire(NotPermittedError(f"the call {what}; {remedy}"), code=grpc.StatusCode.UNAUTHENTICATED)


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _refusing(handler: Any, refused: status.Status) -> Any:
    """Return a handler of the same kind that refuses before it reads anything streamed."""
    if handler is None:
        return None

    async def refuse(_request: Any, context: Any) -> None:
        await context.abort(refused.code, refused.details, refused.metadata)

    kinds: dict[tuple[bool, bool], Any] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    return kinds[bool(handler.request_streaming), bool(handler.response_streaming)](refuse)
