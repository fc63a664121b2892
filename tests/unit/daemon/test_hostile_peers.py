"""Peers that speak HTTP/2 by hand: nothing that they send ends the server, forges a line of the log, or fills it."""

from __future__ import annotations

import contextlib
import gzip
import struct
import subprocess

import grpc
import pytest

from ckptd.wire import methods
from ckptd.wire.v1 import admin_pb2
from tests.fakes.raw_http2 import (
    CONTINUATION,
    DATA,
    EMPTY_MESSAGE,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    RST_STREAM,
    RawConnection,
    frame,
    headers,
)

STATUS = f"/{methods.ADMIN['Status'].service}/Status".encode()
FORGED = b"2026-11-29 00:00:00 saved /checkpoints/model.ckpt-999"
TOKEN = "secret-of-the-daemon"


@pytest.fixture(params=["open", "token"])
def daemon(serve, tmp_path, request):
    (tmp_path / "token").write_text(TOKEN)
    flags = ("--token-file", str(tmp_path / "token")) if request.param == "token" else ()
    # Started for real: gRPC looks at the environment when it is imported.
    return serve(*flags, popen=subprocess.Popen).ready()


def answers(daemon):
    stub = methods.Stub(daemon.channel(token=TOKEN), methods.ADMIN)
    return stub.Status(admin_pb2.StatusRequest(), timeout=120).root


def log_of(daemon):
    return daemon.log.read_text(errors="surrogateescape")


CALLS = {
    "a path with a line of its own": (STATUS + b"\n" + FORGED + b"\x1b[2J\x1b]0;owned\x07",),
    "a path that is no UTF-8": (b"/a/S\xff\xfe",),
    "a path of 8 kB": (b"/x" + b"A" * 8000,),
    "a token that is no UTF-8": (STATUS, (b"authorization", b"\xff\n" + FORGED)),
    "a name of a header that is no UTF-8": (STATUS, (b"x\xff", b"\xff")),
    "a binary header that is no base64": (STATUS, (b"a-bin", b"***")),
}


def whole_call(*more, path=STATUS, data=EMPTY_MESSAGE, without=()):
    shown = (b"authorization", b"Bearer " + TOKEN.encode())
    content = frame(HEADERS, END_HEADERS, 1, headers(path, shown, *more, without=without))
    return content + frame(DATA, END_STREAM, 1, data)


def reset_calls(path, number):
    ended = struct.pack(">I", 8)
    return b"".join(
        frame(HEADERS, END_HEADERS, stream, headers(path)) + frame(RST_STREAM, 0, stream, ended)
        for stream in range(1, 2 * number, 2)
    )


BOMB = gzip.compress(bytes(32 << 20))
ODD = {
    "no path": whole_call(without=[b":path"]),
    "two paths": whole_call((b":path", b"/x/y")),
    "another content type, no UTF-8": whole_call((b"content-type", b"\xff"), without=[b"content-type"]),
    "a timeout that is none": whole_call((b"grpc-timeout", b"1Y")),
    "a timeout of ages": whole_call((b"grpc-timeout", b"99999999999999999H")),
    "bytes that are not compressed as said": whole_call((b"grpc-encoding", b"gzip"), data=b"\1\0\0\0\4abcd"),
    "32 MiB in 32 kB": whole_call((b"grpc-encoding", b"gzip"), data=b"\1" + struct.pack(">I", len(BOMB)) + BOMB),
    "a message of 4 GiB": whole_call(data=b"\0\xff\xff\xff\xffabcd"),
    "a header of 8 kB": whole_call((b"x", b"a" * 8000)),
    "a thousand headers": whole_call(*((b"x%d" % number, b"") for number in range(1000))),
    "a header without a name": whole_call((b"", b"a")),
    "compressed headers that are none": frame(HEADERS, END_HEADERS, 1, b"\xff" * 100),
    "headers without end": frame(HEADERS, 0, 1, headers(STATUS)) + frame(CONTINUATION, 0, 1, b"") * 10_000,
    "headers that begin in the middle": frame(CONTINUATION, END_HEADERS, 1, headers(STATUS)),
    "data of no length": frame(HEADERS, END_HEADERS, 1, headers(STATUS)) + frame(DATA, 0, 1, b"") * 10_000,
    "calls that are taken back": reset_calls(STATUS, 500),
    "unknown calls that are taken back": reset_calls(b"/x/\xff", 500),
    "frames of kinds that there are not": b"".join(frame(kind, 255, 1, b"x" * 20) for kind in range(10, 255)),
}


def test_no_call_ends_the_server_or_forges_a_line(daemon):
    for path, *more in CALLS.values():
        with RawConnection(daemon.listening[0]) as connection:
            connection.wait_for_answer(connection.call(path, *more))
        assert answers(daemon)
    for sent in ODD.values():
        with RawConnection(daemon.listening[0]) as connection, contextlib.suppress(OSError):
            connection.send(sent)
            connection.ping()
        assert answers(daemon)
    with RawConnection(daemon.listening[0]) as connection:  # the reason of a GOAWAY is the peer's text
        connection.send(frame(GOAWAY, 0, 0, struct.pack(">II", 0, 11) + b"\x1b[2J\n" + FORGED))
        connection.ping()
    assert answers(daemon)
    said = log_of(daemon)
    assert said.replace("\n", "").isprintable()
    assert not [line for line in said.split("\n") if line.startswith(FORGED.decode())]
    daemon.log.write_text("")  # gRPC's own tracebacks about headers are expected


def test_a_connection_cannot_fill_the_log(daemon):
    before = len(log_of(daemon))
    with contextlib.ExitStack() as opened:
        last = []
        for number in range(300):
            if number % 50 == 0:  # as many calls as one connection may have at once, their refusals come late
                connection = opened.enter_context(RawConnection(daemon.listening[0]))
                last.append([connection, 0])
            connection.call(b"/%d/" % number + b"A" * 4000)
            last[-1][1] = connection.call(STATUS, (b"authorization", b"\xff%d" % number))
        for connection, stream in last:
            connection.wait_for_answer(stream)
    assert answers(daemon)
    assert len(log_of(daemon)) - before < 40_000  # 2.4 MB were sent
    daemon.log.write_text("")


def test_an_unknown_method_is_answered_as_such(serve):
    daemon = serve().ready()
    call = daemon.channel().unary_unary("/ckptd.wire.v1.AdminService/NotYet")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=120)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
