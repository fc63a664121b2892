from __future__ import annotations

import socket
import threading

import pytest

from ckptd.demo.relay import Relay


@pytest.fixture
def echo():
    """Give the address of a server that sends back all it gets."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer(connection):
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()
    server.close()


def connect(relay):
    host, port = relay.address.removeprefix("grpc://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=120)
    connection.settimeout(60)
    return connection


def receive(connection, size):
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        assert more, f"hung up after {len(data)} bytes"
        data += more
    return data


def test_bytes_pass_both_ways_until_the_relay_holds_back(echo):
    relay = Relay(echo)
    with connect(relay) as connection:
        connection.sendall(b"a" * 100_000)
        assert receive(connection, 100_000) == b"a" * 100_000
        assert not relay.holding.is_set()
        relay.hold_after(1000)
        connection.sendall(b"b" * 5000)
        assert receive(connection, 1000) == b"b" * 1000
        assert relay.holding.wait(60)
        relay.close()
        assert connection.recv(1) == b""


def test_the_allowance_counts_over_all_connections(echo):
    relay = Relay(echo)
    with connect(relay) as first, connect(relay) as second:
        relay.hold_after(10)
        first.sendall(b"1234567")
        assert receive(first, 7) == b"1234567"
        second.sendall(b"abcdefg")
        assert receive(second, 3) == b"abc"
        assert relay.holding.wait(60)
        relay.close()


def test_a_peer_that_hangs_up_is_passed_on(echo):
    relay = Relay(echo)
    with connect(relay) as connection:
        connection.sendall(b"x")
        assert receive(connection, 1) == b"x"
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    relay.close()
