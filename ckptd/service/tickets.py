"""Gives the processes of this host tickets that say which user they are of; see `ckptd.wire.tickets`."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import secrets
import socket
import threading
from pathlib import Path

from ckptd.service.sockets import listen_at
from ckptd.wire.tickets import credentials_at

_log = logging.getLogger("ckptd.service")

_PAUSE_S = 1.0


class Tickets:
    """Makes tickets and reads them. Its key is of this life of the daemon, and so are they."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def made_for(self, uid: int) -> str:
        """Return the ticket of a user."""
        return f"{uid}.{hmac.new(self._key, str(uid).encode(), hashlib.sha256).hexdigest()}"

    def uid_of(self, ticket: str) -> int | None:
        """Return the user that a ticket was made for; None if it is none of ours."""
        uid, _, _ = ticket.partition(".")
        if not (uid.isascii() and uid.isdecimal() and len(uid) <= 10):
            return None
        is_ours = hmac.compare_digest(self.made_for(int(uid)).encode(), ticket.encode("utf-8", "surrogateescape"))
        return int(uid) if is_ours else None


class TicketServer:
    """Answers each connection at `path` with its ticket, and keeps none: there is nothing to hold or to fill."""

    def __init__(self, tickets: Tickets, path: Path, mode: int) -> None:
        self._tickets = tickets
        self._path = path
        self._mode = mode
        self._listener: socket.socket | None = None
        self._is_stopping = threading.Event()

    def start(self) -> None:
        """Listen.

        Raises:
            ConflictError: another daemon listens there, or it is no socket.
            UnavailableError: the system does not let us.
        """
        self._listener = listener = listen_at(self._path, self._mode, "--listen")
        threading.Thread(target=self._accept, args=(listener,), name="ckptd-tickets", daemon=True).start()

    def stop(self) -> None:
        """Give no more. May be repeated."""
        self._is_stopping.set()
        listener, self._listener = self._listener, None
        if listener is not None:
            self._path.unlink(missing_ok=True)  # while it is ours: afterwards it may be the next daemon's
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        said = ""
        while not self._is_stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError as error:  # no descriptors are left, say
                if not self._is_stopping.is_set() and said != str(error):
                    said = str(error)
                    _log.warning("new processes of this host can't show their user: %s", error)
                self._is_stopping.wait(_PAUSE_S)
                continue
            with connection, contextlib.suppress(OSError):  # it is gone already
                _, uid = credentials_at(connection)
                connection.send(self._tickets.made_for(uid).encode(), socket.MSG_DONTWAIT)  # there is always room
