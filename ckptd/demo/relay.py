"""A slow network that can be stopped: bytes pass through until it is told to hold them back.

The demo puts it between the daemon and the worker that will die, so that the worker's death lands in the middle of
a save each time, and not only when the scheduler feels like it.
"""

from __future__ import annotations

import contextlib
import socket
import threading

_READ_BYTES = 1 << 16


class Relay:
    """Forwards connections from a port of its own to the daemon's; loopback only.

    Thread-safe. `hold_after` may be called once; from then on that many more bytes reach the daemon, and no others.
    """

    def __init__(self, daemon: tuple[str, int]) -> None:
        self._daemon = daemon
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._allowance: int | None = None
        self._closed = threading.Event()
        self.holding = threading.Event()
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    @property
    def address(self) -> str:
        """Where to connect, as `grpc://host:port`."""
        host, port = self._listener.getsockname()
        return f"grpc://{host}:{port}"

    def hold_after(self, size_bytes: int) -> None:
        """Let `size_bytes` more through to the daemon, then hold back what follows; `holding` is set by then."""
        with self._lock:
            self._allowance = size_bytes

    def close(self) -> None:
        """Hang up on both sides, dropping what is held back."""
        self._closed.set()
        self._listener.close()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._daemon, timeout=10)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            for source, sink, limited in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._forward, args=(source, sink, limited), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, limited: bool) -> None:
        try:
            while data := source.recv(_READ_BYTES):
                passing = self._admit(len(data)) if limited else len(data)
                sink.sendall(data[:passing])
                if passing < len(data):
                    self.holding.set()
                    self._closed.wait()
                    return
        except OSError:
            pass  # Either end died: the finally below closes the other one.
        finally:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _admit(self, size_bytes: int) -> int:
        with self._lock:
            if self._allowance is None:
                return size_bytes
            passing = min(size_bytes, self._allowance)
            self._allowance -= passing
            return passing
