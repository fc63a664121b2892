"""`ckptd serve --stream-processes`: ranks send to them, and nothing depends on them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trustme

from ckptd import Checkpointer
from ckptd.wire import addresses, methods, status
from ckptd.wire.channels import open_channel
from ckptd.wire.v1 import admin_pb2, save_pb2
from tests.fakes.waiting import eventually
from tests.fakes.worker import WAIT_S, Worker

STATE = {"w": np.arange(6_000_000, dtype=np.float32), "b": np.ones(3)}  # 24 MB: a dozen chunks


@pytest.fixture(autouse=True)
def _from_another_host(monkeypatch):
    monkeypatch.setenv("CKPTD_TRANSPORT", "stream")


def ports_of(daemon, **credentials):
    stub = methods.Stub(daemon.channel(**credentials), methods.ADMIN)
    return list(stub.Status(admin_pb2.StatusRequest(), timeout=WAIT_S).stream_ports)


def received_bytes(daemon):
    """Return how much of the one save under way has come."""
    (run,) = methods.Stub(daemon.channel(), methods.ADMIN).Status(admin_pb2.StatusRequest(), timeout=WAIT_S).runs
    return sum(save.received_bytes for save in run.saves)


def processes_of(daemon):
    """Return the daemon's children."""
    children = []
    for task in Path(f"/proc/{daemon.process.pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            children += map(int, (task / "children").read_text().split())
    return sorted(children)


def has_caller(port):
    """Tell whether anybody is connected to this port of the loopback interface."""
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path("/proc/net", table).read_text().splitlines()]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


def started(daemon, ckpt, count=2):
    """Save once, which starts the processes; return their ports."""
    ckpt.save(1, STATE).result(WAIT_S)
    eventually(lambda: len(ports_of(daemon)) == count, f"{count} stream processes")
    return ports_of(daemon)


def assert_restored(ckpt, step):
    restored = ckpt.restore(step)
    for name, array in STATE.items():
        assert np.array_equal(restored[name], array)


def test_they_start_with_the_first_stream_and_take_the_next(serve):
    daemon = serve("--stream-processes", "2").ready()
    assert (ports_of(daemon), processes_of(daemon)) == ([], [])
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1) as ckpt:
        first, second = started(daemon, ckpt)
        ckpt.save(2, STATE).result(WAIT_S)
        assert has_caller(first)  # rank 0 keeps to the first
        assert not has_caller(second)
        assert_restored(ckpt, 2)


def test_none_are_started_for_who_shares_memory_or_comes_by_a_unix_socket(serve, tmp_path, monkeypatch):
    listen = ("--listen", "127.0.0.1:0", "--listen", f"unix://{tmp_path}/s")
    daemon = serve("--stream-processes", "1", *listen).ready()
    with Checkpointer(daemon.listening[1], "runs/a", rank=0, world_size=1) as ckpt:
        ckpt.save(1, STATE).result(WAIT_S)
    monkeypatch.delenv("CKPTD_TRANSPORT")
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1) as ckpt:
        ckpt.save(2, STATE).result(WAIT_S)
    assert processes_of(daemon) == []


def test_one_that_is_killed_costs_no_save_and_comes_back(serve, caplog):
    daemon = serve("--stream-processes", "1", "--write-bytes-per-s", "20000000").ready()
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1) as ckpt:
        (port,) = started(daemon, ckpt, 1)
        (before,) = processes_of(daemon)
        pending = ckpt.save(2, STATE)
        eventually(lambda: has_caller(port), "the stream")
        eventually(lambda: received_bytes(daemon) > STATE["w"].nbytes // 8, "an eighth of it")
        os.kill(before, signal.SIGKILL)
        assert pending.result(WAIT_S).step == 2
        assert_restored(ckpt, 2)
        eventually(lambda: ports_of(daemon), "another process")
        assert processes_of(daemon) != [before]
        daemon.wait_for_log("a stream process is started again: it died")
        # It has another port, and is used again.
        (port,) = ports_of(daemon)
        ckpt.save(3, STATE).result(WAIT_S)
        assert has_caller(port)
        assert_restored(ckpt, 3)


def test_one_that_hangs_costs_seconds_and_no_save(serve, caplog):
    daemon = serve("--stream-processes", "1").ready()
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1) as ckpt:
        started(daemon, ckpt, 1)
        (hanging,) = processes_of(daemon)
        os.kill(hanging, signal.SIGSTOP)
        began = time.monotonic()
        try:
            assert ckpt.save(2, STATE).result(WAIT_S).step == 2
        finally:
            os.kill(hanging, signal.SIGKILL)  # stopped, it would not notice the daemon's end either
        assert time.monotonic() - began < 60.0  # far below the save's own 600 s
        assert "no answer within" in caplog.text
        assert "sends to the daemon itself" in caplog.text


