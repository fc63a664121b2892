"""A daemon raises its limit of open files as far as it may, and says what is short when that is too little."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time

import numpy as np

from ckptd.cli import main
from ckptd.client.checkpointer import Checkpointer
from ckptd.demo.processes import Daemon
from ckptd.errors import UnavailableError
from ckptd.wire import addresses, methods
from ckptd.wire.channels import open_channel
from ckptd.wire.v1 import read_pb2
from tests import seams
from tests.fakes.raw_http2 import RawConnection
from tests.fakes.waiting import eventually

LAUNCHER = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
sys.argv = ["ckptd", *sys.argv[3:]]
from ckptd.cli.main import main
main()
"""


def served(tmp_path, soft, hard):
    serve = [sys.executable, "-c", LAUNCHER, str(soft), str(hard), "serve"]
    return Daemon(tmp_path / "root", tmp_path / "daemon.log", tmp_path / "daemon.json", serve=serve)


def test_the_limit_is_raised_to_what_the_system_allows(tmp_path):
    daemon = served(tmp_path, 200, 1000)
    try:
        daemon.wait_until_ready()
        limits = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        assert limits == (1000, 1000)
    finally:
        daemon.stop()
    assert "1000 open files are allowed" in (tmp_path / "daemon.log").read_text()


def test_a_rank_for_which_there_are_no_descriptors_hears_so_and_status_says_how_many_there_are(
    tmp_path, monkeypatch, capsys
):
    seams.DAEMON_FULL_WAIT_S.put(monkeypatch, 0.2)
    daemon = served(tmp_path, 120, 120)
    try:
        daemon.wait_until_ready()
        # Others take all but 25, which is fewer than are kept back for refusals; those of one host may hold 90.
        with contextlib.ExitStack() as others:
            host, port = daemon.port()
            while len(os.listdir(f"/proc/{daemon.pid}/fd")) < 95:
                channel = others.enter_context(open_channel(addresses.parse(f"{host}:{port}")))
                methods.Stub(channel, methods.READ).List(read_pb2.ListRequest(run="r"), timeout=120)
            with Checkpointer(f"{host}:{port}", run="r", rank=0, world_size=1, timeout_s=60.0) as checkpointer:
                failure = checkpointer.save(1, {"w": np.ones(3)}).exception(20.0)
            assert main.run(["status", f"{host}:{port}"]) == 0
            assert "of 120, of which each rank takes some" in capsys.readouterr().out
            assert main.run(["status", f"{host}:{port}", "--json"]) == 0
            told = json.loads(capsys.readouterr().out)
        assert 60 < told["open_files"] <= told["open_files_limit"] == 120
        assert isinstance(failure, UnavailableError)
        assert "no descriptors left for another rank (120 allowed)" in str(failure)
    finally:
        daemon.stop()


def test_silent_connections_take_no_descriptors_from_a_save(tmp_path):
    daemon = served(tmp_path, 200, 200)
    try:
        daemon.wait_until_ready()
        host, port = daemon.port()
        with contextlib.ExitStack() as flood:
            for _ in range(250):  # HTTP/2, and no call
                flood.enter_context(RawConnection(f"grpc://{host}:{port}"))
            began = time.monotonic()
            with Checkpointer(f"{host}:{port}", run="r", timeout_s=60.0) as checkpointer:
                for step in range(1, 4):
                    checkpointer.save(step, {"w": np.ones(3)}).result(60.0)
            assert time.monotonic() - began < 30.0  # it took 1.1 s; before, no connection was accepted for 35 s
            eventually(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) < 150, "the end of most connections")
    finally:
        daemon.stop()
    assert "connections from ipv4:127.0.0.1 were closed" in (tmp_path / "daemon.log").read_text()
