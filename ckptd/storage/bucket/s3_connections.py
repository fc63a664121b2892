"""Connections that know whether a body still moves, however slowly, and so when to give up on a server.

A timeout of a socket is for one call, and a call of Python's that sends a body is over only when the kernel has taken
all of it. A slow link that many bodies share would run into it although every one of them moves. What is more, the
kernel takes megabytes at once and sends them later: a request that waits for its answer may still be sending. So the
kernel is asked how much the other end has not confirmed yet, and a connection is given up only when that has not
changed for a while.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

if sys.platform == "linux":
    import fcntl
    import termios

_PIECE_BYTES = 1 << 20
_SHORTEST_LOOK_S = 0.002
_LONGEST_LOOK_S = 0.25


class Movement:
    """When bytes of one request moved for the last time, in either direction."""

    def __init__(self) -> None:
        """It begins now."""
        self._began_at = self._moved_at = time.monotonic()

    def note(self) -> None:
        """Bytes have moved."""
        self._moved_at = time.monotonic()

    @property
    def lasted_s(self) -> float:
        """From the beginning to the last bytes that moved."""
        return self._moved_at - self._began_at

    @property
    def still_s(self) -> float:
        """Since bytes moved for the last time."""
        return time.monotonic() - self._moved_at


class Body:
    """What one request sends: memory, which is given to the socket where it is."""

    def __init__(self, data: Sequence[memoryview], movement: Movement, patience_s: float) -> None:
        """`patience_s` is how long not a byte may move."""
        self._data = data
        self._movement = movement
        self._patience_s = patience_s
        self._unconfirmed: int | None = None

    def __iter__(self) -> Iterator[memoryview]:
        """Yield it in pieces."""
        for memory in self._data:
            view = memory.cast("B")
            for at in range(0, len(view), _PIECE_BYTES):
                yield view[at : at + _PIECE_BYTES]

    def send(self, sock: Any, piece: memoryview) -> None:
        """Give a piece to the kernel, as fast as that takes it.

        Raises:
            TimeoutError: nothing has moved for a while.
        """
        sock.settimeout(min(_LONGEST_LOOK_S, self._patience_s))
        while piece:
            try:
                count = sock.send(piece)
            except TimeoutError as error:
                if error.errno == errno.ETIMEDOUT:
                    raise
                self._look(sock)
            else:
                piece = piece[count:]
                self._movement.note()

    def wait_until_sent(self, sock: Any) -> None:
        """Wait until the other end has confirmed all of it, or has answered early.

        Raises:
            TimeoutError: nothing has moved for a while.
        """
        # Over TLS what comes need not be an answer.
        poll, look_s = select.poll(), _SHORTEST_LOOK_S
        poll.register(sock.fileno(), select.POLLIN if type(sock) is socket.socket else 0)
        while self._look(sock) and not poll.poll(look_s * 1000):
            look_s = min(2 * look_s, _LONGEST_LOOK_S)

    def _look(self, sock: Any) -> int:
        """Return how many bytes the other end has not confirmed."""
        unconfirmed = _unconfirmed(sock)
        if unconfirmed != self._unconfirmed:
            self._unconfirmed = unconfirmed
            self._movement.note()
        if self._movement.still_s > self._patience_s:
            raise TimeoutError(errno.ETIMEDOUT, f"no byte could be sent for {self._patience_s:g} s")
        return unconfirmed


def _unconfirmed(sock: Any) -> int:
    """Return how many bytes the kernel still keeps for the other end; 0 where it does not tell."""
    if sys.platform != "linux":
        return 0
    return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0])


class _SendsBodies:
    """What both kinds of connections do with a `Body`."""

    sock: Any
    _body: Body | None = None

    def request(self, method: str, url: str, body: Any = None, *args: Any, **options: Any) -> None:
        self._body = body if isinstance(body, Body) else None
        super().request(method, url, body, *args, **options)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        if self._body is not None and isinstance(data, memoryview):
            self._body.send(self.sock, data)
        else:
            super().send(data)  # type: ignore[misc]

    def getresponse(self) -> Any:
        body, self._body = self._body, None
        if body is not None and self.sock is not None:
            body.wait_until_sent(self.sock)
        return super().getresponse()  # type: ignore[misc]


class _Connection(_SendsBodies, HTTPConnection):
    pass


class _TlsConnection(_SendsBodies, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def pools(proxy: str | None, **options: Any) -> urllib3.PoolManager:
    """Return pools of such connections, to a proxy if there is one."""
    made = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
    made.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return made
