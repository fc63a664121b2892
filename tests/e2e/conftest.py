from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from ckptd.demo.processes import Daemon, child_environment
from ckptd.wire import methods
from ckptd.wire.v1 import admin_pb2

IDLE_WITHIN_S = 60.0


@dataclass
class RunningDaemon:
    """A daemon process of its own: its address, its root, and the environment in which its clients run."""

    address: str
    root: Path
    environment: dict[str, str]
    process: Daemon

    def wait_until_idle(self) -> None:
        """Wait until no save is under way: what the dead had handed over whole is committed, the rest is undone."""
        bound = time.monotonic() + IDLE_WITHIN_S
        with grpc.insecure_channel(self.address.removeprefix("grpc://")) as channel:
            admin = methods.Stub(channel, methods.ADMIN)
            while any(run.saves for run in admin.Status(admin_pb2.StatusRequest(), timeout=IDLE_WITHIN_S).runs):
                assert time.monotonic() < bound, "a save of the dead is still under way"
                time.sleep(0.1)


@pytest.fixture
def daemon(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    process = Daemon(root, tmp_path / "daemon.log", tmp_path / "daemon.json")
    try:
        process.wait_until_ready()
        host, port = process.port()
        yield RunningDaemon(f"grpc://{host}:{port}", root, child_environment(), process)
    finally:
        code = process.stop()
    assert code == 0, (tmp_path / "daemon.log").read_text()
