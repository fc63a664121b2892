"""A call that came by a stream process, in the form in which `Call` and `Boundary` know calls."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

import grpc
from grpc import aio

from ckptd.storage.base import Buffer
from ckptd.wire import proxied, status
from ckptd.wire.channels import TOKEN_KEY

P = ParamSpec("P")
T = TypeVar("T")

END_OF_REQUESTS: Any = aio.EOF  # type: ignore[attr-defined]  # the stubs lack it
"""What a context's `read` returns after the last request, gRPC's own and this one's."""


class ProxiedContext:
    """What is used here of gRPC's context, over the socket of one call. Belongs to the task that handles it.

    A peer that is gone cancels what waits for it, as gRPC has it.
    """

    def __init__(self, connection: socket.socket, opening: proxied.Opening, threads: Executor) -> None:
        """`opening` is what the stream process saw of the caller; `threads` are where the socket is waited for."""
        self._connection = connection
        self._opening = opening
        self._threads = threads
        self._has_all = False
        self._is_over = False
        self._guard = threading.Lock()
        self._steps: set[Future[Any]] = set()  # under way on the socket
        self._is_closed = False

    def peer(self) -> str:
        """Return the caller, as gRPC names it."""
        return self._opening.peer

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """Return the metadata of the call, as far as it shows an identity."""
        shown = self._opening.authorization
        return () if shown is None else ((TOKEN_KEY, shown),)

    def auth_context(self) -> Mapping[str, Sequence[str]]:
        """Return what the TLS handshake said of the caller, as gRPC has it."""
        return self._opening.certificate

    async def is_known(self) -> None:
        """Say that the caller has shown an identity: its connection may stay."""
        await self._elsewhere(proxied.send, self._connection, proxied.KNOWN)

    async def read(self) -> Any:
        """Return the next request's bytes, or `END_OF_REQUESTS`."""
        if not self._has_all:
            kind, payload = await self._elsewhere(proxied.receive, self._connection)
            if kind == proxied.MESSAGE:
                return payload
            self._has_all = True
        return END_OF_REQUESTS

    async def write(self, message: bytes) -> None:
        """Send a reply."""
        await self._elsewhere(proxied.send, self._connection, proxied.MESSAGE, message)

    async def abort(self, code: grpc.StatusCode, details: str, metadata: Iterable[tuple[str, bytes]]) -> None:
        """End the call with the status that `metadata` carries whole."""
        await self._finish(dict(metadata)[status.DETAILS_KEY])

    async def finish(self) -> None:
        """End the call well, unless it has ended."""
        await self._finish(b"")

    async def _finish(self, outcome: Buffer) -> None:
        if not self._is_over:
            self._is_over = True
            await self._elsewhere(proxied.send, self._connection, proxied.END, outcome)

    def cancelled(self) -> bool:
        """Return False: a caller that is gone makes the call `done`."""
        return False

    def done(self) -> bool:
        """Whether the call has an outcome."""
        return self._is_over

    def close(self) -> None:
        """Hang up. The thread at the socket closes it: its number may be another's the moment it is free."""
        with contextlib.suppress(OSError):  # the other end did
            self._connection.shutdown(socket.SHUT_RDWR)
        with self._guard:
            self._is_closed = True
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        with self._guard:
            is_unused = self._is_closed and not self._steps
        if is_unused:
            self._connection.close()

    def _ended(self, step: Future[Any]) -> None:
        with self._guard:
            self._steps.discard(step)
        self._close_if_unused()

    async def _elsewhere(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        under_way = self._threads.submit(step, *args, **kwargs)
        with self._guard:
            self._steps.add(under_way)
        under_way.add_done_callback(self._ended)
        try:
            return await asyncio.wrap_future(under_way)
        except OSError as error:
            self._is_over = True
            raise asyncio.CancelledError from error
