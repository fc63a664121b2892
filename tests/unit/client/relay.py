"""A TCP relay that can cut its connections, count what passes, and refuse new ones."""

from __future__ import annotations

import contextlib
import socket
import threading


class Relay:
    """Forwards connections to another port of this host."""

    def __init__(self, port):
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open = set()
        self.is_refusing = False
        self.forwarded_bytes = 0
        self.num_connections = 0
        self._cut_at = None
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self):
        return f"grpc://127.0.0.1:{self.port}"

    def cut_after(self, more_bytes):
        """Cut all connections once so many more bytes have gone towards the daemon."""
        with self._lock:
            self._cut_at = self.forwarded_bytes + more_bytes

    def cut(self):
        with self._lock:
            doomed, self._open = self._open, set()
        for one in doomed:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self):
        self._listener.close()
        self.cut()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.is_refusing:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
                self.num_connections += 1
            for source, sink, counts in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._forward, args=(source, sink, counts), daemon=True).start()

    def _forward(self, source, sink, counts):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
                if counts:
                    with self._lock:
                        self.forwarded_bytes += len(data)
                        is_due = self._cut_at is not None and self.forwarded_bytes >= self._cut_at
                        if is_due:
                            self._cut_at = None
                    if is_due:
                        self.cut()
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
