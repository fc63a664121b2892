"""A process that takes workers' streams for the daemon that started it: ``python -m ckptd.daemon.stream_process FD``.

What gRPC does for a message, and Python for gRPC, takes one process a core soon, and others stay idle. So this one does
nothing else: it hands every message on as it came, over a Unix socket of the call's own, and brings the replies back.
Which clients may call, what a message means and where its bytes go: the daemon decides. It ends with the daemon.

Its server has threads: a stream needs two, for either direction, and streams are few.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.rpc import status_pb2

from ckptd.daemon.allocator import keep_freed_memory
from ckptd.engine.priority import Priority
from ckptd.service.certificates import Certificates
from ckptd.service.connections import AUTHORITY_GONE, Connections
from ckptd.service.descriptors import open_files
from ckptd.service.peer_sockets import Endpoints
from ckptd.service.refusal_log import network_of
from ckptd.wire import channels, frames, methods, proxied, status
from ckptd.wire.addresses import Address
from ckptd.wire.server_tls import Tls

_BIND_ATTEMPTS = 8
_GONE = "the daemon behind this stream process is gone"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Doorman:
    """Hands calls to the daemon, and brings back what it answers."""

    def __init__(self, control: socket.socket) -> None:
        """`control` leads to the daemon."""
        self.connections: Connections | None = None  # once it is known where they come
        self._control = control
        self._turn = threading.Lock()

    def behaviour(self, method: methods.Method) -> Any:
        """Return what gRPC calls for `method`, whose requests are streamed."""

        def answer(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            try:
                opened = self._open(method, context)
            except OSError:
                context.abort(grpc.StatusCode.UNAVAILABLE, _GONE)
            with opened as call:
                # Each direction closes its own end, and when one ends, for whatever reason, so does the other.
                forward = threading.Thread(target=_forward, args=(requests, call.dup()), daemon=True)
                forward.start()
                try:
                    if context.add_callback(lambda: _hang_up(call)):
                        yield from self._replies(call, context)
                finally:
                    _hang_up(call)

        return answer

    def _replies(self, call: socket.socket, context: Any) -> Iterator[bytes]:
        while True:
            try:
                kind, payload = proxied.receive(call)
            except OSError:
                context.abort(grpc.StatusCode.UNAVAILABLE, _GONE)
            if kind == proxied.END:
                break
            if kind == proxied.MESSAGE:
                yield bytes(payload)
            elif self.connections is not None:
                self.connections.note(context.peer(), network_of(context.peer()))
        if len(payload):
            outcome = status_pb2.Status.FromString(bytes(payload))
            context.set_trailing_metadata(((status.DETAILS_KEY, bytes(payload)),))
            context.abort(_CODES.get(outcome.code, grpc.StatusCode.UNKNOWN), outcome.message)

    def watch(self, ports: Endpoints) -> None:
        """Close what is more than a host's share of the connections to `ports`, or does not bring a call in time."""
        self.connections = Connections(ports, allowed=open_files(), tell=self._tell)
        self.connections.start()

    def _tell(self, host: str, said: str, number: int) -> None:
        with contextlib.suppress(OSError), self._turn:
            frames.send_frame(self._control, proxied.to_json(proxied.Closed(host, said, number)))

    def _open(self, method: methods.Method, context: Any) -> socket.socket:
        shown = dict(context.invocation_metadata()).get(channels.TOKEN_KEY)
        certificate = {key: [_text(value) for value in values] for key, values in context.auth_context().items()}
        opening = proxied.Opening(method.path, context.peer(), None if shown is None else _text(shown), certificate)
        ours, theirs = socket.socketpair()
        with theirs, self._turn:
            frames.send_frame(self._control, proxied.to_json(opening), [theirs.fileno()])
        return ours


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _forward(requests: Iterator[bytes], call: socket.socket) -> None:
    with call:
        try:
            for request in requests:
                proxied.send(call, proxied.MESSAGE, request)
            proxied.send(call, proxied.END)
        except Exception:  # one of the ends is gone; gRPC says so by an exception without a class
            _hang_up(call)


def _hang_up(call: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        call.shutdown(socket.SHUT_RDWR)


def listen(
    setup: proxied.Setup, certificates: Certificates | None, handler: grpc.GenericRpcHandler[Any, Any]
) -> tuple[grpc.Server | None, int]:
    """Start a server on the same port of every host; return it and the port, None if the system does not let us."""
    for _ in range(1 if setup.port else _BIND_ATTEMPTS):
        server = grpc.server(
            ThreadPoolExecutor(setup.max_streams, thread_name_prefix="ckptd-replies"),
            handlers=[handler],
            options=channels.server_options(setup.life),
            maximum_concurrent_rpcs=2 * setup.max_streams,
            compression=grpc.Compression.NoCompression,
        )
        port = setup.port
        try:
            for host, is_secure in setup.hosts:
                target = Address(host, port).target
                if is_secure:
                    assert certificates is not None, "the daemon listens with TLS only if it has some"
                    port = server.add_secure_port(target, certificates.credentials())
                else:
                    port = server.add_insecure_port(target)
        except RuntimeError:
            server.stop(None)
            continue  # a port that is free on one host may be taken on the next
        server.start()
        return server, port
    return None, 0


def _tls(setup: proxied.Setup) -> Tls | None:
    if not setup.certificate:
        return None
    certificate, key, client_ca = (each.encode("latin-1") for each in (setup.certificate, setup.key, setup.client_ca))
    return Tls(certificate, key, client_ca or None)


def _renew_until_the_end(
    control: socket.socket, certificates: Certificates | None, connections: Connections | None
) -> None:
    """Take the daemon's new certificates, until it closes its end."""
    while (frame := frames.receive_frame(control)) is not None:
        tls = _tls(proxied.setup_from_json(frame[0]))
        if certificates is not None and tls is not None and certificates.renew(tls) and connections is not None:
            connections.close_all(AUTHORITY_GONE)


def main(descriptor: int) -> None:
    """Serve until the daemon closes its end, or dies."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the daemon, which lets saves under way finish
    keep_freed_memory()
    gc.freeze()
    with socket.socket(fileno=descriptor) as control:
        frame = frames.receive_frame(control)
        if frame is None:
            return
        setup = proxied.setup_from_json(frame[0])
        Priority(setup.nice, setup.io_class).apply()  # of all threads that are made from now on
        doorman = Doorman(control)
        handlers = methods.handlers((methods.SAVE["Write"],), doorman.behaviour)
        tls = _tls(setup)
        certificates = None if tls is None else Certificates(tls)
        server, port = listen(setup, certificates, grpc.method_handlers_generic_handler(*handlers))
        with contextlib.suppress(OSError):
            frames.send_frame(control, proxied.to_json(proxied.Ready(port)))
            if port:
                doorman.watch(Endpoints.of([Address(host, port, secure=is_secure) for host, is_secure in setup.hosts]))
            _renew_until_the_end(control, certificates, doorman.connections)
        if server is not None:
            server.stop(None).wait()


if __name__ == "__main__":
    main(int(sys.argv[1]))
