"""HTTP/2 by hand: calls that no gRPC client would make."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Collection

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS = 1, 4
EMPTY_MESSAGE = b"\0\0\0\0\0"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    """A header as a literal that is not indexed."""
    return b"\0" + _text(name) + _text(value)


def _text(data: bytes) -> bytes:
    if len(data) < 127:
        return bytes((len(data),)) + data
    rest, out = len(data) - 127, b"\x7f"
    while rest > 127:
        out += bytes((rest & 127 | 128,))
        rest >>= 7
    return out + bytes((rest,)) + data


def headers(path: bytes, *more: tuple[bytes, bytes], without: Collection[bytes] = ()) -> bytes:
    """The headers of a gRPC call, less those that it is to be without."""
    usual = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"x"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
    kept = [each for each in usual if each[0] not in without]
    return b"".join(header(name, value) for name, value in (*kept, *more))


class RawConnection:
    """One connection to an address such as ``grpc://127.0.0.1:7070``."""

    def __init__(self, address: str, timeout_s: float = 60.0) -> None:
        host, _, port = address.rpartition("//")[2].rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout_s)
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))
        self._next_stream = 1

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def call(self, path: bytes, *more: tuple[bytes, bytes], message: bytes = EMPTY_MESSAGE) -> int:
        """Send a whole call; return its stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self.send(frame(HEADERS, END_HEADERS, stream, headers(path, *more)) + frame(DATA, END_STREAM, stream, message))
        return stream

    def wait_for_answer(self, stream: int) -> None:
        """Return when the server has ended a stream, or the connection."""
        while True:
            head = self._read(9)
            if len(head) < 9:
                return
            kind, flags = head[3], head[4]
            self._read(int.from_bytes(head[:3], "big"))
            ends = kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM)
            if ends and int.from_bytes(head[5:], "big") == stream:
                return

    def ping(self) -> None:
        """Return when the server has taken all that was sent before, or ended the connection."""
        self.send(frame(PING, 0, 0, b"12345678"))
        while head := self._read(9):
            self._read(int.from_bytes(head[:3], "big"))
            if head[3] == PING:
                return

    def half_close(self) -> None:
        """Send no more, but listen."""
        self._socket.shutdown(socket.SHUT_WR)

    def read_to_end(self) -> bytes:
        """Return what comes until the server ends the connection."""
        return self._read(1 << 30)

    def _read(self, size: int) -> bytes:
        data = b""
        with contextlib.suppress(OSError):
            while len(data) < size:
                got = self._socket.recv(size - len(data))
                if not got:
                    break
                data += got
        return data

    def __enter__(self) -> RawConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
