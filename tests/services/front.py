"""What stands in front of an S3 server: it does to requests what rules say, and remembers all of them.

It leaves the Host header as it is, so that signatures stay valid. Each request is passed on over a connection of its
own, so nothing that happens to one of them touches another.
"""

from __future__ import annotations

import http.client
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.services.exchanges import Exchange, Headers, Reply, Request, header_of, selected
from tests.services.faults import Action, HangUp, Rule

if TYPE_CHECKING:
    from typing_extensions import Self

_PIECE_BYTES = 1 << 16
_SERVER_TIMEOUT_S = 150.0
_HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "expect")
_NO_FAULT = Action()


class Front:
    """Listens on a free port of this host from the moment it is made until `close`; also a context manager."""

    def __init__(self, upstream: str) -> None:
        """Stand in front of `upstream`, a URL like ``http://127.0.0.1:9000``."""
        where = urlsplit(upstream)
        assert where.hostname, upstream
        assert where.port, upstream
        self._upstream = (where.hostname, where.port)
        self._rules: list[Rule] = []
        self._exchanges: list[Exchange] = []
        self._failures: list[BaseException] = []
        self._changed = threading.Condition()
        self._server = _Server(self)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    # What tests say

    def add(self, action: Action, operation: str = "", key: str = "", **when: Any) -> Rule:
        """Add a rule, with the arguments of `Rule`. To a request the first one that applies is applied."""
        rule = Rule(action, operation, key, **when)
        with self._changed:
            self._rules.append(rule)
        return rule

    def remove_rules(self) -> None:
        """Release what is held, and pass everything on from now on."""
        with self._changed:
            rules, self._rules = self._rules, []
        for rule in rules:
            rule.action.release()

    def forget(self) -> None:
        """Forget all exchanges so far."""
        with self._changed:
            self._exchanges.clear()

    # What tests ask

    def exchanges(
        self, operation: str = "", key: str = "", when: Callable[[Exchange], bool] | None = None
    ) -> list[Exchange]:
        """Return the exchanges since the last `forget` in the order in which they began; see `selected`."""
        with self._changed:
            return selected(self._exchanges, operation, key, when)

    def wait_for(self, count: int, operation: str = "", key: str = "", *, timeout_s: float = 30.0) -> list[Exchange]:
        """Wait until so many of these exchanges have ended, and return them."""
        with self._changed:
            ended: list[Exchange] = []

            def is_done() -> bool:
                ended[:] = selected(self._exchanges, operation, key, lambda each: each.ended_s is not None)
                return len(ended) >= count

            if not self._changed.wait_for(is_done, timeout_s):
                raise AssertionError(f"{len(ended)} of {count} {operation} {key} within {timeout_s:g} s")
            return ended

    def close(self) -> None:
        """Cut all connections. A mistake of its own is raised here."""
        self.remove_rules()
        self._server.shutdown()
        self._server.server_close()
        self._server.cut_all()
        self._thread.join(60)
        if self._failures:
            raise self._failures[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What kinds of it may change

    def outgoing(self, request: Request, body: Iterator[bytes]) -> tuple[Request, Iterator[bytes]]:
        """Return what the server is asked instead."""
        return request, body

    def incoming(self, request: Request, reply: Reply) -> Reply:
        """Return what the client is told instead."""
        return reply

    # Passing on

    def handle(self, request: Request, body: Iterator[bytes], client: Callable[[bytes], object]) -> None:
        """Bring one request to its end; `client` writes to whoever made it.

        Raises:
            HangUp: when its connection is to be cut.
        """
        exchange = Exchange(request, request.operation, request.key, time.monotonic(), query=request.query)
        exchange.range = request.header("Range")
        with self._changed:
            action = next((rule.action for rule in self._rules if rule.applies(request)), _NO_FAULT)
            exchange.fault = None if action is _NO_FAULT else action
            self._exchanges.append(exchange)
        upstream = http.client.HTTPConnection(*self._upstream, timeout=_SERVER_TIMEOUT_S)
        try:
            self._tell(client, exchange, self._obtain(exchange, action, _counted(body, exchange), upstream))
        except (OSError, http.client.HTTPException) as error:
            raise HangUp from error
        finally:
            upstream.close()
            self._end(exchange)

    def failed(self, error: BaseException) -> None:
        """Keep a mistake of our own for `close`."""
        self._failures.append(error)

    def _obtain(
        self, exchange: Exchange, action: Action, body: Iterator[bytes], upstream: http.client.HTTPConnection
    ) -> Reply:
        reply = None
        if type(action).instead is not Action.instead:
            uploaded = list(body)
            body = iter(uploaded)
            reply = action.instead(exchange.request)
        if reply is None:
            request, body = self.outgoing(exchange.request, action.upload(body))
            reply = _ask(upstream, request, body)
            exchange.server_status = reply.status
            reply = action.reply(self.incoming(exchange.request, reply))
        return reply

    def _tell(self, client: Callable[[bytes], object], exchange: Exchange, reply: Reply) -> None:
        if exchange.method == "HEAD":
            reply.body = iter(())
        left = 0 if exchange.method == "HEAD" else reply.length_bytes
        with self._changed:
            exchange.status = reply.status
        # The exchange is over before its last bytes leave, for the next request may come at once.
        if not left:
            self._end(exchange)
        client(reply.head())
        for piece in reply.body:
            exchange.received_bytes += len(piece)
            left -= len(piece)
            if left <= 0:
                self._end(exchange)
            client(piece)

    def _end(self, exchange: Exchange) -> None:
        with self._changed:
            if exchange.ended_s is None:
                exchange.ended_s = time.monotonic()
            self._changed.notify_all()


def _ask(upstream: http.client.HTTPConnection, request: Request, body: Iterator[bytes]) -> Reply:
    """Send a request, its head with the first piece of the body, and return the reply's head with its body to come."""
    first = next(body, b"")
    upstream.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
    for name, value in request.headers:
        if name.lower() not in _HOP_BY_HOP:
            upstream.putheader(name, value.encode("iso-8859-1"))
    is_chunked = "chunked" in (request.header("Transfer-Encoding") or "")
    if is_chunked:
        upstream.putheader("Transfer-Encoding", "chunked")
    upstream.endheaders()
    try:
        for piece in _before(first, body):
            upstream.send(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
        if is_chunked:
            upstream.send(b"0\r\n\r\n")
    except (BrokenPipeError, ConnectionResetError):
        pass  # it may have refused before it read everything, and said so
    answer = upstream.getresponse()
    headers: Headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP]
    length = header_of(headers, "Content-Length")
    if request.method == "HEAD":
        return Reply(answer.status, headers, iter(()), int(length or 0))
    if length is None:
        whole = answer.read()
        return Reply(answer.status, headers, iter((whole,) if whole else ()), len(whole))
    return Reply(answer.status, headers, _pieces(answer), int(length))


def _before(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from (piece for piece in rest if piece)


def _pieces(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while piece := answer.read(_PIECE_BYTES):
        yield piece


def _counted(body: Iterator[bytes], exchange: Exchange) -> Iterator[bytes]:
    for piece in body:
        exchange.sent_bytes += len(piece)
        yield piece


class _Connection(BaseHTTPRequestHandler):
    """One client's connection: reads requests off it, one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _handle_request(self) -> None:
        request = Request(self.command, self.path, list(self.headers.items()))
        body = self._body(request)
        try:
            self.server.front.handle(request, body, self.wfile.write)
            for _ in body:  # what nobody wanted to read; the next request lies behind it
                pass
        except (HangUp, OSError):
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle_request

    def _body(self, request: Request) -> Iterator[bytes]:
        if "chunked" not in (request.header("Transfer-Encoding") or ""):
            yield from self._read(int(request.header("Content-Length") or 0))
            return
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield from self._read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def _read(self, count: int) -> Iterator[bytes]:
        while count:
            piece = self.rfile.read1(min(count, _PIECE_BYTES))
            if not piece:
                raise HangUp
            count -= len(piece)
            yield piece

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, front: Front) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.front = front
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def cut_all(self) -> None:
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self.front.failed(error)
