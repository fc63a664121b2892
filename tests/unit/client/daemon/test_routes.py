from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import replace

import numpy as np
import pytest

from ckptd import Checkpointer
from ckptd.client.daemon.routes import Routes
from ckptd.wire import addresses
from ckptd.wire.channels import open_channel
from tests import seams
from tests.unit.client.served import BOUND_S

STATE = {"w": np.arange(4_000_000, dtype=np.float32)}


@pytest.fixture
def stranger():
    """Somebody else's server: it takes connections, and hangs up on each."""
    listener = socket.create_server(("127.0.0.1", 0))

    def hang_up():
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(BOUND_S)


@pytest.fixture
def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def ways_of(address):
    return Routes("the daemon's stub", addresses.parse(address), open_channel)


def test_no_port_is_the_daemon_itself():
    way = ways_of("grpc://127.0.0.1:7070").to(0)
    assert (way.stub, way.address, way.port) == ("the daemon's stub", "grpc://127.0.0.1:7070", 0)


def test_a_port_is_reached_at_the_daemons_host_by_one_channel(stranger):
    several = ways_of("grpc://127.0.0.1:7070")
    with contextlib.closing(several):
        way = several.to(stranger)
        assert (way.address, way.port) == (f"grpc://127.0.0.1:{stranger}", stranger)
        assert several.to(stranger) is way


def test_a_port_that_is_closed_is_said_once_and_left_alone_for_a_while(closed_port, caplog, monkeypatch):
    several = ways_of("grpc://127.0.0.1:7070")
    for _ in range(3):
        assert several.to(closed_port).port == 0
    (said,) = caplog.messages
    assert said.startswith(f"port {closed_port} of grpc://127.0.0.1:7070 takes no streams")
    seams.AVOIDED_PORT_S.put(monkeypatch, 0.0)
    again = ways_of("grpc://127.0.0.1:7070")
    assert again.to(closed_port).port == 0
    with socket.create_server(("127.0.0.1", closed_port)), contextlib.closing(again):
        assert again.to(closed_port).port == closed_port


@pytest.mark.parametrize("which", ["stranger", "closed_port", "other daemon"])
def test_a_port_where_no_process_of_the_daemon_is_costs_no_save(which, daemon, monkeypatch, request, tmp_path):
    with contextlib.ExitStack() as open_until_the_end:
        if which == "other daemon":
            from tests.unit.client.served import Daemon

            other = Daemon(tmp_path / "other")
            open_until_the_end.callback(other.stop)
            port = addresses.parse(other.address).port
        else:
            port = request.getfixturevalue(which)
        understood = seams.ASSIGNMENT_FROM_WIRE.value

        def misled(replies):
            assignment = understood(replies)
            return replace(assignment, lanes=tuple(replace(lane, stream_port=port) for lane in assignment.lanes))

        seams.ASSIGNMENT_FROM_WIRE.put(monkeypatch, misled)
        with Checkpointer(daemon.address, "runs/a", timeout_s=BOUND_S) as ckpt:
            for step in (1, 2):
                assert ckpt.save(step, STATE).result(BOUND_S).step == step
            assert np.array_equal(ckpt.restore(2)["w"], STATE["w"])
