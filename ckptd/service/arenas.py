"""Shared memory for workers on this host: a Unix socket beside gRPC, as gRPC can't pass descriptors on.

Each connection has a thread: workers of one host are few, and a thread that waits costs nothing. What a worker has said
before it died still arrives, so a save that it has sealed needs it no longer.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from pathlib import Path

from ckptd.access.callers import Caller
from ckptd.engine.hosts.memories import OffersMemory
from ckptd.engine.refusals import NotNowError
from ckptd.errors import CkptdError
from ckptd.service import refusal_log
from ckptd.service.arena_connection import ArenaConnection, Lending
from ckptd.service.sockets import listen_at, user_at
from ckptd.wire import frames, status
from ckptd.wire.v1 import arena_pb2, common_pb2

_log = logging.getLogger("ckptd.service")

_MAX_CONNECTIONS = 512
_MAX_OF_A_USER = _MAX_CONNECTIONS * 3 // 4
_TICK_S = 30.0
ACCEPT_PAUSE_S = 1.0


class ArenaServer:
    """Lends arenas over a Unix socket at `path`, to processes of our own user unless its mode lets others in."""

    def __init__(self, lending: Lending, path: Path) -> None:
        """`lending` is what the connections share."""
        self.lender = lending.lender
        self._lending = lending
        lending.coordinator.on_catalog = self.lender.keep_only
        if isinstance(lending.coordinator, OffersMemory):
            lending.coordinator.lends(self.lender)
        self._path = path
        self._mode = lending.socket_mode
        self.listener: socket.socket | None = None
        self._is_stopping = threading.Event()
        self._lock = threading.Lock()
        self._connections: dict[ArenaConnection, int] = {}  # and their users

    def address_for(self, caller: Caller) -> common_pb2.ArenaAddress:
        """Return what `caller` is told: its key is its identity at this socket, too."""
        return common_pb2.ArenaAddress(path=str(self._path), key=self._lending.keys.key_of(caller))

    def start(self) -> None:
        """Listen.

        Raises:
            ConflictError: another daemon listens there.
            UnavailableError: the system does not let us.
        """
        listener = listen_at(self._path, self._mode, "--arena-socket")
        listener.settimeout(_TICK_S)
        self.listener = listener
        threading.Thread(target=self.accept_from, args=(listener,), name="ckptd-arenas", daemon=True).start()

    def stop(self) -> None:
        """Hear no more, and give all memory back. May be repeated."""
        self._is_stopping.set()
        listener, self.listener = self.listener, None
        if listener is not None:
            self._path.unlink(missing_ok=True)  # while it is ours: afterwards it may be the next daemon's
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listener.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.close()
        self.lender.close()

    def close_what_is_not_allowed(self) -> None:
        """Close the connections of identities that may no longer do what they did there."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.close_unless_allowed()

    def accept_from(self, listener: socket.socket) -> None:
        """Give each connection its thread, until `stop`."""
        said = ""
        while True:
            try:
                accepted, _ = listener.accept()
            except TimeoutError:
                self.lender.tick()
                continue
            except OSError as error:
                if self._is_stopping.is_set():
                    return
                # No descriptors are left, say: workers send their bytes until there are.
                if said != str(error):
                    said = str(error)
                    _log.warning("new workers get no shared memory: %s", error)
                self._is_stopping.wait(ACCEPT_PAUSE_S)
                continue
            accepted.setblocking(True)
            user = user_at(accepted)
            with self._lock:
                of_user = sum(user == other for other in self._connections.values())
                has_room = len(self._connections) < _MAX_CONNECTIONS and of_user < _MAX_OF_A_USER
                if has_room:
                    connection = ArenaConnection(self._lending, accepted)
                    self._connections[connection] = user
            if not has_room:
                full = f"user {user} has {of_user} connections for shared memory, all users at most {_MAX_CONNECTIONS}"
                with contextlib.suppress(OSError):  # it is gone
                    refused = NotNowError(f"{full}, one at most {_MAX_OF_A_USER}")
                    frames.send_frame(accepted, arena_pb2.ArenaReply(error=status.pack(refused)).SerializeToString())
                accepted.close()
                refusal_log.log.refused("unix:", f"a worker gets no shared memory: {full}", {"uid": user})
                continue
            try:
                threading.Thread(target=self._serve, args=(connection,), name="ckptd-arena", daemon=True).start()
            except RuntimeError as error:  # no thread is to be had
                _log.warning("a worker gets no shared memory: %s", error)
                with self._lock:
                    self._connections.pop(connection, None)
                accepted.close()

    def _serve(self, connection: ArenaConnection) -> None:
        try:
            connection.serve()
        except CkptdError as error:
            refusal_log.log.refused("unix:", f"a worker's connection for shared memory was ended: {error}", {})
        except OSError:
            pass  # it went
        except Exception:
            refusal_log.log.bug("unix:", "a bug in ckptd: a connection for shared memory failed")
        finally:
            with self._lock:
                self._connections.pop(connection, None)
            connection.end()
