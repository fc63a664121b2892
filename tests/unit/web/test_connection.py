"""ConnectionBounds of one connection and of all: of size, of time, of number."""

from __future__ import annotations

import pytest

from ckptd.web.connection import HEAD_BYTES, ConnectionBounds, ConnectionCounts
from tests.unit.web.conftest import Site


def test_so_many_are_open_of_one_host_and_of_all():
    connections = ConnectionCounts(ConnectionBounds(most=5, most_of_a_host=3))
    assert [connections.take("a") for _ in range(4)] == [True, True, True, False]
    assert [connections.take("b") for _ in range(3)] == [True, True, False]
    connections.leave("a")
    assert connections.take("b")
    assert not connections.take("a")


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * (HEAD_BYTES + 1),
        b"GET /" + b"x" * (HEAD_BYTES + 1),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS at a plain port\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
)
def test_what_is_no_request_or_too_long_is_refused_and_the_connection_closed(site, request_head):
    answer = site.raw(request_head)
    assert answer.startswith(b"HTTP/1.1 4") or answer == b"", answer
    assert site.get("/livez")[0] == 200


@pytest.mark.parametrize(
    ("target", "more"),
    [(b"/livez", b"x" * 2 * HEAD_BYTES), (b"/livez?" + b"x" * HEAD_BYTES, b""), (b"/none", b"x" * HEAD_BYTES)],
)
def test_a_head_that_is_too_long_is_refused_also_when_it_comes_whole(site, target, more):
    head = b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Long: " + more + b"\r\n\r\n"
    assert site.raw(head).startswith(b"HTTP/1.1 4")
    assert site.daemon.visits == []


def test_a_body_is_read_by_none_and_does_not_hold_the_connection(site):
    answer = site.raw(
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 10\r\n\r\n0123456789"
    )
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nHost: loc", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_connection_that_sends_no_request_in_time_is_closed(sent):
    site = Site(request_s=0.2)
    try:
        answer = site.raw(sent)  # it never closes its end
        assert answer.startswith(b"HTTP/1.1 200") == sent.endswith(b"\r\n\r\n")
    finally:
        site.listener.stop()


def test_an_answer_that_does_not_come_to_its_end_in_time_is_given_up():
    given_up = []

    async def hangs(request):
        try:
            await request.receive()  # the request
            message = await request.receive()  # that the client has gone, or was aborted
            given_up.append(message["type"])
        finally:
            given_up.append("over")
        raise AssertionError("nothing waits for an answer")

    site = Site({"/hangs": hangs}, answer_s=0.2)
    try:
        assert site.raw(b"GET /hangs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer good\r\n\r\n") == b""
        assert site.get("/livez")[0] == 200
    finally:
        site.listener.stop()
    assert given_up == ["http.disconnect", "over"]


def test_one_more_than_there_may_be_is_closed_at_once_and_the_others_go_on():
    site = Site(most=4, most_of_a_host=3)
    try:
        held = [site.connect() for _ in range(3)]
        for each in held:
            each.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert each.recv(4096).startswith(b"HTTP/1.1 200")
        with site.connect() as fourth:
            assert closed(fourth)
        held.pop().close()
        again = [site.raw(b"GET /livez HTTP/1.0\r\n\r\n") for _ in range(20)]
        assert again[-1].startswith(b"HTTP/1.1 200")
        for each in held:
            each.close()
    finally:
        site.listener.stop()


def closed(connection):
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True
