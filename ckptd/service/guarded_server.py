"""gRPC's server for asyncio, made so that no call can end it.

As of 1.85 its loop that takes calls decodes the path of those that belong to no registered method. A path that is no
UTF-8 ends the loop, and with it the server: one request, before any identity is checked, and no worker can save until
the daemon is started again. Here every method is registered, so that only unknown ones take that way, and these are
answered without looking at their path. Versions of gRPC that have no such way do not need it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import grpc
from grpc import aio
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # it has no types

UNKNOWN = "an unknown method"
"""How interceptors get a call whose method does not exist."""

_CALL = "_schedule_rpc_coro"  # of gRPC: the outermost coroutine of a call; it awaits all others
_SETTLE_S = 5.0  # for tasks that have nothing left to do but to end

_is_needed = hasattr(cygrpc.AioServer, "_make_request_call_future") and hasattr(cygrpc, "_schedule_rpc_coro")


def server(interceptors: Sequence[aio.ServerInterceptor[Any, Any]], options: Sequence[tuple[str, Any]]) -> aio.Server:
    """Return a server without compression. Handlers are added by `add`, or by what protoc generates."""

    def made() -> aio.Server:
        return aio.server(interceptors=interceptors, options=options, compression=grpc.Compression.NoCompression)

    if not _is_needed:
        return made()
    plain = cygrpc.AioServer
    cygrpc.AioServer = _GuardedServer  # gRPC makes one of it when its own server is made, and offers no other way
    try:
        return made()
    finally:
        cygrpc.AioServer = plain


def add(to: aio.Server, service: str, handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
    """Add the methods of one service, registered, and in the old way for versions that register none."""
    to.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    if hasattr(to, "add_registered_method_handlers"):
        to.add_registered_method_handlers(service, handlers)


async def stop(running: aio.Server, grace_s: float) -> None:
    """End all calls, those that still run after `grace_s` by cancelling them, and wait until their tasks are over.

    gRPC itself does not wait: it tells each call to end, and returns. A loop that ends at that moment cancels the rest,
    and gRPC writes a traceback into the log for each.
    """
    await running.stop(grace_s)
    calls = [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__name__", "") == _CALL]
    if calls:
        await asyncio.wait(calls, timeout=_SETTLE_S)


def is_of_a_peer_gone(error: BaseException) -> bool:
    """Whether gRPC raised this because a peer has vanished in the middle of a write, which is not a bug.

    Its call need not be cancelled yet: the broken connection may be met by the write first.
    """
    return isinstance(error, aio.InternalError)


class _NoMethods:
    """Where gRPC looks for the method of an unknown call."""

    def resolve_handler(self, _details: Any) -> None:
        """Return that there is none."""


class _GuardedServer(cygrpc.AioServer):  # type: ignore[misc]  # it has no types
    """Takes unknown calls by itself, and leaves the others to gRPC's loop."""

    def __init__(self, loop: Any, threads: Any, handlers: Any, interceptors: Iterable[Any] | None, *more: Any) -> None:
        super().__init__(loop, threads, handlers, interceptors, *more)
        self._guards = tuple(interceptors or ())
        self._under_way: set[asyncio.Task[None]] = set()

    def _make_request_call_future(self, method: bytes | None) -> Any:
        if method is not None:
            return super()._make_request_call_future(method)
        return asyncio.get_running_loop().create_task(self._take_unknown())

    async def _take_unknown(self) -> None:
        """Answer unknown calls until gRPC says, by its own exception, that there are no more."""
        loop = asyncio.get_running_loop()
        while True:
            call = await self._request_call()
            answering = cygrpc._handle_rpc(UNKNOWN, _NoMethods(), self._guards, call, loop, False)
            task = loop.create_task(cygrpc._schedule_rpc_coro(answering, call, loop, UNKNOWN))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