def test_they_end_with_the_daemon_however_it_ends(serve):
    for number, how in ((1, signal.SIGTERM), (2, signal.SIGKILL)):
        daemon = serve("--stream-processes", "2", root=f"root-{number}", name=f"d{number}").ready()
        with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1) as ckpt:
            started(daemon, ckpt)
            children = processes_of(daemon)
            assert len(children) == 2
            os.kill(children[0], signal.SIGTERM)  # as a signal to the whole group would come
            daemon.process.send_signal(how)
            assert daemon.wait() == (0 if how is signal.SIGTERM else -signal.SIGKILL)
        eventually(lambda children=children: not any(Path(f"/proc/{child}").exists() for child in children), how.name)


def test_a_save_under_way_by_a_stream_process_finishes_at_sigterm(serve):
    daemon = serve("--stream-processes", "1", "--write-bytes-per-s", "20000000").ready()
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1) as ckpt:
        (port,) = started(daemon, ckpt, 1)
        pending = ckpt.save(2, STATE)
        eventually(lambda: has_caller(port), "the stream")
        (child,) = processes_of(daemon)
        for process in (child, daemon.process.pid):
            os.kill(process, signal.SIGTERM)
        assert pending.result(WAIT_S).step == 2
        assert daemon.wait() == 0


def test_with_tls_and_a_token_they_ask_for_both(serve, tmp_path):
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(tmp_path / "key"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    (tmp_path / "token").write_text("tr1cky-secret\n")
    identity = ("--tls-cert", str(tmp_path / "cert"), "--tls-key", str(tmp_path / "key"))
    daemon = serve(
        "--listen", "grpcs://127.0.0.1:0", "--token-file", str(tmp_path / "token"), "--stream-processes", "1", *identity
    ).ready()
    ca = authority.cert_pem.bytes()
    shown = {"token": "tr1cky-secret", "ca": ca}
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1, **shown) as ckpt:
        ckpt.save(1, STATE).result(WAIT_S)
        eventually(lambda: ports_of(daemon, **shown), "the process")
        (port,) = ports_of(daemon, **shown)
        ckpt.save(2, STATE).result(WAIT_S)
        assert has_caller(port)
        assert_restored(ckpt, 2)
    address = replace(addresses.parse(daemon.listening[0]), port=port)
    (child,) = processes_of(daemon)
    for shown_to_all in ("cmdline", "environ"):
        told = Path(f"/proc/{child}", shown_to_all).read_bytes()
        assert b"tr1cky" not in told
        assert b"PRIVATE KEY" not in told
    for credentials, said in (({"ca": ca}, "no token"), ({"ca": ca, "token": "wrong"}, "not the daemon's")):
        with open_channel(address, **credentials) as channel:
            assert said in refusal_at(channel)
    with open_channel(replace(address, secure=False)) as channel:
        assert "closes the connection" in refusal_at(channel)


def refusal_at(channel):
    import grpc

    opened = save_pb2.WriteRequest(open=save_pb2.WriteOpen())
    with pytest.raises(grpc.RpcError) as failed:
        list(methods.Stub(channel, methods.SAVE).Write(iter([opened]), timeout=WAIT_S))
    return str(status.from_wire(failed.value, address="there"))


def test_ports_may_be_chosen_and_one_that_is_taken_is_said_at_the_start(serve):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        one.listen()
        taken = serve("--stream-processes", "1", "--stream-port", str(port), root="other", name="taken")
        assert taken.wait() == 4
        assert f"port {port} for streams can't be had on 127.0.0.1" in taken.log.read_text()
        assert "--stream-port" in taken.log.read_text()
    daemon = serve("--stream-processes", "1", "--stream-port", str(port)).ready()
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1) as ckpt:
        assert started(daemon, ckpt, 1) == [port]


def test_more_ports_than_there_are_cannot_be_asked_for(serve):
    daemon = serve("--stream-processes", "3", "--stream-port", "65534")
    assert daemon.wait() == 2
    assert "not enough ports from --stream-port on" in daemon.log.read_text()


def test_status_names_their_ports(serve):
    from click.testing import CliRunner

    from ckptd.cli.status import command

    daemon = serve("--stream-processes", "1").ready()
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1) as ckpt:
        (port,) = started(daemon, ckpt, 1)
        shown = CliRunner().invoke(command, [daemon.listening[0]], catch_exceptions=False).stdout
    assert f"streams are taken at ports {port} as well" in shown


def test_a_rank_is_told_one_of_them_by_its_number(serve):
    daemon = serve("--stream-processes", "2").ready()
    with Checkpointer(daemon.listening[0], "runs/a", rank=0, world_size=1) as ckpt:
        ports = started(daemon, ckpt)
    ranks = [Worker(daemon.channel(), rank, 3, "runs/b").join() for rank in range(3)]
    declared = [rank.declare(1, {f"a{rank.rank}": (np.ones(4), (4,), (0,))}) for rank in ranks]
    told = [
        {lane.stream_port for lane in rank.assigned(call).lanes} for rank, call in zip(ranks, declared, strict=True)
    ]
    assert told == [{ports[0]}, {ports[1]}, {ports[0]}]
