"""What happens to every call before any service sees it, health and reflection included: authentication."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from ckptd.errors import NotPermittedError
from ckptd.service import refusal_log
from ckptd.wire import status
from ckptd.wire.channels import TOKEN_KEY, authorization


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
        if self._is_right(shown):
            return await continuation(handler_call_details)

        async def refuse(_requests: Any, context: Any) -> None:
            refused = self.refusal(str(handler_call_details.method), context.peer(), shown)
            assert refused is not None
            await context.abort(refused.code, refused.details, refused.metadata)

        # Of this kind whatever the method is, or where there is none of that name: then it reads no request.
        return grpc.stream_stream_rpc_method_handler(refuse)

    def refusal(self, method: str, peer: str, shown: str | bytes | None) -> status.Status | None:
        """Return what a call that shows this is answered with, and log it; None if it may pass."""
        if self._is_right(shown):
            return None
        said = f"{method} from {peer} refused: {'no' if shown is None else 'a wrong'} token"
        refusal_log.log.refused(peer, said, {"method": method, "peer": peer, "code": "UNAUTHENTICATED"})
        what = "shows no token" if shown is None else "shows a token that is not the daemon's"
        remedy = "pass the daemon's: token=, CKPTD_TOKEN, or --token-file of a command"
        return status.to_wire(NotPermittedError(f"the call {what}; {remedy}"), code=grpc.StatusCode.UNAUTHENTICATED)

    def _is_right(self, shown: str | bytes | None) -> bool:
        return shown is not None and hmac.compare_digest(_bytes(shown), self._expected)


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
