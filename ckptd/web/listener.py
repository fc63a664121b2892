"""The listener for HTTP: a thread with an event loop of its own, so that what comes there never delays a save."""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
import threading
from dataclasses import replace
from typing import Any

from uvicorn import Config, Server

from ckptd.errors import CkptdError, ConflictError, InvalidRequestError, NotPermittedError, UnavailableError
from ckptd.web.connection import HEAD_BYTES, BoundedConnection, ConnectionBounds, ConnectionCounts
from ckptd.web.tls import RenewableTls
from ckptd.wire.addresses import Address, http_url

_BACKLOG = 128
_KEPT_S = 5  # an idle connection
_START_S = 20.0
_END_S = 2.0


def bind(address: Address) -> tuple[socket.socket, Address]:
    """Take the port of an address; return its socket and the address with the real port. Nothing is answered yet.

    Raises:
        ConflictError: another program has the port.
        NotPermittedError, UnavailableError: the system does not let us listen there.
        InvalidRequestError: the host has no address.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise InvalidRequestError(f"--http {http_url(address)}: {address.host!r} has no address here") from error
    # "localhost" is called by its IPv4 address more often.
    family, kind, protocol, _, place = min(found, key=lambda each: each[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" is everything, IPv4 included, as it is for gRPC.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(place)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _refused(address, error) from error
    return listener, replace(address, port=listener.getsockname()[1])


def _refused(address: Address, error: OSError) -> CkptdError:
    where = http_url(address)
    if isinstance(error, PermissionError):
        return NotPermittedError(f"the system does not allow listening on {where}: {error.strerror}")
    if error.errno == errno.EADDRINUSE:
        return ConflictError(f"another program already listens on {where}; pass another --http")
    return UnavailableError(f"the system does not allow listening on {where}: {error.strerror}")


class Listener:
    """Answers at a socket, from `start` to `stop`."""

    def __init__(
        self,
        application: Any,
        listening: socket.socket,
        tls: RenewableTls | None = None,
        bounds: ConnectionBounds | None = None,
    ) -> None:
        """`listening` is what `bind` returned, and becomes ours."""
        self._socket = listening
        protocol: Any = functools.partial(BoundedConnection, ConnectionCounts(bounds or ConnectionBounds()))
        config = Config(
            application,
            http=protocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # what it says of strangers' requests is not worth a line of the log for each
            access_log=False,
            proxy_headers=False,  # which anyone may send
            server_header=False,
            timeout_keep_alive=_KEPT_S,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=HEAD_BYTES,
        )
        config.load()
        config.ssl = None if tls is None else tls.context
        self._server = Server(config)
        self._failed: BaseException | None = None
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ckptd-http", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()
        if not self._is_up.wait(_START_S) or self._failed is not None:
            raise UnavailableError("the listener for HTTP could not be started") from self._failed

    def stop(self) -> None:
        """Answer no more; what is being answered has a moment. Blocks; may be repeated."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(_END_S)
        self._socket.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # this thread has no caller
            self._failed = error
        finally:
            self._is_up.set()

    async def _serve(self) -> None:
        serving = asyncio.create_task(self._server.serve([self._socket]))
        while not self._server.started and not serving.done():
            await asyncio.sleep(0.001)
        self._is_up.set()
        await serving
