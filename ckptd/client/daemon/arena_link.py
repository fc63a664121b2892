"""The connection over which a daemon on this host lends memory: a Unix socket.

Requests are sent without waiting, and answers may come in any order. Training stands still for an answer only when
memory is lent for the first time.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from ckptd.errors import CkptdError, UnavailableError
from ckptd.wire import frames, status
from ckptd.wire.v1 import arena_pb2, common_pb2

_log = logging.getLogger("ckptd.client")

CONNECT_TIMEOUT_S = 2.0
_ANSWER_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ArenaAnswer:
    """A reply, and the descriptors that came with it, which are the taker's."""

    reply: arena_pb2.ArenaReply
    descriptors: list[int]


# A forked child, such as a data loader's worker, inherits our connections: after our death it would pass for us.
_LINKS: weakref.WeakSet[ArenaLink] = weakref.WeakSet()


def _forget_all() -> None:
    for link in list(_LINKS):
        link.forget()


os.register_at_fork(after_in_child=_forget_all)


class ArenaLink:
    """One connection. Any thread may use it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._sending = threading.Lock()
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[ArenaAnswer]] = {}
        self._is_closed = False
        self._refusal: CkptdError | None = None  # what the daemon said of the connection as a whole
        self.known: set[bytes] = set()  # digests of manifests that the daemon has
        self._reader = threading.Thread(target=self._read, name="ckptd-arena", daemon=True)
        _LINKS.add(self)

    @classmethod
    def connect(cls, address: common_pb2.ArenaAddress, peer: common_pb2.Peer, paths: Sequence[str] = ()) -> ArenaLink:
        """Connect to the daemon that told `address`, trying `paths` first.

        Raises:
            UnavailableError: it is not on this host, or does not lend to us.
        """
        failure: Exception = UnavailableError("the daemon lends no memory")
        for path in dict.fromkeys([*paths, address.path]):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(CONNECT_TIMEOUT_S)
                connection.connect(path)
                connection.settimeout(None)
            except OSError as error:
                connection.close()
                failure = error
                continue
            link = cls(connection)
            link._reader.start()
            try:
                hello = arena_pb2.ArenaRequest(hello=arena_pb2.ArenaHello(peer=peer, key=address.key))
                link.exchange(hello, timeout_s=CONNECT_TIMEOUT_S)
                return link
            except CkptdError as error:
                link.close()
                failure = error
        raise UnavailableError(f"the daemon's memory can't be shared: {failure}") from failure

    @property
    def is_alive(self) -> bool:
        """Whether the daemon is still there."""
        return not self._is_closed

    def send(self, request: arena_pb2.ArenaRequest) -> Future[ArenaAnswer]:
        """Send a request, without waiting; the answer, or the error that it is, comes later.

        A daemon that reads nothing, such as a stopped one, delays the caller at most `frames.SEND_TIMEOUT_S`.

        Raises:
            UnavailableError: the connection is gone.
        """
        answer: Future[ArenaAnswer] = Future()
        number = request.number = next(self._numbers)
        with self._lock:
            if self._is_closed:
                raise self._gone()
            self._waiting[number] = answer
        try:
            with self._sending:
                frames.send_frame(self._connection, request.SerializeToString())
        except OSError as error:
            self.close()
            raise self._gone() from error
        except BaseException:  # Ctrl-C: half of it may be sent, and nothing can follow that
            self.close()
            raise
        return answer

    def exchange(self, request: arena_pb2.ArenaRequest, *, timeout_s: float = _ANSWER_TIMEOUT_S) -> ArenaAnswer:
        """Send a request and wait for its answer; raise the error that it is.

        A connection on which no answer comes is given up: the next request must not wait for as long again.
        """
        answer = self.send(request)
        try:
            return settled(answer, timeout_s)
        finally:
            if not answer.done():
                self.close()

    def close(self) -> None:
        """End the connection; waiting calls fail. May be repeated."""
        with self._lock:
            self._is_closed = True
            waiting, self._waiting = self._waiting, {}
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        for answer in waiting.values():
            answer.set_exception(self._gone())

    def _gone(self) -> CkptdError:
        return self._refusal or UnavailableError("the connection for shared memory is gone")

    def forget(self) -> None:
        """Close what a forked child inherited; the connection stays the parent's."""
        self._is_closed = True
        self._connection.close()

    def _read(self) -> None:
        try:
            while (frame := frames.receive_frame(self._connection)) is not None:
                message, descriptors = frame
                self._take(arena_pb2.ArenaReply.FromString(message), descriptors)
        except (OSError, CkptdError, ValueError, DecodeError) as error:
            _log.debug("the connection for shared memory broke: %s", error)
        finally:
            self.close()
            self._connection.close()

    def _take(self, reply: arena_pb2.ArenaReply, descriptors: list[int]) -> None:
        with self._lock:
            answer = self._waiting.pop(reply.number, None)
        if answer is None or reply.error or len(descriptors) != len(reply.arenas):
            frames.close_all(descriptors)
        if answer is None:
            if reply.error and not reply.number:
                self._refusal = status.unpack(reply.error)
            return
        if reply.error:
            answer.set_exception(status.unpack(reply.error))
        elif len(descriptors) != len(reply.arenas):
            answer.set_exception(UnavailableError("the daemon lent memory that did not arrive"))
        else:
            answer.set_result(ArenaAnswer(reply, descriptors))


def settled(answer: Future[ArenaAnswer], timeout_s: float) -> ArenaAnswer:
    """Wait for an answer; raise the error that it is, `UnavailableError` when none comes."""
    try:
        return answer.result(timeout_s)
    except (FutureTimeoutError, TimeoutError) as error:
        raise UnavailableError(f"the daemon said nothing about shared memory for {timeout_s:g} s") from error
