"""Messages on a Unix socket, each with its size before it, and file descriptors beside them.

Layout: ``[size: uint32 little-endian][message]``; descriptors travel with the first byte, as the kernel lets them.
"""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from functools import partial

from ckptd.errors import InvalidRequestError

MAX_FRAME_BYTES = 128 << 20
"""The largest message either end accepts: the offsets and checksums of some million parts."""

MAX_DESCRIPTORS = 128
"""How many descriptors one message carries at most; the kernel allows 253."""

SEND_TIMEOUT_S = 5.0
"""How long the other end may take for a message, and for each `SEND_BYTES` of it as long again."""

SEND_BYTES = 64 << 20

_SIZE = struct.Struct("<I")


def send_frame(
    connection: socket.socket, message: bytes, descriptors: Sequence[int] = (), *, timeout_s: float | None = None
) -> None:
    """Send one message; the descriptors stay the sender's. Once this returns, the other end gets it whatever becomes
    of us.

    Raises:
        TimeoutError: the other end does not take it, as a process that is stopped. A part of it may have been sent, so
            that the connection is of no use any more.
        OSError: the connection is gone.
    """
    patience_s = SEND_TIMEOUT_S if timeout_s is None else timeout_s
    until = time.monotonic() + patience_s * (1 + len(message) / SEND_BYTES)
    head = memoryview(_SIZE.pack(len(message)) + message)
    if descriptors:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        head = head[_sent(connection, until, partial(connection.sendmsg, [head], ancillary, socket.MSG_DONTWAIT)) :]
    while len(head):
        head = head[_sent(connection, until, partial(connection.send, head, socket.MSG_DONTWAIT)) :]


def _sent(connection: socket.socket, until: float, send: Callable[[], int]) -> int:
    """Send what there is room for, as soon as there is any; return how many bytes that was."""
    while True:
        try:
            return send()
        except BlockingIOError:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("the other end does not take a message") from None
            room = select.poll()
            room.register(connection, select.POLLOUT)
            room.poll(left_s * 1000)


def receive_frame(
    connection: socket.socket, *, limit_bytes: int = MAX_FRAME_BYTES, until: float | None = None, is_lent: bool = True
) -> tuple[bytes, list[int]] | None:
    """Return the next message and the descriptors that came with it, which are the caller's; None at the end.

    Args:
        connection: a Unix socket.
        limit_bytes: the largest message that is accepted.
        until: when it has to be there, on the monotonic clock; None for at any time.
        is_lent: whether descriptors are wanted. The kernel drops those that are not: they never enter this process.

    Raises:
        InvalidRequestError: for a message that is too large, or ends early.
        TimeoutError: it was not there in time.
        OSError: the connection is gone.
    """
    descriptors: list[int] = []
    receive = partial(_receive, connection, until=until, descriptors=descriptors if is_lent else None)
    try:
        head = receive(_SIZE.size)
        if not head:
            return None
        (size,) = _SIZE.unpack(head)
        if size > limit_bytes:
            raise InvalidRequestError("a message about shared memory is too large", actual=size)
        message = receive(size)
        if len(message) < size:
            raise InvalidRequestError("a message about shared memory ends early", expected=size, actual=len(message))
    except BaseException:
        close_all(descriptors)
        raise
    return message, descriptors


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors that are not wanted."""
    for descriptor in descriptors:
        os.close(descriptor)


def _receive(connection: socket.socket, size: int, *, until: float | None, descriptors: list[int] | None) -> bytes:
    """Receive `size` bytes, fewer only at the very end of the stream; add descriptors to the list, if there is one."""
    room = 0 if descriptors is None else socket.CMSG_SPACE(array.array("i").itemsize * MAX_DESCRIPTORS)
    data = bytearray()
    while len(data) < size:
        if until is not None:
            connection.settimeout(max(until - time.monotonic(), 0.001))
        chunk, ancillary, _, _ = connection.recvmsg(size - len(data), room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if descriptors is not None and level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                found = array.array("i")
                found.frombytes(content[: len(content) - len(content) % found.itemsize])
                descriptors.extend(found)
        if not chunk:
            break
        data += chunk
    if data and len(data) < size and size == _SIZE.size:
        raise InvalidRequestError("a message about shared memory ends early", expected=size, actual=len(data))
    return bytes(data)
